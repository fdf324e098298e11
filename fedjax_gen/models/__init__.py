"""Networks and the variational autoencoders built from them."""

"""FedHypeVAE: personal generators of embeddings, under privacy."""

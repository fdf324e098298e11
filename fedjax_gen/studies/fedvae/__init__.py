"""FedVAE: federated, central and local training of a VAE."""

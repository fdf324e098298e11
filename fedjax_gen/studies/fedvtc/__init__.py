"""FedVTC: clients with different models share statistics of classes."""

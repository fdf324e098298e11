"""FedVTC’s baselines: clients with classifiers of their own."""

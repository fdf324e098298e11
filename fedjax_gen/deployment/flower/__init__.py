"""Flower (flwr >= 1.42) as the transport; of it nothing is imported here."""

"""Empirical audits of differential privacy."""

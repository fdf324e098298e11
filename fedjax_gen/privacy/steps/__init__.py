"""Differentially private steps of gradient descent."""

"""Closed forms: Gaussians and the likelihoods of pixels."""

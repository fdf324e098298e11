"""Saved models: written, read, sampled from."""

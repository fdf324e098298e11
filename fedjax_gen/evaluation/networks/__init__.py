"""Classifiers and feature networks that judge examples."""

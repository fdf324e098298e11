"""Classifiers and extractors of features."""

"""Convolutions as products of matrices."""

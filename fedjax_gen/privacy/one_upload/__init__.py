"""Releases of one noised sum."""

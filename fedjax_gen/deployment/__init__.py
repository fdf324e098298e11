"""A federation between machines that do not trust each other."""

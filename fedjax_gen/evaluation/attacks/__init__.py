"""Attacks: what an adversary learns from what is shared."""

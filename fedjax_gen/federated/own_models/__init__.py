"""Clients that keep models of their own."""

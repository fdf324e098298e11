"""Hypernetworks: personal generators from codes."""

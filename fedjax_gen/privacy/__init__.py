"""Differential privacy: clip, add noise, sample, account, audit."""

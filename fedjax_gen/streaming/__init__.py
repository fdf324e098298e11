"""Rounds of a population on the host: only the cohort goes to the device."""

"""Rounds of populations that lie on the host, of which cohorts move."""

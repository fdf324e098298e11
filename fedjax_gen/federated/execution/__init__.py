"""How rounds run: cohorts, lanes, devices, memory."""

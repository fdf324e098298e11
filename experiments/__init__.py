"""Command-line programs: each assembles, runs and reports one system."""

"""Statistics by class and by client, as sums."""

"""The engine: clients, rounds and sums; it knows no model and no file."""

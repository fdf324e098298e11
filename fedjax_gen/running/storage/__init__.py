"""Work directories, checkpoints, files."""

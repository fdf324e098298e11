"""What surrounds training: work directory, checkpoints, loop and report."""

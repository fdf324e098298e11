"""Everything around training: work directory, checkpoints, loop and report."""

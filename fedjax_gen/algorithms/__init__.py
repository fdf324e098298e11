"""One paper, one file; these files never import each other."""

"""Pictures, from arrays to PNG."""

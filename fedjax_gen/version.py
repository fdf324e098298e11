"""The version, where packaging tools can read it without importing JAX."""

__version__ = '0.1.0'

"""Settings that every test shares; they must precede JAX's first use."""

import os

# Eight CPU devices in one process, so that meshes are tested everywhere; and
# little optimisation, because compiling is most of what tests do.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
)

import jax  # noqa: E402 (the flags above must come first)

# Adding arrays of different rank is a bug more often than a wish.
jax.config.update('jax_numpy_rank_promotion', 'raise')

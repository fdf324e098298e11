"""Compiler options for the program of a round."""

import functools

import jax

# Vectors as wide as the machine has them: by default LLVM takes half of
# AVX-512's, for which older processors lowered their clock. And what a loop
# carries is copied only if it is read after it was overwritten.
_CPU = {
  'xla_cpu_prefer_vector_width': 512,
  'xla_cpu_copy_insertion_use_region_analysis': True,
}


@functools.cache
def options(platform: str | None = None) -> dict[str, int | bool]:
  """Options for `jax.jit(..., compiler_options=...)`, of a round's program.

  They change speed, and last bits through the order in which vectors are
  summed. A flag in XLA_FLAGS that names one of them is overruled.

  Args:
    platform: what it is compiled for; JAX's default backend if None.

  Returns:
    Those that this version of XLA knows; none but on CPU.
  """
  if (platform or jax.default_backend()) != 'cpu':
    return {}
  return {name: value for name, value in _CPU.items() if _known(name, value)}


def _known(name: str, value: int | bool) -> bool:
  """Whether XLA has the option; versions come and go with theirs."""
  empty = jax.jit(lambda: 0, compiler_options={name: value})
  try:
    empty.lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True

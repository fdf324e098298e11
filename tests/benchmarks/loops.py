"""Products in loops of known and of unknown length."""

import jax
import jax.numpy as jnp

MATRICES = jnp.ones((4, 5)), jnp.ones((7, 5, 5))


def known(x, w, turns=3):
  """Seven matrices one after the other, all of it some turns."""

  def inner(x, matrix):
    return jnp.tanh(x @ matrix), ()

  def outer(_, x):
    return jax.lax.scan(inner, x, w)[0]

  return jax.lax.fori_loop(0, turns, outer, x)


def unknown(x, w):
  """Products until the numbers are large enough."""
  return jax.lax.while_loop(
    lambda x: x.sum() < 9, lambda x: jnp.tanh(x @ w[0]), x
  )

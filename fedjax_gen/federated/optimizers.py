"""Optimizers of the clients that are faster than optax's."""

import jax
import jax.numpy as jnp
import optax


def adam(
  learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
  """Adam with its bias corrections as two numbers of the step.

  Equal to `optax.adam` up to rounding, in steps and in the state that it keeps.
  optax divides every moment of every parameter by its correction; taken out of
  the loop, of three divisions one is left:

      step = learning_rate * sqrt(1 - b2^t) / (1 - b1^t)
      update = -step * mu / (sqrt(nu) + eps * sqrt(1 - b2^t))

  Kingma and Ba, "Adam: a method for stochastic optimization", 2015, the end of
  section 2, there with another eps.

  Args:
    learning_rate: of the updates.
    b1: decay of the mean of gradients.
    b2: decay of the mean of their squares.
    eps: added to the root of the latter, corrected.

  Returns:
    A transformation with the state of `optax.adam`.
  """
  like = optax.adam(learning_rate, b1, b2, eps)

  def update(gradients, state, params=None):
    del params
    moments, *rest = state
    count = optax.safe_increment(moments.count)
    mu = optax.tree.update_moment(gradients, moments.mu, b1, 1)
    nu = optax.tree.update_moment_per_elem_norm(gradients, moments.nu, b2, 2)
    root = jnp.sqrt(1 - b2**count)
    step = learning_rate * root / (1 - b1**count)
    updates = jax.tree.map(
      lambda mean, square: -step * mean / (jnp.sqrt(square) + eps * root),
      mu,
      nu,
    )
    return updates, (optax.ScaleByAdamState(count, mu, nu), *rest)

  return optax.GradientTransformation(like.init, update)

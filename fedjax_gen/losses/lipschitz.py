"""How fast a network may change with its input: three ways to hold it back.

For networks that read their weights and the input, and nothing else: none
of this looks at data, so none of it costs privacy. A layer `x @ kernel` of
kernel K grows distances by at most its largest singular value; a chain of such
layers and of activations that grow none (ReLU, tanh) by at most their product.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_gen.types import Array, Key, Tree


def largest_singular_value(kernel: Array) -> Array:
  """The spectral norm of a matrix `[A, B]`, exactly and without a state.

  The eigenvectors of the smaller Gram matrix give the pair u, v for which it is
  u^T K v; they are held constant, so that the gradient is u v^T, which it is
  where the value is attained once, and a subgradient elsewhere. Of a kernel of
  zeros, where an SVD has no derivative, both are zero.
  """
  wide = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
  fixed = jax.lax.stop_gradient(wide)
  gram = jnp.matmul(fixed, fixed.T, precision=jax.lax.Precision.HIGHEST)
  left = jnp.linalg.eigh(gram)[1][:, -1]
  right = jnp.matmul(left, fixed, precision=jax.lax.Precision.HIGHEST)
  length = jnp.linalg.norm(right)
  right = right / jnp.where(length > 0, length, 1.0)
  return jnp.einsum(
    'a,ab,b', left, wide, right, precision=jax.lax.Precision.HIGHEST
  )


def constrained(kernel: Array, target: float) -> Array:
  """The kernel, scaled down to a spectral norm of `target` where it exceeds it.

  Spectral normalisation (Miyato et al., 2018, arXiv 1802.05957) divides by the
  norm always; here a kernel below the target is left alone, so that a layer may
  begin at zero.

  Args:
    kernel: `[A, B]`.
    target: L > 0, the most that the layer may grow distances by.
  """
  return kernel / jnp.maximum(1.0, largest_singular_value(kernel) / target)


def constrained_kernels(variables: Tree, target: float) -> Tree:
  """`variables` with `constrained` applied to each leaf named `kernel`."""

  def rule(path, leaf):
    return constrained(leaf, target) if _is_kernel(path) else leaf

  return jax.tree_util.tree_map_with_path(rule, variables)


def kernel_penalty(variables: Tree, target: float) -> Array:
  """Sum over the leaves named `kernel` of max(0, spectral norm - target)^2."""
  excesses = [
    jnp.maximum(largest_singular_value(leaf) - target, 0.0) ** 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    if _is_kernel(path)
  ]
  return sum(excesses, start=jnp.zeros(()))


def jacobian_penalty(
  function: Callable[[Array], Tree], point: Array, key: Key
) -> Array:
  """An estimate of the squared Frobenius norm of a function's Jacobian.

  ||J^T u||^2 at one u ~ N(0, I), at the price of one backward pass: on average
  over keys it is the sum of the squares of all partial derivatives.

  Args:
    function: of an array, to any tree of arrays.
    point: where the Jacobian is taken.
    key: consumed.
  """
  outputs, pull_back = jax.vjp(function, point)
  leaves, structure = jax.tree.flatten(outputs)
  probes = [
    jax.random.normal(jax.random.fold_in(key, index), leaf.shape, leaf.dtype)
    for index, leaf in enumerate(leaves)
  ]
  [pulled] = pull_back(jax.tree.unflatten(structure, probes))
  return jnp.sum(pulled**2)


def _is_kernel(path: tuple) -> bool:
  return jax.tree_util.keystr(path[-1:], simple=True) == 'kernel'

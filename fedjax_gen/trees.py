"""Arithmetic on trees of arrays with a leading axis, clients or examples."""

import math

import jax
import jax.numpy as jnp

from fedjax_gen.types import Array, Tree


def add(left: Tree, right: Tree) -> Tree:
  """Leafwise sum."""
  return jax.tree.map(jnp.add, left, right)


def subtract(left: Tree, right: Tree) -> Tree:
  """Leafwise difference."""
  return jax.tree.map(jnp.subtract, left, right)


def zeros_like(tree: Tree) -> Tree:
  """Zeros in the shapes and dtypes of `tree` (arrays or their structs)."""
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def where(condition: Array, tree: Tree, other: Tree) -> Tree:
  """Leafwise `jnp.where`, `condition` broadcast over trailing axes."""

  def choose(leaf, other_leaf):
    shape = condition.shape + (1,) * (leaf.ndim - condition.ndim)
    return jnp.where(condition.reshape(shape), leaf, other_leaf)

  return jax.tree.map(choose, tree, other)


def take(tree: Tree, index: Array | int) -> Tree:
  """Rows `index` along the leading axis of every leaf."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def put(tree: Tree, index: Array, rows: Tree) -> Tree:
  """`tree` with `rows` written at `index`; its entries must be distinct."""
  return jax.tree.map(lambda leaf, row: leaf.at[index].set(row), tree, rows)


def weighted_sum(tree: Tree, weights: Array) -> Tree:
  """Sums rows times weights; rows of weight zero are ignored, NaN or not.

  Args:
    tree: leaves `[K, ...]`.
    weights: `[K]` floats.

  Returns:
    The tree without its leading axis. Whole numbers become floats, as their
    weighted sum is one.
  """

  def add_up(leaf):
    dtype = jnp.promote_types(leaf.dtype, weights.dtype)
    # Not in the reduced precision that some accelerators default to: these
    # sums are the models.
    return jnp.tensordot(
      weights.astype(dtype),
      leaf.astype(dtype),
      1,
      precision=jax.lax.Precision.HIGHEST,
    )

  kept = where(weights != 0, tree, zeros_like(tree))
  return jax.tree.map(add_up, kept)


def masked_mean(values: Array, mask: Array) -> Array:
  """Mean of `[B]` values over the examples that count; 0 if none does."""
  return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(mask.sum(), 1)


def num_bytes(tree: Tree) -> int:
  """Bytes of all leaves (arrays, or shapes as `jax.ShapeDtypeStruct`).

  Example:
    >>> num_bytes({'a': jnp.zeros((2, 3)), 'b': jnp.zeros(4, jnp.int8)})
    28
  """
  return sum(
    math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )


def first_differing_leaf(tree: Tree, other: Tree) -> str | None:
  """Path of the first leaf that differs in shape or dtype, or `None`."""
  ours = dict(jax.tree_util.tree_leaves_with_path(tree))
  theirs = dict(jax.tree_util.tree_leaves_with_path(other))
  for path in [*ours, *theirs]:
    left, right = ours.get(path), theirs.get(path)
    if (
      left is None
      or right is None
      or (left.shape, left.dtype) != (right.shape, right.dtype)
    ):
      return jax.tree_util.keystr(path)
  return None

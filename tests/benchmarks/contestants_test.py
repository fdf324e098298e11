"""The contestants in JAX do the same work, and it is work."""

import jax
import numpy as np
import pytest

from benchmarks.contestants import dense, naive_vmap, ours
from benchmarks.tasks import Task


def test_contestants_know_what_their_rounds_move():
  task = Task('mlp_vae', 2, 2, 8)
  moved = ours.build(task, 'one').costs()['bytes_moved']
  # More than must be; a loop counted once would be half of it, or less.
  assert task.bytes_needed < moved < 4 * task.bytes_needed


@pytest.mark.parametrize('option', ['one', 'all'])
def test_a_round_of_ours_descends(option):
  contestant = ours.build(Task('mlp_vae', 2, 2, 8), option)
  before = jax.tree.map(np.asarray, contestant._state.server.variables)
  contestant()
  after = contestant._state.server.variables
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), before, after)
  assert min(jax.tree.leaves(moved)) > 0


def test_the_others_in_jax_train_the_same_model():
  task = Task('conv_vae', 2, 2, 2)
  shapes = [
    sorted(leaf.shape for leaf in jax.tree.leaves(tree))
    for tree in (
      naive_vmap.build(task)._variables,
      dense.build(task)._variables,
      ours.build(task, 'one')._state.server.variables,
    )
  ]
  assert shapes[0] == shapes[1] == shapes[2]

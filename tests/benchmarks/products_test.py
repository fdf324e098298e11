"""Operations of matrix products, counted in traces."""

import jax
import pytest

from benchmarks import products
from tests.benchmarks.loops import MATRICES, known, unknown


def test_products_in_loops_count_for_every_turn():
  product = 2 * 4 * 5 * 5
  assert products.product_flops(known, *MATRICES) == 3 * 7 * product
  gradient = jax.grad(lambda *a: known(*a).sum(), argnums=(0, 1))
  assert products.product_flops(gradient, *MATRICES) == 3 * 3 * 7 * product

  def branches(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: known(x, w), lambda: x @ w[0])

  assert products.product_flops(branches, *MATRICES) == 3 * 7 * product


def test_products_in_a_loop_of_unknown_length_are_refused_unless_told():
  with pytest.raises(ValueError, match='while'):
    products.product_flops(unknown, *MATRICES)
  counted = products.product_flops(unknown, *MATRICES, unknown_turns=6)
  assert counted == 6 * 2 * 4 * 5 * 5

"""How the networks are trained that judge images."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.evaluation.networks import judges


def test_shifts_and_mirrors_make_the_images_they_say():
  image = jnp.arange(6 * 5 * 3, dtype=jnp.uint8).reshape(6, 5, 3)
  recipe = judges.Recipe(shift=1, flip=True)
  many = jnp.tile(image[None], (400, 1, 1, 1))
  made = np.asarray(judges._augment(recipe, many, jax.random.key(0)))
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), 'edge')
  expected = {
    padded[y : y + 6, x : x + 5][:, ::step].tobytes()
    for y in range(3)
    for x in range(3)
    for step in (1, -1)
  }
  assert {each.tobytes() for each in made} == expected
  assert made.dtype == np.uint8
  unchanged = judges._augment(judges.DEFAULT_RECIPE, many, jax.random.key(0))
  np.testing.assert_array_equal(unchanged, many)


def test_grey_images_are_not_mirrored_and_tiny_ones_not_moved():
  assert judges.judge_recipe((8, 8, 1)) == judges.DEFAULT_RECIPE
  assert judges.judge_recipe((28, 28, 1)) == judges.Recipe(shift=1)
  assert judges.judge_recipe((32, 32, 3)) == judges.Recipe(shift=2, flip=True)

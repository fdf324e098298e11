"""A small classifier, trained here in seconds to a minute.

It has two uses: its penultimate layer is the feature extractor for real and
generated images (`features`), and its accuracy on real images measures what
generated ones are good for (`utility`).
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import kinds, validate
from fedjax_gen.evaluation import checks
from fedjax_gen.models import layers


class Recipe(NamedTuple):
  """How a classifier is trained; a part of what its cache is keyed by."""

  num_steps: int = 1200
  """gradient steps, so that training sets of any size get equal work."""
  batch_size: int = 128
  """examples in a step, drawn with replacement."""
  learning_rate: float = 2e-3
  """of Adam at the start; a cosine takes it to zero."""
  shift: int = 0
  """pixels that each training image is moved at most, at random, each way."""
  flip: bool = False
  """whether training images are mirrored at random, left to right."""


DEFAULT_RECIPE = Recipe()


def judge_recipe(shape: tuple[int, ...]) -> Recipe:
  """The recipe of a network that judges generated examples of a shape.

  A few thousand photographs are learnt by heart in 1200 steps, so they are
  moved by up to a sixteenth of their side, and mirrored if they have colours:
  what is grey here are digits, letters, garments and scans, and those are not
  the same in a mirror.
  """
  if kinds.trunk_of(shape) != 'image':
    return DEFAULT_RECIPE
  height, width, channels = shape
  return Recipe(shift=min(height, width) // 16, flip=channels == 3)


class Network(nn.Module):
  """Two strided convolutions and two dense layers; 440k weights at 28 x 28."""

  num_classes: int
  num_features: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps uint8 images to `[n, num_classes]` logits and `[n, F]` features."""
    outputs = inputs.astype(jnp.float32) / 255.0
    outputs = nn.relu(layers.Conv(32)(outputs))
    outputs = nn.relu(layers.Conv(64)(outputs))
    outputs = outputs.reshape([len(outputs), -1])
    features = nn.relu(nn.Dense(self.num_features)(outputs))
    return nn.Dense(self.num_classes)(features), features


class SeriesNetwork(nn.Module):
  """As `Network`, with convolutions in time."""

  num_classes: int
  num_features: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps `[n, T, F]` to `[n, num_classes]` logits and features."""
    outputs = inputs[:, :, None]  # an image of width 1
    for channels in (32, 64):
      outputs = nn.relu(layers.Conv(channels, (8, 1), (2, 1))(outputs))
    # What is there matters, and little where: windows begin anywhere.
    outputs = jnp.concatenate(
      [outputs.mean(axis=(1, 2)), outputs.max(axis=(1, 2))], axis=-1
    )
    features = nn.relu(nn.Dense(self.num_features)(outputs))
    return nn.Dense(self.num_classes)(features), features


class RowNetwork(nn.Module):
  """Two dense layers, and that of the classes."""

  num_classes: int
  num_features: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps `[n, F]` to `[n, num_classes]` logits and features."""
    outputs = nn.relu(nn.Dense(128, name='first')(inputs))
    features = nn.relu(nn.Dense(self.num_features)(outputs))
    return nn.Dense(self.num_classes)(features), features


class Classifier(NamedTuple):
  """A trained network."""

  network: Any
  params: Any

  @property
  def head(self) -> np.ndarray:
    """`[F, num_classes]` weights of the last layer."""
    return self.params['params']['Dense_1']['kernel']

  def features(self, inputs: np.ndarray) -> np.ndarray:
    """Returns `[n, F]` penultimate features of uint8 images."""
    return self._outputs(inputs)[1]

  def probabilities(self, inputs: np.ndarray) -> np.ndarray:
    """Returns `[n, num_classes]` class probabilities of uint8 images."""
    return self._outputs(inputs)[0]

  def accuracy(self, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy: the share of images that get their label."""
    checks.labels(len(inputs), self.network.num_classes, labels=labels)
    return float(np.mean(self.probabilities(inputs).argmax(axis=1) == labels))

  def _outputs(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities and features, computed batch by batch."""
    checks.examples(inputs=inputs)
    predict = functools.partial(_predict, self.network, self.params)
    return map_batches(predict, inputs)


def train(
  inputs: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  seed: int = 0,
  recipe: Recipe = DEFAULT_RECIPE,
) -> Classifier:
  """Trains a classifier, in one jitted scan over the steps.

  Args:
    inputs: uint8 `[n, H, W, C]` images, or encoded series `[n, T, F]` or rows
      `[n, F]`.
    labels: `[n]` whole numbers below `num_classes`; classes may be missing.
    num_classes: size of the output.
    seed: of the initial parameters and the batches.
    recipe: steps, batch size and learning rate.

  Returns:
    the classifier; equal arguments give equal parameters on one machine.
  """
  checks.examples(inputs=inputs)
  validate.positive_int(num_classes=num_classes)
  validate.non_negative_int(seed=seed)
  checks.labels(len(inputs), num_classes, labels=labels)
  validate.positive_int(
    num_steps=recipe.num_steps, batch_size=recipe.batch_size
  )
  validate.positive(learning_rate=recipe.learning_rate)
  validate.non_negative_int(shift=recipe.shift)
  network = network_for(inputs.shape[1:], num_classes)
  params = _fit(
    network,
    recipe,
    jnp.asarray(inputs),
    jnp.asarray(labels, jnp.int32),
    jax.random.key(seed),
  )
  return Classifier(network, jax.device_get(params))


def network_for(shape: tuple[int, ...], num_classes: int) -> Any:
  """Returns the network for examples of a shape.

  Tiny images (up to 16 x 16) get 64 features, others 128: few enough that a
  covariance of them is well estimated from the examples there are.
  """
  trunk = kinds.trunk_of(shape)
  if trunk != 'image':
    network = SeriesNetwork if trunk == 'series' else RowNetwork
    return network(num_classes, 64)
  height, width, _ = shape
  return Network(num_classes, 64 if height * width <= 256 else 128)


def map_batches(
  function: Callable[[np.ndarray], Any],
  inputs: np.ndarray,
  batch_size: int = 500,
) -> Any:
  """Applies a function to slices of the examples and joins what it returns.

  Args:
    function: from `[batch_size, ...]` to a tree of arrays of as many rows.
      The last slice is filled up with repeats, so that a jitted function
      compiles once for any number of examples.
    inputs: `[n, ...]`, n > 0.
    batch_size: examples at a time.

  Returns:
    the function's tree with NumPy arrays of n rows.
  """
  filled = np.arange(-(-len(inputs) // batch_size) * batch_size) % len(inputs)
  outputs = [
    jax.device_get(function(inputs[rows]))
    for rows in filled.reshape([-1, batch_size])
  ]
  return jax.tree.map(
    lambda *parts: np.concatenate(parts)[: len(inputs)], *outputs
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit(network, recipe, images, labels, key):
  """Returns the parameters after `recipe.num_steps` steps of Adam."""
  init_key, batches_key = jax.random.split(key)
  augment = functools.partial(_augment, recipe)
  optimizer = optax.adam(
    optax.cosine_decay_schedule(recipe.learning_rate, recipe.num_steps)
  )

  def loss(params, index, key):
    logits, _ = network.apply(params, augment(images[index], key))
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels[index]
    ).mean()

  def step(carry, batch_key):
    params, optimizer_state = carry
    index = jax.random.randint(batch_key, [recipe.batch_size], 0, len(images))
    updates, optimizer_state = optimizer.update(
      jax.grad(loss)(params, index, batch_key), optimizer_state
    )
    return (optax.apply_updates(params, updates), optimizer_state), None

  params = network.init(init_key, images[:1])
  (params, _), _ = jax.lax.scan(
    step,
    (params, optimizer.init(params)),
    jax.random.split(batches_key, recipe.num_steps),
  )
  return params


def _augment(recipe, images, key):
  """Images moved and mirrored at random; edges are continued."""
  num = len(images)
  if recipe.shift:
    _, height, width, _ = images.shape
    size, shift_key = recipe.shift, jax.random.fold_in(key, 1)
    padded = jnp.pad(
      images, ((0, 0), (size, size), (size, size), (0, 0)), 'edge'
    )
    starts = jax.random.randint(shift_key, (num, 2), 0, 2 * size + 1)
    rows = starts[:, :1] + jnp.arange(height)[None]
    columns = starts[:, 1:] + jnp.arange(width)[None]
    images = jax.vmap(lambda p, r, c: p[r][:, c])(padded, rows, columns)
  if recipe.flip:
    mirrored = jax.random.bernoulli(jax.random.fold_in(key, 2), shape=(num,))
    images = jnp.where(
      mirrored[:, None, None, None], images[:, :, ::-1], images
    )
  return images


@functools.partial(jax.jit, static_argnums=0)
def _predict(network, params, inputs):
  """Returns class probabilities and features."""
  logits, features = network.apply(params, inputs)
  return jax.nn.softmax(logits), features

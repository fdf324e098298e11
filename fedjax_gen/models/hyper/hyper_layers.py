"""The networks of a hypernetwork and of the autoencoder it writes to.

A decoder is a stack of dense layers. Of a layer with kernel W `[c, r]` and bias
b `[r]` a client has its own version by `scale` d and `shift` s, both `[r]`:

    inputs @ (W diag(d)) + b + s = (inputs @ W) * d + b + s

so that a client's weights are never formed, and W is shared by all that compute
at once.
"""

from collections.abc import Sequence
import itertools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen.losses.gaussian import Gaussian, kept_in
from fedjax_gen.types import Array, Key, Tree

PRIOR_LOGVAR_RANGE = (-8.0, 8.0)
"""Generated log-variances are clipped to this range, standard deviations from
0.02 to 55."""


class Mlp(nn.Module):
  """Dense layers with an activation between them.

  Attributes:
    sizes: width of each layer; the last has no activation.
    activation: `'relu'` or `'tanh'`.
    last_init: initialiser of the last kernel.
  """

  sizes: Sequence[int]
  activation: str = 'relu'
  last_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[..., F]` to `[..., sizes[-1]]`."""
    activate = {'relu': nn.relu, 'tanh': nn.tanh}[self.activation]
    for size in self.sizes[:-1]:
      inputs = activate(nn.Dense(size)(inputs))
    return nn.Dense(self.sizes[-1], kernel_init=self.last_init)(inputs)


class PriorHead(nn.Module):
  """A code to a Gaussian over latents for each class, N(0, I) at first.

  The code goes through a network of its own, h, the label through a learned
  embedding e; both together through g; its last kernel begins at zero.

  Attributes:
    num_classes: C.
    latent_size: Z.
    hidden_size: width of g; h has half and a quarter of it, e a quarter.
  """

  num_classes: int
  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, code: Array) -> Gaussian:
    """Maps `[V]` to means and log-variances `[C, Z]`."""
    half, quarter = (max(1, self.hidden_size // n) for n in (2, 4))
    features = nn.tanh(Mlp((half, quarter), 'tanh', name='code')(code))
    embeddings = self.param(
      'labels', nn.initializers.normal(1.0), (self.num_classes, quarter)
    )
    features = jnp.broadcast_to(features, embeddings.shape)
    outputs = Mlp(
      (self.hidden_size, 2 * self.latent_size),
      'tanh',
      nn.initializers.zeros_init(),
      name='joint',
    )(jnp.concatenate([features, embeddings], axis=-1))
    mean, log_stddev = jnp.split(outputs, 2, axis=-1)
    return Gaussian(mean, kept_in(2 * log_stddev, *PRIOR_LOGVAR_RANGE))


def init_dense(key: Key, sizes: Sequence[int]) -> Tree:
  """Variables of dense layers from `sizes[0]` inputs on; see `Mlp`."""
  return Mlp(tuple(sizes[1:])).init(key, jnp.zeros((1, sizes[0])))


def layers_of(variables: Tree) -> tuple[dict, ...]:
  """`{'kernel', 'bias'}` of each layer of `Mlp` variables, in order."""
  params = variables['params']
  return tuple(params[f'Dense_{i}'] for i in range(len(params)))


def decode(layers: tuple[dict, ...], own: tuple[dict, ...], inputs: Array):
  """Applies dense layers with ReLU between them, in a client's version.

  Args:
    layers: `{'kernel': [c, r], 'bias': [r]}` of each.
    own: `{'scale': [r], 'shift': [r]}` of each; () leaves them as they are.
    inputs: `[B, c]` of the first.

  Returns:
    `[B, r]` of the last.
  """
  for index, layer in enumerate(layers):
    outputs = (nn.relu(inputs) if index else inputs) @ layer['kernel']
    if own:
      outputs = outputs * own[index]['scale'][None] + own[index]['shift'][None]
    inputs = outputs + layer['bias'][None]
  return inputs


def rows_from_flat(flat: Array, sizes: Sequence[int]) -> tuple[dict, ...]:
  """Scales and shifts of layers with `sizes` outputs, from one vector.

  Args:
    flat: `[2 * sum(sizes)]`, all scales less one, then all shifts.
    sizes: outputs r of each layer.
  """
  offsets = list(itertools.accumulate(sizes))[:-1]
  scales, shifts = (
    jnp.split(half, offsets) for half in jnp.split(flat, 2, axis=-1)
  )
  return tuple(
    {'scale': 1 + scale, 'shift': shift}
    for scale, shift in zip(scales, shifts, strict=True)
  )


def layers_from_flat(flat: Array, sizes: Sequence[int]) -> tuple[dict, ...]:
  """Kernels and biases of dense layers from one vector.

  Args:
    flat: `[P]`, the layers in order, of each the kernel by rows, then the bias.
    sizes: inputs of the first layer, then outputs of each.
  """
  layers, start = [], 0
  for shape in itertools.pairwise(sizes):
    middle, stop = start + math.prod(shape), start + _num_weights(shape)
    layers.append(
      {'kernel': flat[start:middle].reshape(shape), 'bias': flat[middle:stop]}
    )
    start = stop
  return tuple(layers)


def flat_from_layers(layers: tuple[dict, ...]) -> Array:
  """The inverse of `layers_from_flat`."""
  parts: list[Tree] = []
  for layer in layers:
    parts += [layer['kernel'].ravel(), layer['bias']]
  return jnp.concatenate(parts)


def num_weights(sizes: Sequence[int]) -> int:
  """P, the number of weights of dense layers; `sizes` as above."""
  return sum(map(_num_weights, itertools.pairwise(sizes)))


def joined(inputs: Array, labels: Array, num_classes: int) -> Array:
  """`[B, F]` and labels `[B]` as `[B, F + C]`, one-hot."""
  return jnp.concatenate(
    [inputs, jax.nn.one_hot(labels, num_classes, dtype=inputs.dtype)], axis=-1
  )


def _num_weights(shape: tuple[int, int]) -> int:
  return (shape[0] + 1) * shape[1]

"""EfficientNet-Lite0, a frozen network of photographs, for their features.

Tan and Le, "EfficientNet: Rethinking model scaling for convolutional neural
networks", ICML 2019, in the form for small devices that its authors published
in 2020: without squeeze-and-excitation, with relu6 for swish, and with stem and
head at their full width whatever the scale. 4.7 million weights.

It is for inference: batch normalisation is folded into the convolution before
it, as a scale of the kernel and a bias. Depthwise convolutions are sums over
shifted images (`layers.depthwise_conv`); on CPU `lax` convolutions in groups
take six times as long.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flax import linen as nn, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models import layers
from fedjax_gen.types import Variables

NUM_FEATURES = 1280
NUM_CLASSES = 1000  # of ImageNet

_EPSILON = 1e-3  # added to variances
# The "inception style" of the original's builder for Lite networks. The other
# EfficientNets have the means and deviations of ImageNet's channels.
_MEAN, _STDDEV = 127.0, 128.0


class _Stage(NamedTuple):
  """Blocks of one width; the first has the stride, and changes the width."""

  repeats: int
  window: int
  stride: int
  expansion: int
  width: int


_STAGES = (
  _Stage(1, 3, 1, 1, 16),
  _Stage(2, 3, 2, 6, 24),
  _Stage(2, 5, 2, 6, 40),
  _Stage(3, 3, 2, 6, 80),
  _Stage(3, 5, 1, 6, 112),
  _Stage(4, 5, 2, 6, 192),
  _Stage(1, 3, 1, 6, 320),
)
_STEM_WIDTH = 32


class InvertedResidual(nn.Module):
  """A wider image, filtered channel by channel, and narrowed again (MBConv).

  Attributes:
    window: height and width of the filters.
    stride: of the filters.
    expansion: how many times as wide; 1 leaves that convolution out.
    width: channels of the output.
  """

  window: int
  stride: int
  expansion: int
  width: int

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps `[B, H, W, I]` to `[B, H', W', width]`."""
    hidden, channels = inputs, inputs.shape[-1]
    wide = channels * self.expansion
    if self.expansion > 1:
      hidden = _relu6(nn.Dense(wide, name='expand')(hidden))
    filters = layers.DepthwiseConv(
      (self.window, self.window), (self.stride, self.stride), name='depthwise'
    )
    bias = self.param('depthwise_bias', nn.initializers.zeros_init(), (wide,))
    hidden = _relu6(filters(hidden) + bias[None, None, None])
    outputs = nn.Dense(self.width, name='project')(hidden)
    is_residual = self.stride == 1 and channels == self.width
    return inputs + outputs if is_residual else outputs


class EfficientNetLite0(nn.Module):
  """The network."""

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps images to logits and features.

    Args:
      images: `[B, H, W, 3]` as `preprocessed` gives them. Any H and W; it was
        trained on 224 x 224.

    Returns:
      `[B, 1000]` logits of ImageNet's classes and `[B, 1280]` features, the
      means over all places of the head's activations, in [0, 6].
    """
    stem = layers.Conv(_STEM_WIDTH, (3, 3), (2, 2), name='stem')
    hidden = _relu6(stem(images))
    for number, (stage, stride) in enumerate(_blocks()):
      block = InvertedResidual(
        stage.window,
        stride,
        stage.expansion,
        stage.width,
        name=f'block_{number}',
      )
      hidden = block(hidden)
    hidden = _relu6(nn.Dense(NUM_FEATURES, name='head')(hidden))
    features = hidden.mean(axis=(1, 2))
    return nn.Dense(NUM_CLASSES, name='classifier')(features), features


def preprocessed(images: jax.Array, size: int) -> jax.Array:
  """Brings images to what the network was trained on.

  Args:
    images: `[B, H, W, C]`, values 0 to 255; grey ones (C = 1) are repeated.
    size: height and width to resize to, bilinear, averaging where images become
      smaller. Images that are not square are stretched.

  Returns:
    `[B, size, size, 3]` float32 in [-1, 1].
  """
  images = images.astype(jnp.float32)
  shape = (len(images), size, size, images.shape[-1])
  resized = jax.image.resize(images, shape, 'bilinear')
  return jnp.broadcast_to((resized - _MEAN) / _STDDEV, (*shape[:3], 3))


def variables_from_torch(
  arrays: Mapping[str, np.ndarray], what: str
) -> Variables:
  """Makes variables of the weights of PyTorch's `efficientnet-lite-pytorch`.

  Args:
    arrays: weights by their names there.
    what: where they come from, for messages.

  Returns:
    the variables of `EfficientNetLite0`, batch normalisation folded.

  Raises:
    InputError: a weight is missing or has another shape.
  """
  taken = _Taken(arrays, what)
  params: dict[str, Any] = {
    'stem': taken.normalised('_conv_stem', '_bn0', (2, 3, 1, 0))
  }
  for number, (stage, _) in enumerate(_blocks()):
    name = f'_blocks.{number}.'
    depthwise = taken.normalised(
      f'{name}_depthwise_conv', f'{name}_bn1', (1, 2, 3, 0)
    )
    block = {
      'depthwise': {'kernel': depthwise['kernel'][0]},
      'depthwise_bias': depthwise['bias'],
      'project': taken.pointwise(f'{name}_project_conv', f'{name}_bn2'),
    }
    if stage.expansion > 1:
      block['expand'] = taken.pointwise(f'{name}_expand_conv', f'{name}_bn0')
    params[f'block_{number}'] = block
  params['head'] = taken.pointwise('_conv_head', '_bn1')
  params['classifier'] = {
    'kernel': taken('_fc.weight', 2).T,
    'bias': taken('_fc.bias', 1),
  }
  found = traverse_util.flatten_dict({'params': params}, sep='/')
  example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  wanted = traverse_util.flatten_dict(
    jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), example),
    sep='/',
  )
  for name, value in wanted.items():
    if found[name].shape != value.shape:
      raise InputError(
        f'{what}: expected weights of EfficientNet-Lite0, got shape '
        f'{list(found[name].shape)} in place of {list(value.shape)} for {name}.'
      )
  return {'params': params}


def _blocks() -> Iterator[tuple[_Stage, int]]:
  """Yields a stage and a stride for each block."""
  for stage in _STAGES:
    for repeat in range(stage.repeats):
      yield stage, stage.stride if repeat == 0 else 1


def _relu6(inputs: jax.Array) -> jax.Array:
  return jnp.clip(inputs, 0, 6)


class _Taken:
  """Takes weights by name, and says which one is missing."""

  def __init__(self, arrays: Mapping[str, np.ndarray], what: str):
    self._arrays, self._what = arrays, what

  def __call__(self, name: str, ndim: int) -> np.ndarray:
    if name not in self._arrays:
      raise InputError(
        f'{self._what}: expected weights of EfficientNet-Lite0, got none named '
        f'{name}.'
      )
    array = np.asarray(self._arrays[name], np.float32)
    if array.ndim != ndim:
      raise InputError(
        f'{self._what}: expected {ndim} axes in {name}, got shape '
        f'{list(array.shape)}.'
      )
    return array

  def normalised(
    self, conv: str, norm: str, axes: tuple[int, int, int, int]
  ) -> dict[str, np.ndarray]:
    """A convolution, its axes permuted, and the normalisation after it."""
    kernel = self(f'{conv}.weight', 4).transpose(axes)
    gain, shift, mean, variance = (
      self(f'{norm}.{name}', 1)
      for name in ('weight', 'bias', 'running_mean', 'running_var')
    )
    if {len(v) for v in (gain, shift, mean, variance)} != {kernel.shape[-1]}:
      raise InputError(
        f'{self._what}: expected {kernel.shape[-1]} channels in {norm}, as in '
        f'{conv}, got {len(gain)}.'
      )
    scale = gain / np.sqrt(variance + _EPSILON)
    return {'kernel': kernel * scale, 'bias': shift - mean * scale}

  def pointwise(self, conv: str, norm: str) -> dict[str, np.ndarray]:
    """The same of a 1 x 1 convolution, as a dense layer."""
    layer = self.normalised(conv, norm, (2, 3, 1, 0))
    return {'kernel': layer['kernel'][0, 0], 'bias': layer['bias']}

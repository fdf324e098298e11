"""Feature extractors of classifiers, by name: the zoo of client models.

A module maps images `[B, H, W, C]` to vectors `[B, D]`, each with a D of its
own; `classifiers` brings them to one size. To add an architecture: a module
here (none may keep batch statistics) and a row of `EXTRACTORS`, a function
from `(width, image shape)`. `width` multiplies every number of channels, so
that one zoo serves a laptop and an accelerator; at 1 they have the sizes of
their sources.
"""

from collections.abc import Callable, Sequence
import math

from flax import linen as nn
import jax.numpy as jnp

from fedjax_gen.models import layers, networks
from fedjax_gen.types import Array


class Cnn(nn.Module):
  """Two 5 x 5 convolutions, each with a 2 x 2 maximum, and dense layers.

  Convolutions are not padded, as in the sources, unless the image is too small
  (below 16 pixels) to be cut twice.
  """

  channels: Sequence[int]
  hidden_sizes: Sequence[int]

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, D]`."""
    padding = 'VALID' if min(images.shape[1:3]) >= 16 else 'SAME'
    hidden = images
    for features in self.channels:
      hidden = layers.Conv(features, (5, 5), (1, 1), padding)(hidden)
      hidden = layers.max_pool(nn.relu(hidden))
    hidden = hidden.reshape(len(hidden), -1)
    for size in self.hidden_sizes:
      hidden = nn.relu(nn.Dense(size)(hidden))
    return hidden


class Mlp(nn.Module):
  """Dense layers on the pixels."""

  hidden_sizes: Sequence[int]

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps `[B, ...]` to `[B, D]`."""
    hidden = images.reshape(len(images), -1)
    for size in self.hidden_sizes:
      hidden = nn.relu(nn.Dense(size)(hidden))
    return hidden


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut (He et al., 2016).

  GroupNorm in place of BatchNorm: clients would have to keep or to share the
  statistics of the latter.
  """

  features: int
  stride: int

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""

    def conv(values, window, stride):
      values = layers.Conv(
        self.features, (window,) * 2, (stride,) * 2, use_bias=False
      )(values)
      return networks.Norm('group')(values, None)

    hidden = nn.relu(conv(inputs, 3, self.stride))
    hidden = conv(hidden, 3, 1)
    if inputs.shape != hidden.shape:
      inputs = conv(inputs, 1, self.stride)
    return nn.relu(hidden + inputs)


class ResNet(nn.Module):
  """Residual blocks in stages, the channels doubled and the image halved.

  The stem is one 3 x 3 convolution: images are small.

  Attributes:
    blocks: blocks of each stage; `(1,)` to `(2, 2, 2, 2)`.
    channels: of the first stage.
  """

  blocks: Sequence[int]
  channels: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, channels * 2^(stages - 1)]`."""
    hidden = layers.Conv(self.channels, (3, 3), (1, 1), use_bias=False)(images)
    hidden = nn.relu(networks.Norm('group')(hidden, None))
    for stage, number in enumerate(self.blocks):
      for block in range(number):
        stride = 2 if stage and not block else 1
        hidden = BasicBlock(self.channels * 2**stage, stride)(hidden)
    return hidden.mean(axis=(1, 2))


class InvertedBlock(nn.Module):
  """Expand, filter each channel, project (MobileNetV2, Sandler et al., 2018).

  Attributes:
    features: output channels.
    stride: of the filter.
    expansion: inner channels over input channels.
  """

  features: int
  stride: int
  expansion: int = 6

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""

    def norm(values):
      return networks.Norm('group')(values, None)

    inner = self.expansion * inputs.shape[-1]
    hidden = nn.relu6(norm(nn.Dense(inner, use_bias=False)(inputs)))
    hidden = layers.DepthwiseConv(strides=(self.stride,) * 2)(hidden)
    hidden = nn.relu6(norm(hidden))
    hidden = norm(nn.Dense(self.features, use_bias=False)(hidden))
    return hidden + inputs if hidden.shape == inputs.shape else hidden


class MobileNet(nn.Module):
  """A MobileNetV2 of four stages for small images.

  Attributes:
    channels: of the stem and of each stage; a stage after the first halves the
      image in its first block.
    blocks: of each stage.
    last: channels of the last pointwise layer, D.
  """

  channels: Sequence[int]
  blocks: Sequence[int]
  last: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, last]`."""
    stem, *stages = self.channels
    hidden = layers.Conv(stem, (3, 3), (1, 1), use_bias=False)(images)
    hidden = nn.relu6(networks.Norm('group')(hidden, None))
    for stage, (features, number) in enumerate(
      zip(stages, self.blocks, strict=True)
    ):
      for block in range(number):
        stride = 2 if stage and not block else 1
        hidden = InvertedBlock(features, stride)(hidden)
    hidden = networks.Norm('group')(
      nn.Dense(self.last, use_bias=False)(hidden), None
    )
    return nn.relu6(hidden).mean(axis=(1, 2))


class TransformerBlock(nn.Module):
  """Attention and a wider dense layer, each normalised before."""

  num_heads: int

  @nn.compact
  def __call__(self, tokens: Array, _: None) -> tuple[Array, None]:
    """Maps `[B, T, D]` to the same; second values are for `nn.scan`."""
    normed = nn.LayerNorm()(tokens)
    # By the name of a class that Flax gives up: keys and files go by names.
    attention = nn.MultiHeadDotProductAttention(
      self.num_heads, name='SelfAttention_0'
    )
    tokens = tokens + attention(normed)
    hidden = nn.Dense(4 * tokens.shape[-1])(nn.LayerNorm()(tokens))
    return tokens + nn.Dense(tokens.shape[-1])(nn.gelu(hidden)), None


class VisionTransformer(nn.Module):
  """Patches as tokens (Dosovitskiy et al., 2021), averaged at the end.

  Attributes:
    size: of a token, D.
    depth: blocks; one program for all of them.
    num_heads: of the attention.
    patch_size: height and width of a patch.
  """

  size: int
  depth: int
  num_heads: int
  patch_size: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, size]`."""
    patch = (self.patch_size,) * 2
    tokens = layers.Conv(self.size, patch, patch)(images)
    tokens = tokens.reshape(len(tokens), -1, self.size)
    positions = self.param(
      'positions', nn.initializers.normal(0.02), tokens.shape[1:]
    )
    # A block keeps its inputs and is computed again on the way back: all that
    # the scan would write and read again takes longer than that, and is most
    # of the memory. A loop needs no barrier against undoing it.
    blocks = nn.scan(
      nn.remat(TransformerBlock, prevent_cse=False),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )
    tokens, _ = blocks(self.num_heads, name='ScanTransformerBlock_0')(
      tokens + positions[None], None
    )
    return nn.LayerNorm()(tokens).mean(axis=1)


def _wide(channels: int, width: float) -> int:
  """Channels at a width, in steps of four."""
  return max(4, 4 * round(channels * width / 4))


def _cnn(*channels: int, hidden: Sequence[int]):
  def build(width: float, image_shape: Sequence[int]) -> nn.Module:
    del image_shape
    return Cnn(
      tuple(_wide(size, width) for size in channels),
      tuple(_wide(size, width) for size in hidden),
    )

  return build


def _resnet(*blocks: int):
  def build(width: float, image_shape: Sequence[int]) -> nn.Module:
    del image_shape
    return ResNet(blocks, _wide(64, width))

  return build


def _mlp(width: float, image_shape: Sequence[int]) -> nn.Module:
  del image_shape
  return Mlp((_wide(512, width), _wide(512, width)))


def _mobilenet(width: float, image_shape: Sequence[int]) -> nn.Module:
  del image_shape
  channels = tuple(_wide(size, width) for size in (32, 24, 32, 64, 96))
  return MobileNet(channels, (1, 2, 2, 1), _wide(1280, width))


def _vit_tiny(width: float, image_shape: Sequence[int]) -> nn.Module:
  # ViT-Ti: 192 wide, 12 deep, 3 heads. Some 8 x 8 patches at any size.
  heads = 3
  patch = max(math.gcd(*image_shape[:2]) // 8, 2)
  return VisionTransformer(heads * _wide(64, width), 12, heads, patch)


EXTRACTORS: dict[str, Callable[[float, Sequence[int]], nn.Module]] = {
  # The five of FedGH (Yi et al., 2023) for its 500 features, and the four-layer
  # one of FedAvg's and FedTGP's comparisons.
  'cnn1': _cnn(16, 32, hidden=(2000, 500)),
  'cnn2': _cnn(16, 16, hidden=(2000, 500)),
  'cnn3': _cnn(16, 32, hidden=(1000, 500)),
  'cnn4': _cnn(16, 32, hidden=(800, 500)),
  'cnn5': _cnn(16, 32, hidden=(500, 500)),
  'cnn': _cnn(32, 64, hidden=(512,)),
  # Sizes of one backbone, as in HtFLlib's comparisons.
  'resnet4': _resnet(1),
  'resnet6': _resnet(1, 1),
  'resnet8': _resnet(1, 1, 1),
  'resnet10': _resnet(1, 1, 1, 1),
  'resnet18': _resnet(2, 2, 2, 2),
  'mobilenet': _mobilenet,
  'vit_tiny': _vit_tiny,
  'mlp': _mlp,
}
"""`(width, image shape) -> module`, by the name of the architecture."""


def pooled(size: int, wanted: int) -> Array:
  """`[size, wanted]` matrix of adaptive average pooling of a vector.

  Output i is the mean of inputs `floor(i size / wanted)` to
  `ceil((i + 1) size / wanted)`, as in PyTorch's `AdaptiveAvgPool1d`, by which
  HtFLlib brings features of any size to one. It repeats where it must widen.
  """
  ends = -(-(jnp.arange(wanted) + 1) * size // wanted)
  starts = jnp.arange(wanted) * size // wanted
  rows = jnp.arange(size)[:, None]
  member = (rows >= starts[None]) & (rows < ends[None])
  return member / (ends - starts)[None]

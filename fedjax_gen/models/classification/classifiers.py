"""Classifiers in two parts: an extractor of features, and a head.

f_k = h_k after g_k: client k's extractor g_k maps images to F features,
whatever its architecture, and its head h_k maps those to logits. That all
features have one size is what lets clients with different models share
statistics of them, or heads.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.models.classification import extractors
from fedjax_gen.models.classification.extractors import EXTRACTORS
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.types import Array, Key, Variables

PROJECTIONS = ('pool', 'dense')


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(fields.Configuration):
  """The clients' classifiers."""

  architectures: tuple[str, ...] = fields.option(
    ('cnn5', 'resnet6', 'mlp'),
    'Architectures of the clients in turn: client i has the i-th, modulo '
    'their number. '
    f'Any of {", ".join(EXTRACTORS)}',
  )
  feature_size: int = fields.positive_int(
    512, 'F (p of the papers), features of every client’s model'
  )
  width: float = fields.positive(
    1.0, 'Multiplies channels and hidden sizes of all models'
  )
  projection: str = fields.option(
    'pool',
    'How features of a model come to feature_size: by averages of '
    'neighbours (HtFLlib), or by a layer that is trained',
    choices=PROJECTIONS,
  )

  def __post_init__(self):
    super().__post_init__()
    if not self.architectures:
      raise InputError('Expected architectures, one at least, got none.')
    for name in self.architectures:
      validate.one_of(EXTRACTORS, architectures=name)


class Classifier(NamedTuple):
  """A classifier as pure functions.

  Attributes:
    init: `key -> {'extractor': ..., 'head': ...}`.
    features: `(variables, inputs) -> [B, F]`, g_k; inputs are uint8 images, or
      floats in [-1, 1] as a generator makes them.
    logits: `(head, features) -> [B, C]`, h_k, of `variables['head']`.
    name: of the architecture.
    feature_size: F.
    num_classes: C.
  """

  init: Callable[[Key], Variables]
  features: Callable[[Variables, Array], Array]
  logits: Callable[[Variables, Array], Array]
  name: str
  feature_size: int
  num_classes: int

  def __call__(self, variables: Variables, inputs: Array) -> Array:
    """Logits `[B, C]` of inputs, f_k."""
    return self.logits(variables['head'], self.features(variables, inputs))


def build_classifiers(
  config: ClassifierConfig, spec: DataSpec
) -> tuple[Classifier, ...]:
  """One classifier for each architecture of the configuration, in its order.

  Raises:
    InputError: the data are no images, or without two classes.
  """
  if not spec.is_image:
    raise InputError(
      f'Expected images of shape (H, W, C), got data of shape {spec.shape}.'
    )
  if spec.num_classes < 2:
    raise InputError(
      f'Expected labels of two classes at least, got {spec.num_classes}.'
    )
  return tuple(_build(name, config, spec) for name in config.architectures)


def head_logits(head: Variables, features: Array) -> Array:
  """`[..., F]` features times the head's matrix, plus its bias, `[..., C]`."""
  return features @ head['kernel'] + head['bias'][(None,) * (features.ndim - 1)]


def init_head(key: Key, feature_size: int, num_classes: int) -> Variables:
  """A head of its own: `{'kernel': [F, C], 'bias': [C]}`."""
  kernel = nn.linear.default_kernel_init(key, (feature_size, num_classes))
  return {'kernel': kernel, 'bias': jnp.zeros(num_classes)}


def to_signed(inputs: Array) -> Array:
  """Images as models see them: uint8 becomes floats in [-1, 1]."""
  if inputs.dtype == jnp.uint8:
    return inputs.astype(jnp.float32) / 127.5 - 1.0
  return inputs


def to_pixels(images: Array) -> Array:
  """The inverse of `to_signed`: [-1, 1] becomes uint8."""
  scaled = jnp.round((jnp.clip(images, -1, 1) + 1.0) * 127.5)
  return scaled.astype(jnp.uint8)


class _Extractor(nn.Module):
  """An architecture with its features brought to one size."""

  network: nn.Module
  feature_size: int
  projection: str

  @nn.compact
  def __call__(self, images: Array) -> Array:
    hidden = self.network(images)
    if self.projection == 'dense':
      return nn.Dense(self.feature_size)(hidden)
    if hidden.shape[-1] == self.feature_size:
      return hidden
    return hidden @ extractors.pooled(hidden.shape[-1], self.feature_size)


@functools.cache  # equal models are one value, so that one program serves
def _build(name: str, config: ClassifierConfig, spec: DataSpec) -> Classifier:
  module = _Extractor(
    EXTRACTORS[name](config.width, spec.shape),
    config.feature_size,
    config.projection,
  )

  def init(key):
    extractor_key, head_key = jax.random.split(key)
    empty = jnp.zeros((1, *spec.shape))
    return {
      'extractor': module.init(extractor_key, empty)['params'],
      'head': init_head(head_key, config.feature_size, spec.num_classes),
    }

  def features(variables, inputs):
    return module.apply({'params': variables['extractor']}, to_signed(inputs))

  return Classifier(
    init, features, head_logits, name, config.feature_size, spec.num_classes
  )

"""A conditional VAE for embeddings; a code gives its decoder and prior.

FedHypeVAE: Gupta, Jangid, Sethi, "FedHypeVAE: Federated learning with
hypernetwork-generated conditional VAEs for differentially private embedding
sharing", PMLR 317, 2026, arXiv 2601.00785.

Published: a client has an encoder and a code of its own, which never leave it.
A shared hypernetwork makes of the code the client's decoder, by scaling the
rows of shared base weights and shifting their biases (eq. 3), and a Gaussian
prior over the latents for each class (eq. 4). It is kept from changing fast
with the code, "by spectral norm or Jacobian control" (eq. 5), and codes are
kept in a ball.

Ours, the paper being silent: all sizes (by default widths, and the embedding of
labels, follow `hyper_size`); tanh in the heads, smooth and never steeper than
1, and alive at a code of zero; last kernels that begin at zero, so that at
first every client's decoder is the base decoder and the prior N(0, I); the
radius of the ball; a likelihood N(x_hat, s^2 I) of fixed s; and the ablations,
`head` and `prior`.

Nothing here depends on a batch: of a batch of records, each row is what it
would be alone. Models see embeddings as `normalised` leaves them.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from fedjax_gen import validate
from fedjax_gen.losses import gaussian, lipschitz
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.models.hyper import hyper_config, hyper_layers
from fedjax_gen.models.hyper.hyper_config import NORMALISATIONS, HyperVaeConfig
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.types import Array, Key, Tree

__all__ = [
  'HyperVae',
  'HyperVaeConfig',
  'Personal',
  'build_hyper_vae',
  'generate',
  'generate_one',
  'in_ball',
  'normalised',
  'sample_latents',
]

_MODULES = ('base', 'decoder_head', 'prior_head')


class Personal(NamedTuple):
  """What a code makes: a client's decoder and prior.

  Attributes:
    decoder: by layer `{'scale': [r], 'shift': [r]}` of head=row_scaled, or
      `{'kernel': [c, r], 'bias': [r]}` of head=full; () of head=constant.
    prior: p(z | y), `[C, Z]`.
  """

  decoder: Tree
  prior: Gaussian


class HyperVae(NamedTuple):
  """Encoder, and the hypernetwork of decoder and prior, for one client.

  `hyper` is what all share: `'base'`, the layers of the decoder (not of
  head=full, where the decoder at first is the last bias of the head),
  `'decoder_head'` (not of head=constant) and `'prior_head'` (not of
  prior=standard), each Flax variables. `own` is a client's: `'encoder'` and,
  if anything depends on it, `'code'` `[V]`. A model is hashable: it may be a
  static argument.

  Attributes:
    init: `key -> hyper`.
    init_client: `key -> own`.
    personalise: `(hyper, code) -> Personal`; a code that nothing depends on
      may be None.
    infer: `(encoder, inputs [B, F], labels [B]) -> q(z | x, y) [B, Z]`.
    decode: `(hyper, personal, latents [B, Z], labels [B]) -> x_hat [B, F]`.
    project: `own -> own`, the code brought back into the ball.
    regulariser: `(hyper, own, key) -> scalar`, the penalty on the heads at this
      code; it sees no data, and is zero of lipschitz=none and spectral_norm.
    config: what was asked for.
    spec: of the data.
  """

  init: Callable[[Key], dict[str, Any]]
  init_client: Callable[[Key], dict[str, Any]]
  personalise: Callable[[dict[str, Any], Array | None], Personal]
  infer: Callable[[dict[str, Any], Array, Array], Gaussian]
  decode: Callable[[dict[str, Any], Personal, Array, Array], Array]
  project: Callable[[dict[str, Any]], dict[str, Any]]
  regulariser: Callable[[dict[str, Any], dict[str, Any], Key], Array]
  config: HyperVaeConfig
  spec: DataSpec


def build_hyper_vae(config: HyperVaeConfig, spec: DataSpec) -> HyperVae:
  """The model that a configuration asks for."""
  hyper_config.check(config, spec)
  config = dataclasses.replace(config, hidden_sizes=tuple(config.hidden_sizes))
  hidden = config.hidden_sizes
  # Of the decoder: inputs of the first layer, then outputs of each.
  sizes = (config.latent_size + spec.num_classes, *hidden, *spec.shape)
  built = _Built(
    config,
    spec,
    sizes,
    encoder=hyper_layers.Mlp((*hidden, 2 * config.latent_size)),
    heads=_heads(config, spec, sizes),
  )
  return HyperVae(
    built.init,
    built.init_client,
    built.personalise,
    built.infer,
    built.decode,
    built.project,
    built.regulariser,
    config,
    spec,
  )


class _Built(NamedTuple):
  """The functions of a `HyperVae`.

  Attributes:
    config, spec: as `build_hyper_vae` takes them.
    sizes: of the decoder: inputs of the first layer, then outputs of each.
    encoder: a client's.
    heads: the networks that read the code, by module.
  """

  config: HyperVaeConfig
  spec: DataSpec
  sizes: tuple[int, ...]
  encoder: nn.Module
  heads: dict[str, nn.Module]

  def init(self, key):
    # By module and not in order: an ablation begins with the same decoder.
    keys = dict(zip(_MODULES, jax.random.split(key, 3), strict=True))
    hyper: dict[str, Any] = {
      name: head.init(keys[name], jnp.zeros(self.config.code_size))
      for name, head in self.heads.items()
    }
    base = hyper_layers.init_dense(keys['base'], self.sizes)
    if self.config.head == 'full':
      last = hyper['decoder_head']['params']['Dense_1']
      last['bias'] = hyper_layers.flat_from_layers(hyper_layers.layers_of(base))
    else:
      hyper['base'] = base
    return hyper

  def init_client(self, key):
    encoder_key, code_key = jax.random.split(key)
    inputs = jnp.zeros((1, self.spec.shape[0] + self.spec.num_classes))
    own: dict[str, Any] = {'encoder': self.encoder.init(encoder_key, inputs)}
    if self.config.uses_code:
      own['code'] = jax.random.normal(code_key, (self.config.code_size,))
    return self.project(own)

  def personalise(self, hyper, code=None):
    """Eqs. 3 and 4."""
    config = self.config
    decoder: Tree = ()
    if config.head != 'constant':
      flat = self._apply_head(hyper, 'decoder_head', code)
      decoder = (
        hyper_layers.rows_from_flat(flat, self.sizes[1:])
        if config.head == 'row_scaled'
        else hyper_layers.layers_from_flat(flat, self.sizes)
      )
    if config.prior == 'standard':
      shape = (self.spec.num_classes, config.latent_size)
      return Personal(decoder, gaussian.standard(shape))
    return Personal(decoder, self._apply_head(hyper, 'prior_head', code))

  def infer(self, variables, inputs, labels):
    outputs: Any = self.encoder.apply(
      variables, hyper_layers.joined(inputs, labels, self.spec.num_classes)
    )
    return gaussian.clipped(*jnp.split(outputs, 2, axis=-1))

  def decode(self, hyper, personal, latents, labels):
    inputs = hyper_layers.joined(latents, labels, self.spec.num_classes)
    if self.config.head == 'full':
      return hyper_layers.decode(personal.decoder, (), inputs)
    layers = hyper_layers.layers_of(hyper['base'])
    return hyper_layers.decode(layers, personal.decoder, inputs)

  def project(self, own):
    if 'code' not in own:
      return own
    radius = self.config.code_radius * math.sqrt(self.config.code_size)
    return {**own, 'code': in_ball(own['code'], radius)}

  def regulariser(self, hyper, own, key):
    """R_Lip of eq. 5."""
    config = self.config
    if config.lipschitz == 'spectral_penalty':
      variables = {name: hyper[name] for name in self.heads}
      return lipschitz.kernel_penalty(variables, config.lipschitz_target)
    if config.lipschitz == 'jacobian' and config.uses_code:
      return lipschitz.jacobian_penalty(
        functools.partial(self.personalise, hyper), own['code'], key
      )
    return jnp.zeros(())

  def _apply_head(self, hyper, name, code):
    variables = hyper[name]
    if self.config.lipschitz == 'spectral_norm':
      variables = lipschitz.constrained_kernels(
        variables, self.config.lipschitz_target
      )
    return self.heads[name].apply(variables, code)


def sample_latents(personal: Personal, labels: Array, key: Key) -> Array:
  """Draws `[B, Z]` of p(z | y): mu_y + sigma_y * epsilon.

  Args:
    personal: of the client with this prior.
    labels: `[B]`.
    key: consumed.
  """
  return gaussian.sample(
    key, jax.tree.map(lambda leaf: leaf[labels], personal.prior)
  )


def generate(
  model: HyperVae,
  hyper: dict[str, Any],
  personal: Personal,
  labels: Array,
  key: Key,
  *,
  draw: bool = False,
) -> Array:
  """Embeddings from a client's prior and decoder.

  Args:
    model: the model.
    hyper: what all share.
    personal: the client's decoder and prior, of `model.personalise`.
    labels: `[n]` class of each embedding.
    key: consumed. Embedding i depends on the key and i alone.
    draw: draws of the likelihood, in place of its means.

  Returns:
    `[n, F]`.
  """
  return _generate(model, draw, hyper, personal, jnp.asarray(labels), key)


def generate_one(
  model: HyperVae,
  hyper: dict[str, Any],
  personal: Personal,
  label: Array,
  key: Key,
  *,
  draw: bool = False,
) -> Array:
  """One embedding `[F]`; arguments as of `generate`, with a single label."""
  latents = sample_latents(personal, label[None], key)
  [mean] = model.decode(hyper, personal, latents, label[None])
  if not draw:
    return mean
  # The key itself drew the latents.
  noise = jax.random.normal(jax.random.fold_in(key, 1), mean.shape, mean.dtype)
  return mean + model.config.likelihood_stddev * noise


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(model, draw, hyper, personal, labels, key):
  def one(example):
    label, index = example
    example_key = jax.random.fold_in(key, index)
    return generate_one(model, hyper, personal, label, example_key, draw=draw)

  index = jnp.arange(labels.shape[0])
  return jax.lax.map(one, (labels, index), batch_size=500)


def normalised(inputs: Array, normalise: str) -> Array:
  """Embeddings, each normalised by itself; others make no difference.

  Args:
    inputs: `[..., F]`.
    normalise: `'none'`; `'standardise'`, `(x - mean(x)) / std(x)`; or
      `'sphere'`, `sqrt(F) x / |x|`. Either way the expected squared distance of
      two independent embeddings is about 2 F. What has no direction becomes
      zeros.
  """
  validate.one_of(NORMALISATIONS, normalise=normalise)
  if normalise == 'none':
    return inputs
  if normalise == 'standardise':
    inputs = inputs - inputs.mean(axis=-1, keepdims=True)
  # The root mean square is the standard deviation of what has mean zero.
  scale = jnp.sqrt(jnp.mean(inputs**2, axis=-1, keepdims=True))
  return inputs / jnp.where(scale > 0, scale, 1.0)


def in_ball(code: Array, radius: float) -> Array:
  """The point of the ball around zero that is nearest to a code `[V]`."""
  # The maximum is inside, for a root has no derivative at a code of zero.
  length = jnp.sqrt(jnp.maximum(jnp.sum(code**2), radius**2))
  return code * (radius / length)


def _heads(
  config: HyperVaeConfig, spec: DataSpec, sizes: tuple[int, ...]
) -> dict[str, nn.Module]:
  """The networks that read the code, by module."""
  heads: dict[str, nn.Module] = {}
  if config.head != 'constant':
    outputs = (
      2 * sum(sizes[1:])
      if config.head == 'row_scaled'
      else hyper_layers.num_weights(sizes)
    )
    heads['decoder_head'] = hyper_layers.Mlp(
      (config.hyper_size, outputs), 'tanh', nn.initializers.zeros_init()
    )
  if config.prior == 'generated':
    heads['prior_head'] = hyper_layers.PriorHead(
      spec.num_classes, config.latent_size, config.hyper_size
    )
  return heads

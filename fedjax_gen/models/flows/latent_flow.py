"""A rectified flow over the latents of an autoencoder, trained in two phases.

The prior of a VAE is not what its encoder makes of the data: draws from N(0, I)
fall into holes between. A second model of the latents fills them (Dai and Wipf,
"Diagnosing and enhancing VAE models", ICLR 2019; Rombach et al.,
"High-resolution image synthesis with latent diffusion models", CVPR 2022), and
the weight of the KL term may be small, so that reconstructions are sharp.

In the first phase the autoencoder descends -E log p(x | z) + beta KL(q || p),
and a Gaussian for each latent, module `'scale'`, its likelihood, so that later
latents have mean 0 and variance 1, without statistics that would have to be
averaged or made private by other means. In the second phase a flow descends
`flow.errors` over draws z ~ q(z | x) so scaled; the autoencoder is a constant.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import fields, trees
from fedjax_gen.errors import InputError
from fedjax_gen.losses import gaussian
from fedjax_gen.losses.gaussian import Gaussian
from fedjax_gen.models import elbo
from fedjax_gen.models.flows import flow as flow_lib
from fedjax_gen.models.flows.flow import Flow, FlowConfig
from fedjax_gen.models.generator import Family, Generator
from fedjax_gen.models.vae import (
  DataSpec,
  Vae,
  VaeConfig,
  build_vae,
  to_unit,
)
from fedjax_gen.types import Array, LossFn, Phase, Variables

# Adam moves a parameter by its learning rate; the scale has far to go.
_SPEED = 10.0


@dataclasses.dataclass(frozen=True)
class LatentFlowConfig(fields.Configuration):
  """A flow over latents of a VAE."""

  autoencoder_rounds: int = fields.positive_int(
    10, 'Rounds in which the autoencoder is trained; the flow is in the others'
  )
  autoencoder_beta: float = fields.non_negative(
    0.05, 'weight of the KL term of the autoencoder'
  )


class LatentFlow(NamedTuple):
  """An autoencoder and a flow over its latents.

  Variables are those of the VAE, `'scale'` and `'velocity'`.

  Attributes:
    vae: the autoencoder.
    flow: over `[Z]` latents of mean 0 and variance 1.
  """

  vae: Vae
  flow: Flow


def build_latent_flow(
  config: VaeConfig, flow_config: FlowConfig, spec: DataSpec
) -> LatentFlow:
  """The model that configurations ask for.

  Args:
    config: of the autoencoder, with one level of latents.
    flow_config: of the flow; `auto` is mlp.
    spec: of the data.

  Raises:
    InputError: a field is out of range or does not fit.
  """
  if config.hierarchy != 'none':
    raise InputError(
      'Expected hierarchy=none for a flow over latents, got '
      f'hierarchy={config.hierarchy!r}.'
    )
  vae = build_vae(config, spec)
  size = spec.num_classes if flow_config.flow_conditional else 0
  flow = flow_lib.build_flow(flow_config, (config.latent_size,), size)
  return LatentFlow(vae, flow)


def of_latent_flow(
  model: LatentFlow, config: LatentFlowConfig, spec: DataSpec
) -> Generator:
  """A flow over latents as a generator.

  Args:
    model: made for the data.
    config: of the phases.
    spec: of the data.
  """
  vae, flow = model
  condition_of = flow_lib.labels_of(
    flow.config.flow_conditional, spec.num_classes
  )

  def init(key):
    vae_key, flow_key = jax.random.split(key)
    zeros = jnp.zeros(vae.latent_sizes['z'])
    scale = {'params': {'mean': zeros, 'logvar': zeros}}
    return vae.init(vae_key) | {'scale': scale} | flow.init(flow_key)

  def latent_errors(variables, inputs, labels, key):
    latent_key, flow_key = jax.random.split(key)
    inferred, _ = vae.infer(variables, to_unit(inputs), labels, latent_key)
    latents = _standardised(variables, inferred.latents['z'])
    return flow_lib.errors(
      flow, variables, latents, condition_of(labels), flow_key
    )

  def flow_loss(variables, batch, key):
    found = latent_errors(variables, batch.inputs, batch.labels, key)
    error = trees.masked_mean(found, batch.mask)
    return error, (variables, {'flow_error': error})

  @functools.partial(jax.jit, static_argnums=0)
  def draw(options, variables, labels, key):
    steps, solver, guidance = options

    def make(label, key):
      start = jax.random.normal(key, (1, *flow.shape))
      ends = flow_lib.solve(
        flow, variables, start, condition_of(label),
        steps=steps, solver=solver, guidance=guidance,
      )  # fmt: skip
      latents = {'z': _original(variables, ends)}
      return elbo.generated(vae, variables, latents, label, key)

    return flow_lib.generate(make, labels, key)

  def sample(variables, labels, key, **options):
    chosen = flow_lib.sampling_options(flow.config, **options)
    return np.asarray(draw(chosen, variables, jnp.asarray(labels), key))

  @jax.jit
  def measured(variables, inputs, labels, key):
    def measure(data, label, key):
      outputs, _ = vae.decode(
        variables,
        vae.infer(variables, to_unit(data), label, key)[0].latents,
        label,
      )
      nats = -vae.likelihood.log_prob(outputs, to_unit(data))
      return jnp.stack(
        [nats, latent_errors(variables, data, label, key)], axis=-1
      )

    return flow_lib.held_out_mean(measure, inputs, labels, key, batch_size=100)

  def bounds(variables, inputs, labels, key, importance_samples=0):
    del importance_samples  # there is no bound on the likelihood
    reconstruction, error = measured(variables, inputs, labels, key)
    return {
      'test_reconstruction': float(reconstruction),
      'test_flow_error': float(error),
    }

  autoencoder = ('encoder', 'decoder', 'scale')
  return Generator(
    init=init,
    loss=(
      Phase(
        _autoencoder_loss(vae, config.autoencoder_beta),
        autoencoder,
        config.autoencoder_rounds,
      ),
      Phase(flow_loss, ('velocity',)),
    ),
    sample=sample,
    conditional=flow.config.flow_conditional or vae.conditional,
    bounds=bounds,
    reconstruct=lambda variables, inputs, labels: elbo.reconstruct(
      vae, variables, jnp.asarray(inputs), jnp.asarray(labels)
    ),
    options=flow_lib.OPTIONS,
    model=model,
  )


def _autoencoder_loss(vae: Vae, beta: float) -> LossFn:
  """The first phase: the ELBO with a weighted KL term, and the scale's loss."""

  def loss_fn(variables, batch, key):
    data = to_unit(batch.inputs)
    inferred, encoder = vae.infer(
      variables, data, batch.labels, key, batch.mask
    )
    outputs, decoder = vae.decode(
      variables, inferred.latents, batch.labels, batch.mask
    )
    latents = jax.lax.stop_gradient(inferred.latents['z'])
    scale = _scale(variables, latents.shape)
    reconstruction, kl, unlikely = (
      trees.masked_mean(term, batch.mask)
      for term in (
        -vae.likelihood.log_prob(outputs, data),
        inferred.kl['z'],
        -gaussian.log_prob(scale, latents),
      )
    )
    refreshed = variables | {'encoder': encoder, 'decoder': decoder}
    metrics = {'reconstruction': reconstruction, 'kl': kl}
    # Of what moves the scale alone nothing is to be seen in the loss.
    silent = unlikely - jax.lax.stop_gradient(unlikely)
    return reconstruction + beta * kl + silent, (refreshed, metrics)

  return loss_fn


def _scale(variables: Variables, shape: tuple[int, ...]) -> Gaussian:
  """The Gaussian that the latents are scaled by."""
  params = variables['scale']['params']
  return gaussian.clipped(
    *(
      jnp.broadcast_to(_SPEED * params[name], shape)
      for name in ('mean', 'logvar')
    )
  )


def _standardised(variables: Variables, latents: Array) -> Array:
  """Latents of the encoder as the flow sees them."""
  scale = _scale(variables, latents.shape)
  return (latents - scale.mean) * jnp.exp(-scale.logvar / 2)


def _original(variables: Variables, latents: Array) -> Array:
  """The inverse of `_standardised`."""
  scale = _scale(variables, latents.shape)
  return scale.mean + latents * jnp.exp(scale.logvar / 2)


def _build(
  config: LatentFlowConfig,
  vae_config: VaeConfig,
  flow_config: FlowConfig,
  spec: DataSpec,
) -> Generator:
  model = build_latent_flow(vae_config, flow_config, spec)
  return of_latent_flow(model, config, spec)


FAMILY = Family(
  (LatentFlowConfig, VaeConfig, FlowConfig),
  (),
  _build,
  'rectified flow over the latents of an autoencoder',
)

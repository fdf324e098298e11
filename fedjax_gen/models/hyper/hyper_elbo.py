"""What a record costs under a client's own decoder and prior.

FedHypeVAE's eqs. 1, 5 and 6 (Gupta, Jangid, Sethi, PMLR 317, 2026), of one
record: a loss that reads one record has gradients that can be clipped one by
one.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.losses import gaussian, mmd
from fedjax_gen.models.hyper.hypernetwork import (
  HyperVae,
  Personal,
  sample_latents,
)
from fedjax_gen.types import Array, Key, Metrics


class Weights(NamedTuple):
  """Of the terms of `record_loss`.

  Attributes:
    beta: of the KL term.
    mmd: lambda_MMD, nats; 0 leaves the term out.
    mmd_samples: S, examples generated for the MMD of a record, 2 at least.
    mmd_conditional: whether they are of the record's class; of all classes
      alike otherwise, as eq. 6 does not name classes.
  """

  beta: float = 1.0
  mmd: float = 0.0
  mmd_samples: int = 8
  mmd_conditional: bool = True


def record_loss(
  model: HyperVae,
  weights: Weights,
  hyper: dict[str, Any],
  personal: Personal,
  encoder: dict[str, Any],
  inputs: Array,
  label: Array,
  key: Key,
) -> tuple[Array, Metrics]:
  """-log p(x | z, y) + beta KL(q(z | x, y) || p(z | y)) + lambda_MMD l(x).

  The last term is `mmd.record_term` with examples generated from the prior by
  randomness that knows no data: its mean over records has the gradient of eq.
  6 as a U-statistic, so that the MMD may be clipped by record.

  Args:
    model: the networks.
    weights: of the terms.
    hyper: its base weights of the decoder are read.
    personal: the client's decoder and prior.
    encoder: the client's.
    inputs: `[F]`, one record.
    label: its class.
    key: consumed.

  Returns:
    The loss in nats, and its terms.
  """
  latent_key, label_key, draw_key = jax.random.split(key, 3)
  batch, labels = inputs[None], label[None]
  posterior = model.infer(encoder, batch, labels)
  latents = gaussian.sample(latent_key, posterior)
  means = model.decode(hyper, personal, latents, labels)
  variance = model.config.likelihood_stddev**2
  reconstruction = jnp.sum((batch - means) ** 2) / (2 * variance)
  reconstruction += inputs.size * math.log(2 * math.pi * variance) / 2
  prior = jax.tree.map(lambda values: values[labels], personal.prior)
  kl = gaussian.kl(posterior, prior)[0]
  loss = reconstruction + weights.beta * kl
  metrics = {'reconstruction': reconstruction, 'kl': kl}
  if weights.mmd:
    size = (weights.mmd_samples,)
    if weights.mmd_conditional:
      drawn = jnp.broadcast_to(label, size)
    else:
      drawn = jax.random.randint(label_key, size, 0, model.spec.num_classes)
    generated = model.decode(
      hyper, personal, sample_latents(personal, drawn, draw_key), drawn
    )
    metrics['mmd'] = mmd.record_term(inputs, generated)
    loss = loss + weights.mmd * metrics['mmd']
  return loss, {'loss': loss, **metrics}

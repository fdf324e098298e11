"""Generators that start from samples of class Gaussians. Ours.

Noise on hundreds of gradients drowns what one noised sum can say of all classes
(`privacy.one_upload.gaussian_release`). Here the sum is released first, the
hypernetwork and an encoder are trained on samples of its Gaussians, without a
look at data, and private training of FedHypeVAE or DP-CVAE goes on from there
with what is left of the budget.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields
from fedjax_gen.data.federated import Batch
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.models.hyper.hypernetwork import HyperVae
from fedjax_gen.privacy.clipping import RecordLossFn
from fedjax_gen.privacy.steps import descent
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.types import Key, Tree


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(fields.Configuration):
  """How generators named -pretrained are trained on samples of Gaussians."""

  pretrain_steps: int = fields.positive_int(
    1500, 'steps of Adam on samples of the Gaussians, which spend no privacy'
  )
  pretrain_batch_size: int = fields.positive_int(128, 'samples of a step')
  pretrain_learning_rate: float = fields.positive(2e-3, 'of the Adam')


class Start(NamedTuple):
  """What server and clients begin with.

  Attributes:
    hyper: what all share.
    encoder: of every client; codes are their own.
    losses: `[steps]` before each step.
  """

  hyper: Tree
  encoder: Tree
  losses: Tree


def pretrained(
  config: PretrainingConfig,
  loss_fn: RecordLossFn,
  model: HyperVae,
  gaussians: CorrelatedGaussians,
  key: Key,
) -> Start:
  """Trains hypernetwork and encoder on samples of known classes.

  With codes drawn as clients draw theirs.

  Guarantees:
    Released: nothing more; post-processing of the Gaussians.

  Args:
    config: steps, batch, learning rate.
    loss_fn: of a record, as in private training; variables are `Parts` of the
      hypernetwork, and encoder and code.
    model: the networks.
    gaussians: that were released. If no class is known, all are sampled.
    key: consumed.
  """
  gaussians = jax.tree.map(jnp.asarray, gaussians)
  return _pretrained(config, loss_fn, model, gaussians, key)


def started_from(algorithm: Algorithm, start: Start) -> Algorithm:
  """An algorithm of `fedhypevae.fedhypevae` that begins with a start.

  Args:
    algorithm: with a `LearnedServer`, and clients that keep `KeptParts`.
    start: of the same model.
  """
  server, [client] = algorithm

  def init_server(key):
    return server.init(key)._replace(variables=start.hyper)

  def init_client(key, info):
    kept = client.init(key, info)
    return kept._replace(own={**kept.own, 'encoder': start.encoder})

  return Algorithm(
    server._replace(init=init_server), (client._replace(init=init_client),)
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pretrained(config, loss_fn, model, gaussians, key):
  optimizer = optax.adam(
    optax.cosine_decay_schedule(
      config.pretrain_learning_rate, config.pretrain_steps
    )
  )
  num = config.pretrain_batch_size
  known = gaussians.known | ~gaussians.known.any()

  def with_code(variables, record, key):
    code_key, key = jax.random.split(key)
    own: dict[str, Any] = {'encoder': variables['own']}
    code = model.init_client(code_key).get('code')
    if code is not None:
      own['code'] = code
    return loss_fn(Parts(shared=variables['shared'], own=own), record, key)

  def step(carry, key):
    variables, state = carry
    label_key, normal_key, loss_key = jax.random.split(key, 3)
    labels = jax.random.categorical(
      label_key, jnp.where(known, 0.0, -jnp.inf), shape=(num,)
    )
    normals = jax.random.normal(normal_key, (num, *model.spec.shape))
    batch = Batch(
      jax.vmap(gaussians.of_class)(labels, normals),
      labels,
      jnp.ones(num, bool),
    )
    gradient, metrics = descent.batch_gradient(
      with_code, variables, batch, loss_key
    )
    updates, state = optimizer.update(gradient, state, variables)
    return (optax.apply_updates(variables, updates), state), metrics['loss']

  init_key, run_key = jax.random.split(key)
  shared_key, own_key = jax.random.split(init_key)
  encoder = model.init_client(own_key)['encoder']
  variables = Parts(shared=model.init(shared_key), own=encoder)
  keys = jax.random.split(run_key, config.pretrain_steps)
  (variables, _), losses = jax.lax.scan(
    step, (variables, optimizer.init(variables)), keys
  )
  return Start(variables['shared'], variables['own'], losses)

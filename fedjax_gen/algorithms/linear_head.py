"""A linear classifier of embeddings, averaged over clients: FedAvg, FedProx.

What sharing synthetic embeddings is compared with: sharing a classifier
instead (McMahan et al., 2017; Li et al., 2020). FedLambda of the FedHypeVAE
paper's table is FedAvg's classifier interpolated with each client's own
(kNN-Per of Marfoq et al., 2022, without neighbours): nothing more is trained
together, so that it needs no algorithm here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields
from fedjax_gen.federated import averaging
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import averaged
from fedjax_gen.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class LinearConfig(fields.Configuration):
  """The averaged linear classifiers that are compared (FedAvg, FedProx)."""

  linear_rounds: int = fields.positive_int(20, 'their communication rounds')
  linear_epochs: float = fields.positive(1.0, 'passes of a client in a round')
  linear_learning_rate: float = fields.positive(1e-2, 'of the clients’ Adam')
  linear_proximal: float = fields.non_negative(0.1, 'FedProx: mu')

  def training(self, batch_size: int, *, proximal: bool) -> averaging.Config:
    """How clients train; FedProx or FedAvg."""
    return averaging.Config(
      local_epochs=self.linear_epochs,
      batch_size=batch_size,
      learning_rate=self.linear_learning_rate,
      proximal=self.linear_proximal if proximal else 0.0,
    )


def init(spec: DataSpec) -> Tree:
  """Zeros: `kernel` `[F, C]` and `bias` `[C]`."""
  shape = (*spec.shape, spec.num_classes)
  return {'kernel': jnp.zeros(shape), 'bias': jnp.zeros(spec.num_classes)}


def linear_head(
  config: averaging.Config, spec: DataSpec, plan: Plan | None = None
) -> Algorithm:
  """One classifier averaged over clients.

  Guarantees:
    Those of `privacy.steps.averaged.averaged`.

  Args:
    config: how clients train; with `proximal` it is FedProx.
    spec: of the embeddings.
    plan: of differential privacy, if there is to be any.
  """

  def first(key: Key) -> Tree:
    del key  # zeros
    return init(spec)

  return averaged.averaged(config, first, _loss, plan)


def _loss(variables, batch, key):
  """Mean cross-entropy, nats."""
  del key  # nothing is random
  logits = batch.inputs @ variables['kernel'] + variables['bias'][None]
  losses: Array = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch.labels
  )
  size = jnp.maximum(batch.mask.sum(), 1)
  correct = logits.argmax(axis=-1) == batch.labels
  loss, accuracy = jax.tree.map(
    lambda values: jnp.sum(jnp.where(batch.mask, values, 0.0)) / size,
    (losses, correct.astype(jnp.float32)),
  )
  return loss, (variables, {'accuracy': accuracy})

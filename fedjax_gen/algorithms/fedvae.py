"""FedVAE: one variational autoencoder, averaged over clients.

Hugo Dugdale, "Federated Learning with Variational Autoencoders", ICLR 2023
Tiny Papers track; code: https://github.com/hugo-dugdale/federated_VAE.

Published: every client trains a copy of the VAE on its own images and the
server averages the copies, weighted by number of images (FedAvg, McMahan et
al., 2017), batch-normalisation statistics included. The published schedule is
4 clients with 15,000 MNIST images each, 15 rounds of 6 local epochs, Adam
1e-3, batches of 128; Adam's moments stay with the client between rounds, as
the published code has it. Preset `paper_mnist` is that schedule.

Ours: client sampling and dropouts, server optimizers, FedProx, the class label
as condition, GroupNorm by default, likelihoods other than Bernoulli, and the
two models a federated one is compared with, trained by the same engine; and
differential privacy, of records (DP-SGD, Abadi et al., 2016) or of clients
(McMahan et al., 2018).
"""

import dataclasses

import jax
import numpy as np

from fedjax_gen import fields
from fedjax_gen.federated import averaging
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import Vae
from fedjax_gen.privacy import descent, noise
from fedjax_gen.privacy.plan import Plan


@dataclasses.dataclass(frozen=True)
class Config(averaging.Config):
  """How clients and server train."""

  beta: float = fields.option(1.0, 'weight of the KL term')


def fedvae(config: Config, vae: Vae, plan: Plan | None = None) -> Algorithm:
  """One VAE averaged over clients.

  With one client that holds all data, and fedavg, it is central training.

  Guarantees:
    With a plan of records those of `descent.trainer`, of what every client
    sends; with one of clients those of `noise.private_server`, all clients
    counting alike. Without a plan, none.

  Raises:
    InputError: a field of the configuration is out of range, or the model
      keeps batch statistics and there is a plan.
  """
  loss_fn = elbo_loss(vae, config.beta)
  if plan is None:
    return averaging.averaged(config, vae.init, loss_fn)
  descent.refuse_statistics(jax.eval_shape(vae.init, jax.random.key(0)))
  if plan.unit == 'record':
    training = descent.trainer(config, plan)
    return averaging.averaged(config, vae.init, loss_fn, training=training)
  algorithm = averaging.averaged(config, vae.init, loss_fn)
  return noise.with_private_server(algorithm, plan)


def central(
  config: Config, vae: Vae, sizes: np.ndarray, *, epochs: float = 0.0
) -> Algorithm:
  """Plain training on all data, which a federated model is compared with.

  FedVAE with one client that holds everything (`FederatedDataset.merged`).

  Args:
    config: of the federated training; its server's and FedProx's fields are
      not used.
    vae: the model.
    sizes: `[N]` examples of each client of the federation.
    epochs: passes a round over all data; 0 as `averaging.pooled` says.
  """
  return fedvae(averaging.pooled(config, sizes, epochs=epochs), vae)


def local_only(config: Config, vae: Vae) -> Algorithm:
  """Every client trains a VAE of its own; nothing is ever sent."""
  return averaging.alone(config, vae.init, elbo_loss(vae, config.beta))

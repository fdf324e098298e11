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

import numpy as np

from fedjax_gen.federated import averaging
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.elbo import ElboConfig, elbo_loss
from fedjax_gen.models.vae import Vae
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import averaged


@dataclasses.dataclass(frozen=True)
class Config(ElboConfig, averaging.Config):
  """How clients and server train."""


def fedvae(config: Config, vae: Vae, plan: Plan | None = None) -> Algorithm:
  """One VAE averaged over clients.

  With one client that holds all data, and fedavg, it is central training.

  Guarantees:
    Those of `privacy.steps.averaged.averaged`.

  Raises:
    InputError: a field of the configuration is out of range, or the model
      keeps batch statistics and there is a plan.
  """
  loss_fn = elbo_loss(vae, config.beta)
  return averaged.averaged(config, vae.init, loss_fn, plan)


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

"""A generator of any family, averaged over clients, and what it is compared to.

FedAvg (McMahan et al., "Communication-efficient learning of deep networks from
decentralized data", 2017, Algorithm 1) of a `Generator`. FedVAE (`fedvae.py`)
and FedGAN (`fedgan.py`) are published cases of it. Of federated rectified flows
none is known to us; plain averaging, with an average of the server's model over
rounds (`server_average`), is the baseline that a better one has to beat.
"""

import numpy as np
import optax

from fedjax_gen.federated import averaging, optimizers
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.generator import Generator
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import averaged


def federated(
  config: averaging.Config, generator: Generator, plan: Plan | None = None
) -> Algorithm:
  """One generator averaged over clients.

  With one client that holds all data, and fedavg, it is central training.

  Guarantees:
    Those of `privacy.steps.averaged.averaged`.

  Args:
    config: how clients and server train. A generator with an optimizer of its
      own does not use its learning rate.
    generator: the model.
    plan: of differential privacy, if there is to be any.

  Raises:
    InputError: a field of the configuration is out of range, or the model
      keeps batch statistics and there is a plan.
  """
  return averaged.averaged(
    config, generator.init, generator.loss, plan, _optimizer(generator)
  )


def central(
  config: averaging.Config,
  generator: Generator,
  sizes: np.ndarray,
  *,
  epochs: float = 0.0,
) -> Algorithm:
  """Plain training on all data, which a federated model is compared with.

  For one client that holds everything (`FederatedDataset.merged`).

  Args:
    config: of the federated training; its server's and FedProx's fields are
      not used, but for the average over rounds.
    generator: the model.
    sizes: `[N]` examples of each client of the federation.
    epochs: passes a round over all data; 0 as `averaging.pooled` says.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  return federated(averaging.pooled(config, sizes, epochs=epochs), generator)


def local_only(config: averaging.Config, generator: Generator) -> Algorithm:
  """Every client trains a generator of its own; nothing is ever sent.

  Args:
    config: how clients train; server fields are not used.
    generator: the model.

  Raises:
    InputError: a field of the configuration is out of range.
  """
  return averaging.alone(
    config, generator.init, generator.loss, _optimizer(generator)
  )


def _optimizer(generator: Generator) -> optax.GradientTransformation | None:
  """The generator's own optimizer, if it has one."""
  if generator.optimizer is None:
    return None
  return generator.optimizer(optimizers.adam)

"""FedGAN: one generative adversarial network, averaged over clients.

Mohammad Rasouli, Tao Sun, Ram Rajagopal, "FedGAN: Federated generative
adversarial networks for distributed data", arXiv 2006.07228.

Published (Algorithm 1): every client trains a generator and a discriminator on
its own data; a step moves both along gradients taken at the same point. Every
K steps both are averaged, weighted by the client's number of examples, and
sent back. The players' learning rates may differ ("two time scales").

Ours: a round is a number of passes over the client's own data, so that a
larger client makes more steps; Adam, whose moments stay with the client if so
configured; client sampling and dropouts, server optimizers and FedProx; and
the networks and the loss with its penalty, see `fedjax_gen/models/gan.py`. The
paper's networks are not reproduced.
"""

import optax

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, optimizers
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.gan import Gan, GanConfig, gan_loss


def fedgan(
  config: averaging.Config, gan_config: GanConfig, gan: Gan
) -> Algorithm:
  """One GAN, both its players, averaged over clients.

  Args:
    config: how clients and server train; its learning rate is not used.
    gan_config: the players' learning rates, Adam's beta 1 and the penalty.
    gan: the model.
  """
  loss_fn = gan_loss(gan, gan_config.gan_r1)
  return averaging.averaged(config, gan.init, loss_fn, optimizer(gan_config))


def optimizer(config: GanConfig) -> optax.GradientTransformation:
  """An Adam for each player.

  Args:
    config: learning rates and beta 1.

  Raises:
    InputError: a learning rate is not above zero, or beta 1 not in [0, 1).
  """
  validate.positive(
    gan_learning_rate=config.gan_learning_rate,
    gan_discriminator_speed=config.gan_discriminator_speed,
  )
  validate.fraction(gan_b1=config.gan_b1)
  if config.gan_b1 == 1:
    raise InputError(f'Expected gan_b1 < 1, got gan_b1={config.gan_b1!r}.')
  speeds = {'generator': 1.0, 'discriminator': config.gan_discriminator_speed}
  return optax.partition(
    {
      player: optimizers.adam(
        speed * config.gan_learning_rate, b1=config.gan_b1
      )
      for player, speed in speeds.items()
    },
    {player: player for player in speeds},
  )

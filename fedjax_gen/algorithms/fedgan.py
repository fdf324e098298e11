"""FedGAN: one generative adversarial network, averaged over clients.

Mohammad Rasouli, Tao Sun, Ram Rajagopal, "FedGAN: Federated generative
adversarial networks for distributed data", arXiv 2006.07228.

Published (Algorithm 1): every client trains a generator and a discriminator on
its own data; a step moves both along gradients taken at the same point. Every
K steps both are averaged, weighted by the client's number of examples, and
sent back. The players' learning rates may differ ("two time scales").

Ours: a round is a number of passes over the client's own data, so that a
larger client makes more steps; Adam, with moments that stay with the client if
so configured; client sampling and dropouts, server optimizers and FedProx; and
the networks and the loss with its penalty, see `fedjax_gen/models/gan.py`. The
paper's networks are not reproduced.
"""

from fedjax_gen.federated import averaging, optimizers
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.gan import Gan, GanConfig, gan_loss, optimizer


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
  players = optimizer(gan_config, optimizers.adam)
  return averaging.averaged(config, gan.init, loss_fn, players)

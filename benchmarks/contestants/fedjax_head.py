"""FedJAX: a jitted step for a batch, and a Python loop over clients.

The released FedJAX (0.0.17) calls functions that JAX no longer has; the head of
its repository runs with the newest JAX:

  pip install "fedjax @ git+https://github.com/google/fedjax@c57ee19"

As in FedJAX's `examples/emnist_fed_avg.py`: its federated averaging, sampler,
batches and, for EMNIST, its model. The backend is 'jit'; the other, 'pmap', is
for several devices and needs a function that JAX no longer has. XLA uses all
cores within a step.
"""

import fedjax
from fedjax.algorithms import fed_avg
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.contestants import noise


def build(task):
  """Makes the federation; returns what runs a round and waits for it."""
  return _Federation(task).round


class _Federation:
  """The server's state, and a sampler that has everyone take part."""

  def __init__(self, task):
    conv = task.name == 'emnist_conv'
    model = fedjax.models.emnist.create_conv_model() if conv else _vae()
    client_optimizer = (
      fedjax.optimizers.sgd(10**-1.5) if conv else fedjax.optimizers.adam(1e-3)
    )
    self.algorithm = fed_avg.federated_averaging(
      fedjax.model_grad(model),
      client_optimizer,
      fedjax.optimizers.sgd(1.0),
      fedjax.ShuffleRepeatBatchHParams(task.batch, num_epochs=1),
    )
    self.data = fedjax.InMemoryFederatedData(_clients(task))
    self.sampler = fedjax.client_samplers.UniformGetClientSampler(
      self.data, task.clients, task.seed
    )
    self.model = model
    self.state = self.algorithm.init(model.init(jax.random.key(task.seed)))

  def round(self) -> None:
    """One round of all clients."""
    self.state, diagnostics = self.algorithm.apply(
      self.state, self.sampler.sample()
    )
    jax.block_until_ready((self.state.params, diagnostics))


def _clients(task):
  """What each client has, by its name."""
  images = noise.images(task)
  if task.name == 'mlp_vae':
    return {str(row).encode(): {'x': one} for row, one in enumerate(images)}
  images = images.reshape(*images.shape[:2], 28, 28, 1)
  return {
    str(row).encode(): {'x': one, 'y': classes}
    for row, (one, classes) in enumerate(
      zip(images, noise.labels(task), strict=True)
    )
  }


def _vae():
  """The VAE of dense layers; FedJAX has none of its own.

  What the model gives is each example's negative ELBO, as FedJAX wants losses.
  """

  def forward(batch):
    images = batch['x']
    hidden = jax.nn.relu(hk.Linear(256)(images))
    mean, logvar = jnp.split(hk.Linear(2 * 16)(hidden), 2, axis=-1)
    draws = jax.random.normal(hk.next_rng_key(), mean.shape)
    code = mean + jnp.exp(0.5 * logvar) * draws
    hidden = jax.nn.relu(hk.Linear(256)(code))
    logits = hk.Linear(noise.PIXELS)(hidden)
    errors = optax.sigmoid_binary_cross_entropy(logits, images).sum(-1)
    divergence = 0.5 * (jnp.exp(logvar) + mean**2 - 1 - logvar).sum(-1)
    return errors + divergence

  return fedjax.create_model_from_haiku(
    hk.transform(forward),
    {'x': np.zeros((1, noise.PIXELS), np.float32)},
    train_loss=lambda batch, losses: losses,
  )

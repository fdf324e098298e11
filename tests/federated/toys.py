"""A federation so small that its numbers are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.federated import aggregates, local, servers
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram


def dataset(sizes, groups=None, num_features=3) -> FederatedDataset:
  """Clients of the given sizes over distinct random features."""
  sizes = np.asarray(sizes, np.int32)
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(sizes.sum(), num_features)).astype(np.float32)
  order = rng.permutation(sizes.sum()).astype(np.int32)
  groups = np.zeros_like(sizes) if groups is None else np.asarray(groups)
  labels = rng.integers(0, 2, sizes.sum()).astype(np.int32)
  return federated_dataset(
    inputs, labels, Partition(order, sizes, groups, 'toy')
  )


def quadratic(variables, batch, key):
  """Half the mean squared distance of the parameters to the examples."""
  del key
  distances = jnp.sum((variables['w'][None] - batch.inputs) ** 2, axis=1) / 2
  count = jnp.maximum(batch.mask.sum(), 1)
  loss = jnp.where(batch.mask, distances, 0.0).sum() / count
  return loss, (variables, {})


def mean_estimation(
  *,
  aggregate=None,
  server_optimizer=None,
  optimizer=None,
  work=None,
  num_features=3,
  max_traces=None,
) -> Algorithm:
  """Clients descend `quadratic`; each counts the rounds it took part in."""
  optimizer = optimizer or optax.sgd(0.1)
  work = work or local.local_work(2, 2)

  def view(server, info):
    del info
    return server.variables

  def update(view, client, data, keys):
    trained = local.train(
      quadratic, optimizer, work, view, optimizer.init(view), data, keys.own
    )
    message = trees.subtract(view, trained.variables)
    return message, client + 1, trained.metrics

  if max_traces:
    update = chex.assert_max_traces(update, n=max_traces)
  server = servers.learned_server(
    lambda key: {'w': jax.random.normal(key, (num_features,))},
    aggregate or aggregates.weighted_mean(),
    server_optimizer or optax.sgd(1.0),
  )
  client = ClientProgram(
    lambda key, info: jnp.zeros((), jnp.int32), view, update
  )
  return Algorithm(server, (client,))

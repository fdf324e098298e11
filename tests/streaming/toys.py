"""Clients that keep numbers of their own, begun from keys and from infos."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen import trees
from fedjax_gen.data import partition
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.federated import local
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from tests.federated import toys

SIZES = (3, 0, 5, 1, 4, 2, 0, 6, 2, 3)  # uneven, two of them empty
_OPTIMIZER = optax.adam(0.05)


def datasets(sizes=SIZES) -> tuple[FederatedDataset, FederatedDataset]:
  """The same clients on the device and on the host."""
  data = toys.dataset(sizes, groups=np.arange(len(sizes)) % 3)
  return data, on_host(np.asarray(data.inputs), data)


def on_host(inputs: np.ndarray, data: FederatedDataset) -> FederatedDataset:
  """The clients of `data` over other inputs, on the host."""
  order, sizes, groups = map(np.asarray, (data.order, data.sizes, data.groups))
  return federated_dataset(
    inputs,
    np.asarray(data.labels),
    partition.Partition(order, sizes, groups, 'toy'),
    on_host=True,
  )


@functools.cache
def keeping() -> Algorithm:
  """Clients keep Adam's moments, a random bias and what they were told."""
  algorithm = toys.mean_estimation()

  def init(key, info):
    bias = {'w': jax.random.normal(key, (3,))}
    told = jnp.stack([info.row, info.group, info.num_examples])
    half = jnp.zeros((), jnp.bfloat16)
    return bias, _OPTIMIZER.init(bias), told, info.weight, half

  def view(server, info):
    # Known by its row: a slot would show.
    return server.variables, jnp.sin(1.0 + info.row)

  def update(view, client, data, keys):
    (received, shift), (bias, moments, told, weight, half) = view, client
    start = jax.tree.map(lambda w, b: w + 0.1 * b * shift, received, bias)
    noise_key, key = jax.random.split(keys.own)
    trained = local.train(
      toys.quadratic, _OPTIMIZER, local.local_work(2, 2), start, moments, data,
      key,
    )  # fmt: skip
    bias = jax.tree.map(
      lambda b: 0.9 * b + jax.random.normal(noise_key, b.shape), bias
    )
    client = bias, trained.optimizer_state, told, weight, half + 1
    message = trees.subtract(received, trained.variables)
    return message, client, trained.metrics

  return Algorithm(algorithm.server, (ClientProgram(init, view, update),))

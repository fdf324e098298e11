"""Real digits and networks cut to the bone, for the tests of algorithms."""

import dataclasses
import functools

import numpy as np
from sklearn import datasets

from fedjax_gen.data import partition
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.models import vae as vaes
from fedjax_gen.models.vae import DataSpec, Vae, VaeConfig

_SPEC = DataSpec((8, 8, 1), 10)
_SMALL = VaeConfig(channels=(4,), hidden_size=8, latent_size=2)


@functools.cache
def clients(num_clients: int, num_examples: int = 24) -> FederatedDataset:
  """The first digits, dealt to clients of equal size."""
  digits = datasets.load_digits()
  images = np.round(digits.images[:num_examples, :, :, None] * 255 / 16)
  return federated_dataset(
    images.astype(np.uint8),
    digits.target[:num_examples],
    partition.iid(num_examples, num_clients, seed=0),
  )


@functools.cache
def small_vae(norm: str = 'group') -> Vae:
  """A conditional convolutional VAE of a few hundred parameters."""
  return vaes.build_vae(dataclasses.replace(_SMALL, norm=norm), _SPEC)

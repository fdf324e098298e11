"""Systems with small models for `benchmarks.population`."""

from typing import NamedTuple

import numpy as np

from fedjax_gen.algorithms import fedvae, fedvtc
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federation import FederationConfig, build_samplers
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.models.vtc import VtcConfig, build_vtc

SHAPE = (8, 8, 1)
NUM_CLASSES = 10
_TRAINED_ON = 10  # images of a client in a round


class System(NamedTuple):
  """What is run: an algorithm, the clients of its fleets, and who comes."""

  algorithm: Algorithm
  datasets: list[FederatedDataset]
  samplers: list[sampling.Sampler]


def _fedvae(
  data: FederatedDataset, cohort_size: int, *, is_kept: bool
) -> System:
  """One fleet; what is kept are Adam's moments."""
  vae = build_vae(
    VaeConfig(model='mlp', hidden_size=8, latent_size=2, conditional=False),
    DataSpec(SHAPE, 1),
  )
  config = fedvae.Config(
    local_epochs=_TRAINED_ON / data.max_size,
    batch_size=5,
    keep_optimizer_state=is_kept,
  )
  algorithm = fedvae.fedvae(config, vae)
  return System(algorithm, [data], [sampling.uniform(cohort_size)])


def _fedvtc(
  data: FederatedDataset, cohort_size: int, *, is_kept: bool
) -> System:
  """Three fleets; kept are classifiers, and moments of them and a generator."""
  del is_kept  # it has to be
  classifier = ClassifierConfig(
    ('cnn5', 'cnn', 'mlp'), feature_size=16, width=0.05
  )
  spec = DataSpec(SHAPE, NUM_CLASSES)
  models = build_classifiers(classifier, spec)
  numbers = np.arange(data.num_clients)
  fleets = [data.select(numbers[i :: len(models)]) for i in range(len(models))]
  epochs = _TRAINED_ON / data.max_size
  method = fedvtc.fedvtc(
    fedvtc.Config(synthetic_per_class=5, vtc_epochs=epochs),
    personal.Config(local_epochs=epochs, batch_size=5, optimizer='adam'),
    models,
    [fleet.num_clients for fleet in fleets],
    build_vtc(VtcConfig(vtc_channels=(16,)), 16, spec),
  )
  federation = FederationConfig(sampling='uniform', cohort_size=cohort_size)
  samplers = build_samplers(federation, [f.num_clients for f in fleets])
  return System(method.algorithm, fleets, samplers)


SYSTEMS = {'fedvae': _fedvae, 'fedvtc': _fedvtc}
"""By name `(data, cohort_size, *, is_kept) -> System`."""

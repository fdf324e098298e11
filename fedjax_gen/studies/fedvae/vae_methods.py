"""The trainings that FedVAE's program compares: federated, central, local."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import fedvae
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation.features import FeatureExtractor
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federation import Federation
from fedjax_gen.models.vae import Vae
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.releases import Releases
from fedjax_gen.running import federated_step
from fedjax_gen.studies import private_run
from fedjax_gen.studies.audits import Target
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.types import Variables

METHODS = ('federated', 'central', 'local')
# Of a model that is never sent there is nothing to protect, and central
# training is what the others are compared with.
PROTECTED = ('federated',)


class Method(NamedTuple):
  """One of the trainings that are compared.

  Attributes:
    algorithm: what runs.
    data: on whom.
    sampler: who takes part.
    mapping: how clients are laid over time and devices.
    models: the trained variables to measure, from the final state.
    is_one_place: whether the data are in one place, so that nothing travels.
  """

  algorithm: Algorithm
  data: FederatedDataset
  sampler: sampling.Sampler
  mapping: Mapping
  models: Callable[[FederatedState], Sequence[Variables]]
  is_one_place: bool = False


class Comparison(NamedTuple):
  """The trainings that are compared, built and not yet compiled.

  Attributes:
    source: the data.
    federation: who holds what and takes part.
    vae: the model of all.
    methods: the trainings, by name.
    traffic: bytes per client of each.
    num_rounds: of each.
    protection: of the federated one, if it is private.
    audited: what an audit would train again.
    build_extractor: of the features by which images are compared; takes long.
  """

  source: DataSource
  federation: Federation
  vae: Vae
  methods: dict[str, Method]
  traffic: dict[str, Sequence[rounds.Traffic]]
  num_rounds: int
  protection: Protection | None
  audited: dict[str, Target]
  build_extractor: Callable[[], FeatureExtractor | None]

  @property
  def protected(self) -> list[str]:
    """Methods of which the protection holds."""
    if self.protection is None:
      return []
    return self.protection.held([n for n in self.methods if n in PROTECTED])

  @property
  def releases(self) -> Releases | None:
    """All that the run gives away; None without privacy."""
    if self.protection is None:
      return None
    protected = [name for name in self.methods if name in PROTECTED]
    return private_run.releases_of(dict.fromkeys(protected, self.protection))


def build_methods(
  names: Sequence[str],
  config: fedvae.Config,
  vae: Vae,
  federation: Federation,
  *,
  central_epochs: float,
  num_local_models: int,
  plan: Plan | None = None,
) -> dict[str, Method]:
  """The trainings by name, central and local beside the federated one.

  A plan of differential privacy is the federated one's.
  """
  data = federation.data
  few = data.select(np.arange(min(num_local_models, data.num_clients)))

  def from_server(state):
    return [state.server.variables]

  def from_clients(state):
    variables, _ = state.fleets[0]
    return [trees.take(variables, i) for i in range(few.num_clients)]

  methods = {
    'federated': lambda: Method(
      fedvae.fedvae(config, vae, plan),
      data,
      federation.sampler,
      federation.mapping,
      from_server,
    ),
    'central': lambda: Method(
      fedvae.central(
        config, vae, np.asarray(data.sizes), epochs=central_epochs
      ),
      data.merged().on_device(),
      sampling.everyone(),
      Mapping(),
      from_server,
      is_one_place=True,
    ),
    'local': lambda: Method(
      fedvae.local_only(config, vae),
      few.on_device(),
      sampling.everyone(),
      federation.mapping,
      from_clients,
    ),
  }
  # In one order, whatever the user's: the first is the report's subject.
  return {name: build() for name, build in methods.items() if name in names}


def traffic(methods: dict[str, Method]) -> dict[str, Sequence[rounds.Traffic]]:
  """Bytes down and up per client; a round is traced, none is computed.

  Raises:
    InputError: a state does not fit in memory.
  """
  measured = {
    name: federated_step.dry_run(name, method.algorithm, [method.data])
    for name, method in methods.items()
  }
  return {
    name: (rounds.Traffic(0, 0),) if methods[name].is_one_place else found
    for name, found in measured.items()
  }


def to_audit(
  methods: dict[str, Method],
  protection: Protection | None,
  config: fedvae.Config,
  vae: Vae,
) -> dict[str, Target]:
  """The methods that protect records."""
  if protection is None or protection.plan.unit != 'record':
    return {}
  algorithm_of = functools.partial(fedvae.fedvae, config, vae)
  target = Target(algorithm_of, protection)
  return {name: target for name in PROTECTED if name in methods}

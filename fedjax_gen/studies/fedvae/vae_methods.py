"""The methods that FedVAE's study compares: federated, central, local."""

from collections import abc
from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import averaged_generator
from fedjax_gen.federated import averaging, sampling
from fedjax_gen.federated.algorithm import FederatedState
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federation import Federation
from fedjax_gen.models.generator import Generator
from fedjax_gen.studies import study
from fedjax_gen.studies.audits import Target
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.studies.study import Method
from fedjax_gen.types import Variables

METHODS = ('federated', 'central', 'local')


@dataclasses.dataclass(frozen=True, kw_only=True)
class VaeMethod(Method):
  """A training of generators.

  Attributes:
    models: from a state to the variables to measure, of one model or several.
  """

  models: Callable[[FederatedState], Sequence[Variables]]


def build_methods(
  names: Sequence[str],
  config: averaging.Config,
  generator: Generator,
  federation: Federation,
  *,
  central_epochs: float,
  num_local_models: int,
  rounds: int,
  protection: Protection | None = None,
) -> dict[str, VaeMethod]:
  """The trainings by name: the federated one, central and local.

  A round of each is traced, none is computed. Differential privacy is the
  federated one's.

  Raises:
    InputError: a configuration does not fit the data, or a state does not fit
      in memory.
  """
  data = federation.data
  few = data.select(np.arange(min(num_local_models, data.num_clients)))

  def from_server(state):
    return [state.server.deployed]

  def from_clients(state):
    variables, _ = state.fleets[0]
    return [trees.take(variables, i) for i in range(few.num_clients)]

  def method(algorithm, data, models, **fields):
    return VaeMethod(
      algorithm=algorithm, datasets=[data], models=models, trained=models,
      rounds=rounds,
      **{
        'samplers': [sampling.everyone()],
        'mapping': federation.mapping,
        **fields,
      },
    )  # fmt: skip

  builders = {
    'federated': lambda: method(
      averaged_generator.federated(
        config, generator, protection and protection.plan
      ),
      data,
      from_server,
      samplers=[federation.sampler],
      # Of a model that is never sent there is nothing to protect, and central
      # training is what the others are compared with.
      protection=protection,
    ),
    'central': lambda: method(
      averaged_generator.central(
        config, generator, np.asarray(data.sizes), epochs=central_epochs
      ),
      data.merged().on_device(),
      from_server,
      mapping=Mapping(),
      is_one_place=True,
    ),
    'local': lambda: method(
      averaged_generator.local_only(config, generator),
      few.on_device(),
      from_clients,
    ),
  }
  # In one order, whatever the user's: the first is the report's subject.
  return {
    name: study.traced(name, build())
    for name, build in builders.items()
    if name in names
  }


def to_audit(
  methods: abc.Mapping[str, Method],
  config: averaging.Config,
  generator: Generator,
) -> dict[str, Target]:
  """The methods that protect records."""
  algorithm_of = functools.partial(
    averaged_generator.federated, config, generator
  )
  return {
    name: Target(algorithm_of, method.protection)
    for name, method in methods.items()
    if method.protection is not None and method.protection.plan.unit == 'record'
  }

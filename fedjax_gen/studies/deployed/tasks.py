"""What a site trains, from what a coordinator says and is installed here.

A row for each study that runs between machines: how its algorithm follows from
the configurations of the command line, the shapes of the data and the sizes of
the sites, which are all that a coordinator sends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_gen.algorithms import averaged_generator
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.deployment.agreement import Task
from fedjax_gen.errors import InputError
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models import generators
from fedjax_gen.running.storage import config_records
from fedjax_gen.studies import private_run
from fedjax_gen.studies.fedvae import vae_study


def sent(
  study: str, asked: Any, source: DataSource, sizes: Sequence[int]
) -> dict[str, Any]:
  """The configuration that sites are sent, JSON.

  Args:
    study: its name.
    asked: the configurations of the command line.
    source: of the coordinator; its shapes alone are told.
    sizes: training examples of each site.

  Raises:
    InputError: the data are series or a table, with scales that sites would
      have to agree on first.
  """
  if source.schema is not None:
    raise InputError(
      f'Expected images or features between machines, got {source.name}, a '
      f'{source.kind.name}.'
    )
  return {
    'study': study,
    'configs': {
      name: config_records.to_record(config)
      for name, config in _by_name(asked).items()
      if name not in _AT_HOME
    },
    'input_shape': list(source.input_shape),
    'num_classes': source.num_classes,
    'sizes': [int(size) for size in sizes],
  }


def built(config: Mapping[str, Any]) -> Mapping[str, Task]:
  """The tasks by method: `deployment.agreement.Study`.

  Raises:
    InputError: the configuration is not one, or is refused.
  """
  study = str(config.get('study'))
  if study not in _BUILDERS:
    raise InputError(
      f'Expected one of the studies {", ".join(STUDIES)}, got {study!r}.'
    )
  try:
    asked = _replaced(_DEFAULTS[study], config['configs'])
    spec = DataSpec(tuple(config['input_shape']), int(config['num_classes']))
    sizes = np.asarray(config['sizes'], np.int32)
    return _BUILDERS[study](asked, spec, sizes)
  except (KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'Expected the configuration of {study}, got another: {error}.'
    ) from error


def _fedvae(
  asked: vae_study.Configs, spec: DataSpec, sizes: np.ndarray
) -> Mapping[str, Task]:
  training = asked.fedvae
  rows = np.zeros(int(sizes.sum()), np.int32)
  layout = federated_dataset(
    np.zeros((1, *spec.shape), np.uint8),
    np.zeros(1, np.int32),
    Partition(rows, sizes, np.zeros_like(sizes), 'sizes alone'),
  )
  protection = private_run.protect(
    asked.privacy,
    asked.federation,
    layout,
    batch_size=training.batch_size,
    epochs=training.local_epochs,
    rounds=asked.run.rounds,
  )
  plan = None if protection is None else protection.plan
  generator = generators.build(asked.generator.generator, asked.models, spec)
  algorithm = averaged_generator.federated(training, generator, plan)
  return {'federated': Task(algorithm, None if plan is None else plan.event)}


# Configurations that concern the coordinator alone.
_AT_HOME = frozenset(
  ('data', 'population', 'audit', 'comparison', 'evaluation', 'coordination')
)
_DEFAULTS = {'fedvae': vae_study.Configs()}
_BUILDERS: Mapping[
  str, Callable[[Any, DataSpec, np.ndarray], Mapping[str, Task]]
] = {'fedvae': _fedvae}


def _by_name(configs: Any) -> dict[str, Any]:
  """Configurations by name, those of a group like the others."""
  named: dict[str, Any] = {}
  for name, config in configs._asdict().items():
    named |= _by_name(config) if isinstance(config, tuple) else {name: config}
  return named


def _replaced(configs: Any, records: Mapping[str, Any]) -> Any:
  """The same configurations, with the values of records by name."""
  return configs._replace(
    **{
      name: _replaced(config, records)
      if isinstance(config, tuple)
      else config_records.from_record(type(config), records[name])
      for name, config in configs._asdict().items()
      if isinstance(config, tuple) or name in records
    }
  )


STUDIES = tuple(_BUILDERS)
"""Names of the studies that can be coordinated."""

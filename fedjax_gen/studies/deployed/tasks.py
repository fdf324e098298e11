"""What a site trains, from what a coordinator says and is installed here.

A row for each study that runs between machines: how its algorithm follows from
the configurations of the command line, the shapes of the data and the sizes of
the sites, which are all that a coordinator sends.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.data.tables import codec as codec_lib
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.deployment import roster as rosters
from fedjax_gen.deployment.agreement import Task
from fedjax_gen.errors import InputError
from fedjax_gen.federation import (
  Federation,
  FederationConfig,
  build_mapping,
  build_sampler,
)
from fedjax_gen.kinds import DataSpec
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.privacy import events
from fedjax_gen.running.storage import config_records
from fedjax_gen.studies.command.program import Session
from fedjax_gen.studies.deployed import at_coordinator
from fedjax_gen.studies.fedhypevae import hype_methods, hype_study
from fedjax_gen.studies.fedhypevae.hype_synthesis import SynthesisConfig
from fedjax_gen.studies.fedvae import vae_study
from fedjax_gen.studies.fedvtc import vtc_comparison
from fedjax_gen.studies.fissionvae import fission_methods, fission_study
from fedjax_gen.studies.study import Method


def sent(
  study: str,
  asked: Any,
  source: DataSource,
  sizes: Sequence[int],
  groups: Sequence[int] = (),
) -> dict[str, Any]:
  """The configuration that sites are sent, JSON.

  Args:
    study: its name.
    asked: the configurations of the command line.
    source: of the coordinator; its form is told, with names of classes, and of
      series and tables columns and scales.
    sizes: training examples of each site.
    groups: of each site; by default all are of the first.
  """
  codec = source.codec
  return {
    'study': study,
    'configs': {
      name: config_records.to_record(config)
      for name, config in _by_name(asked).items()
      if name not in _AT_HOME
    },
    'input_shape': list(source.input_shape),
    'class_names': list(source.class_names),
    'encoding': None if codec is None else codec.to_record(),
    'sizes': [int(size) for size in sizes],
    'groups': [int(group) for group in groups or [0] * len(sizes)],
    'num_groups': max(len(source.group_names), 1),
  }


def built(config: Mapping[str, Any]) -> Mapping[str, Task]:
  """The tasks by method: `deployment.agreement.Study`.

  Raises:
    InputError: the configuration is not one, or is refused.
  """
  study = str(config.get('study'))
  if study not in ROWS:
    raise InputError(
      f'Expected one of the studies {", ".join(STUDIES)}, got {study!r}.'
    )
  try:
    asked = _replaced(ROWS[study].configs, config['configs'])
    spec = _spec(config)
    federation = _layout(asked.federation, spec, config)
    check(asked)
    return ROWS[study].tasks(asked, spec, federation, int(config['num_groups']))
  except (KeyError, TypeError, AttributeError, OverflowError) as error:
    raise InputError(
      f'Expected the configuration of {study}, got another: {error}.'
    ) from error


def check(asked: Any) -> None:
  """Checks what no study between machines can do.

  Raises:
    InputError: it is asked for.
  """
  federation = asked.federation
  if federation.sampling != 'all' or federation.dropout_rate:
    # Noise would count on a chance that nobody draws.
    raise InputError(
      'Expected sampling=all and dropout_rate=0 between machines, where all '
      f'sites are asked in each round, got sampling={federation.sampling!r} '
      f'and dropout_rate={federation.dropout_rate:g}.'
    )


def at_site(
  config: Mapping[str, Any], source: DataSource
) -> Mapping[str, Task]:
  """The tasks by method, of a site's data.

  Args:
    config: of `sent`.
    source: of the site.

  Raises:
    InputError: the study is refused, or is of other data than there are here.
  """
  found = built(config)
  size = len(source.train.labels)
  if size not in config['sizes']:
    # Noise and room of batches follow from the sizes.
    raise InputError(
      f'Expected the sizes of sites to have {size}, the training examples of '
      f'this site, got {list(config["sizes"])}.'
    )
  codec, agreed = source.codec, _codec(config)
  if (codec and codec.to_record()) != (agreed and agreed.to_record()):
    raise InputError(
      'Expected encoding, the file of columns and scales that the coordinator '
      'has, for series and tables, and none for others; this site has '
      f'{"another" if codec else "none"}.'
    )
  wanted = tuple(config['input_shape'])
  if wanted != tuple(source.input_shape):
    raise InputError(
      f'Expected data of shape {list(wanted)}, as the coordinator says, this '
      f'site has {list(source.input_shape)}: see image_size and window.'
    )
  numbers = _numbers_of_classes(source.class_names, config['class_names'])
  if numbers is None:
    return found

  def renumbered(task: Task) -> Task:
    def prepare(data: FederatedDataset) -> FederatedDataset:
      labels = jnp.asarray(numbers)[data.labels]
      return task.prepare(dataclasses.replace(data, labels=labels))

    return task._replace(prepare=prepare)

  return {name: renumbered(task) for name, task in found.items()}


def _numbers_of_classes(
  here: Sequence[str], wanted: Sequence[str]
) -> list[int] | None:
  """What labels here are there, since a site need not have all classes."""
  if list(here) == list(wanted):
    return None
  numbers = {name: number for number, name in enumerate(wanted)}
  if unknown := [name for name in here if name not in numbers]:
    raise InputError(
      f'Expected classes among {_listed(wanted)}, as the coordinator says, '
      f'this site has {_listed(unknown)}.'
    )
  return [numbers[name] for name in here]


def _listed(names: Sequence[str]) -> str:
  return ', '.join(names[:20]) + ', ...' * (len(names) > 20)


def _spec(config: Mapping[str, Any]) -> DataSpec:
  """The form of all sites' examples."""
  codec = _codec(config)
  return DataSpec(
    tuple(config['input_shape']),
    len(config['class_names']),
    () if codec is None else codec.layout,
  )


def _codec(config: Mapping[str, Any]) -> Codec | None:
  record = config['encoding']
  return None if record is None else codec_lib.from_record(record)


def _layout(
  config: FederationConfig, spec: DataSpec, sent: Mapping[str, Any]
) -> Federation:
  """Sizes and groups of sites, and no example."""
  sizes = np.asarray(sent['sizes'], np.int32)
  groups = np.asarray(sent['groups'], np.int32)
  total = sum(map(int, sent['sizes']))
  if (
    sizes.ndim != 1
    or sizes.shape != groups.shape
    or min(sizes.min(initial=0), groups.min(initial=0)) < 0
    or not 0 < total <= rosters.MOST_EXAMPLES
  ):
    raise InputError(
      f'Expected a size and a group of each site, at least 0, and 1 to '
      f'{rosters.MOST_EXAMPLES} examples in all, got {len(sizes)} sizes, '
      f'{len(groups)} groups and {total} examples.'
    )
  dtype = np.uint8 if spec.is_image else np.float32
  partition = Partition(
    np.zeros(int(sizes.sum()), np.int32), sizes, groups, 'sizes alone'
  )
  return Federation(
    partition,
    federated_dataset(
      np.zeros((1, *spec.shape), dtype), np.zeros(1, np.int32), partition
    ),
    build_sampler(config, len(sizes)),
    build_mapping(config),
  )


def task(method: Method, **changes: Any) -> Task:
  """What sites do of a method of a study."""
  protection = method.protection
  if protection is None or method.is_nominal:
    return Task(method.algorithm, **changes)
  plan = protection.plan
  # Of noise that the coordinator adds a site cannot be sure.
  is_own = plan.unit == 'record' or plan.num_shares > 0
  event = plan.event if is_own else None
  return Task(method.algorithm, event, plan.num_shares, **changes)


def _fedvae(asked, spec, federation, unused_groups) -> Mapping[str, Task]:
  _only(asked.comparison.methods, ('federated',))
  *_, methods = vae_study.trainings(asked, spec, federation)
  return {name: task(method) for name, method in methods.items()}


def _fissionvae(asked, spec, federation, num_groups) -> Mapping[str, Task]:
  if not asked.are_groups_given:
    raise InputError(
      'Expected groups=given between machines, got groups='
      f'{asked.discovery.groups!r}: to be put in a group every site would send '
      'a statistic of its data by itself.'
    )
  names = fission_methods.ordered(asked.comparison.methods)
  for name in names:
    if name in ('local', 'central') or 'het' in name.split('+'):
      raise InputError(
        'Expected methods of one architecture that send messages, such as '
        f'FedVAE, L, D, L+D, group_vaes or fedgan, got methods={name!r}.'
      )
  setting = fission_study.setting_of(asked, spec, federation, num_groups)
  methods = fission_methods.build_methods(names, setting)
  return {name: task(method) for name, method in methods.items()}


def _fedhypevae(asked, spec, federation, unused_groups) -> Mapping[str, Task]:
  possible = (n for n in hype_methods.METHODS if n not in _NOT_BETWEEN)
  _only(asked.comparison.methods, tuple(possible))
  setting = hype_study.setting_of(asked, spec, federation.data)
  methods = hype_methods.build_methods(
    hype_methods.ordered(asked.comparison.methods), setting
  )
  changes = {'prepare': _normaliser(asked.hyper.normalise)}
  tasks = {}
  for name, method in methods.items():
    tasks[name] = task(method, **changes)
    release = hype_methods.moments_release(setting, method)
    if release is not None:
      tasks[f'{name}-moments'] = _upload(release, **changes)
    elif method.is_one_upload:
      tasks[name] = _upload(method, **changes)
  return tasks


def _upload(method: hype_methods.HypeMethod, **changes: Any) -> Task:
  """Of a method of one upload, whose noise is the clients' always."""
  budget = method.budget
  if budget.protection is None or method.is_nominal:
    return Task(method.algorithm, **changes)
  num_shares = budget.protection.plan.num_shares
  if budget.client_plan is not None:
    num_shares = method.datasets[0].num_clients
  first = budget.first_noise or budget.protection.plan.noise_multiplier
  event = events.gaussian(first) if first else events.non_private()
  return Task(method.algorithm, event, num_shares, **changes)


def _fedvtc(asked, spec, federation, unused_groups) -> Mapping[str, Task]:
  kinds = len(asked.classifier.architectures)
  counts = np.bincount(federation.partition.groups, minlength=kinds)
  if len(counts) != kinds or not counts.all():
    raise InputError(
      f'Expected a site for each of {kinds} architectures, by their numbers, '
      f'got {counts.tolist()} sites of each.'
    )
  setting, subject, protection = vtc_comparison.parts_of(
    asked, spec, counts.tolist()
  )
  event = None  # of clients, and the coordinator adds the noise
  del protection
  return {
    name: Task(method.algorithm, event)
    for name, method in vtc_comparison.trainings(
      asked, setting, subject
    ).items()
  }


def _only(asked: Sequence[str], possible: Sequence[str]) -> None:
  for name in asked:
    validate.one_of(possible, methods=name)


@functools.cache
def _normaliser(normalise: str) -> Callable[..., FederatedDataset]:
  """What sites do with their embeddings, each by itself."""

  def prepare(data: FederatedDataset) -> FederatedDataset:
    inputs = hypernetwork.normalised(data.inputs, normalise)
    return dataclasses.replace(data, inputs=inputs)

  return prepare


class Row(NamedTuple):
  """A study between machines.

  Attributes:
    configs: its configurations, with the methods that run by default.
    tasks: `(configurations, form of the data, federation, number of groups) ->
      tasks by method`, by the functions that build a simulated run.
    main: what the coordinator runs.
    assign: the fleet of each site, by the groups that they say.
  """

  configs: Any
  tasks: Callable[[Any, DataSpec, Federation, int], Mapping[str, Task]]
  main: Callable[[Session, Any], None]
  assign: rosters.Assign = rosters.one_fleet


def _with(configs: Any, **comparison: Any) -> Any:
  return configs._replace(
    comparison=dataclasses.replace(configs.comparison, **comparison)
  )


# They need clients' own data or encoders in another way than by messages.
_NOT_BETWEEN = ('FedHypeVAE-pretrained', 'DP-CVAE-pretrained', 'FedLambda')
# Configurations that concern the coordinator alone.
_AT_HOME = frozenset(
  ('data', 'population', 'audit', 'evaluation', 'coordination', 'measured',
   'head', 'meta', 'synthesis')
)  # fmt: skip
ROWS = {
  'fedvae': Row(
    _with(vae_study.Configs(), methods=('federated',)),
    _fedvae,
    vae_study.PROGRAM.main,
  ),
  'fissionvae': Row(
    _with(fission_study.Configs(), methods=('L+D',)),
    _fissionvae,
    fission_study.PROGRAM.main,
  ),
  'fedhypevae': Row(
    _with(hype_study.Configs(), methods=('FedHypeVAE',))._replace(
      synthesis=SynthesisConfig(codes=('meta',))
    ),
    _fedhypevae,
    at_coordinator.EMBEDDINGS,
  ),
  'fedvtc': Row(
    _with(vtc_comparison.Configs(), baselines=(), local_test_fraction=0.0),
    _fedvtc,
    at_coordinator.CLASSIFIERS,
    rosters.by_group,
  ),
}


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


STUDIES = tuple(ROWS)
"""Names of the studies that can be coordinated."""

"""`fedjax-gen coordinate NAME`: a study with other machines as its clients."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from fedjax_gen import encoding, fields, validate
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.deployment import masked_sum, masking, roster as rosters
from fedjax_gen.deployment.agreement import Task
from fedjax_gen.deployment.collecting import Collector, Patience
from fedjax_gen.deployment.flower import (
  certificates,
  flower_processes,
  loopback,
)
from fedjax_gen.deployment.flower.transport import FlowerTransport
from fedjax_gen.deployment.remote_engine import Deployment
from fedjax_gen.deployment.securing import Securing
from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import disk
from fedjax_gen.studies import options
from fedjax_gen.studies.command import program as programs
from fedjax_gen.studies.deployed import tasks

STUDIES = tasks.STUDIES
_PATIENCE = 300.0  # seconds for Flower to start the server app


@dataclasses.dataclass(frozen=True)
class CoordinateConfig:
  """The federation.

  Raises:
    InputError: a value is out of range.
  """

  sites: int = fields.option(
    3, 'How many sites to wait for; they are the clients.', recorded=False
  )
  port: int = fields.option(
    9092, 'Where sites connect, by HTTPS.', recorded=False
  )
  insecure: bool = fields.option(
    False,
    'No TLS and no node authentication: for sites on this machine alone.',
    recorded=False,
  )
  host_names: tuple[str, ...] = fields.option(
    (),
    'Names and addresses under which sites reach this machine, for the '
    'certificate that is made.',
    recorded=False,
  )
  site_keys: str = fields.option(
    '',
    'Folder with the public keys, .pub files, of the sites that may connect.',
    placeholder='DIR',
    recorded=False,
  )
  secured: bool = fields.option(
    False,
    'Sum messages securely: this machine learns sums alone, of three sites or '
    'more.',
  )
  value_range: float = fields.option(
    2.0**20, 'With secured: numbers of a site’s sums lie in +- this.'
  )
  threshold: int = fields.option(
    0,
    'With secured: sites that a sum needs; one fewer may collude with this '
    'machine. 0 for two thirds.',
  )
  least: int = fields.option(
    0, 'Sites that make a round; 0 for two thirds.', recorded=False
  )
  deadline: float = fields.option(
    600.0,
    'Seconds after which a round goes on without those that are missing.',
    recorded=False,
  )
  give_up_after: float = fields.option(
    86_400.0, 'Seconds to wait for enough sites.', recorded=False
  )
  dry_run: bool = fields.option(
    False, 'Say what would be sent to whom, and end.', recorded=False
  )

  def __post_init__(self):
    validate.positive_int(sites=self.sites, port=self.port)
    validate.non_negative_int(least=self.least, threshold=self.threshold)
    validate.positive(
      deadline=self.deadline,
      give_up_after=self.give_up_after,
      value_range=self.value_range,
    )
    if self.insecure and (self.site_keys or self.host_names):
      raise InputError(
        'Expected no site_keys and no host_names with insecure=true, which '
        'knows nobody and serves this machine alone.'
      )


def program_of(study: programs.Program) -> programs.Program:
  """The program of a study of `STUDIES`, with sites as its clients."""
  known: Any = tasks.ROWS[study.name].configs
  make: Any = namedtuple  # of names that no type checker knows
  names = make('Configs', [*known._fields, 'coordination'])
  configs = names(*known, CoordinateConfig())._replace(
    run=_each_round_saved(known.run)
  )
  return dataclasses.replace(
    study,
    sentence=f'{study.sentence[:-1]}, each on a machine of its own.',
    examples=(
      (
        '--sites=3 --insecure --workdir=runs/sites',
        'Waits for three sites on this machine.',
      ),
      (
        '--sites=10 --site_keys=keys --host_names=fl.example.org --secured',
        'Ten hospitals: TLS, sites known by keys, sums that are secure.',
      ),
    ),
    configs=configs,
    main=lambda session, asked: _main(study, session, asked),
  )


def _main(study: programs.Program, session, asked: Any) -> None:
  config: CoordinateConfig = asked.coordination
  masking.check_installed()
  flower_processes.check_installed()
  tasks.check(asked)
  row = tasks.ROWS[study.name]
  folder = session.path.with_name(f'{session.path.name}.federation')
  folder.mkdir(parents=True, exist_ok=True)
  asked = asked._replace(data=_agreed(asked, folder, session.say))
  source = options.load_source(asked.data, seed=asked.run.seed)
  note = _Notes(folder / 'events.jsonl', session.say)
  with contextlib.ExitStack() as stack:
    transport = _connected(stack, folder, config, session.say, note)
    session.say(f'Waiting for {config.sites} sites.')
    if source.group_names:
      session.say(f'Groups of sites: {_numbered(source.group_names)}.')
    roster = rosters.gathered(
      transport,
      folder / 'federation.json',
      config.sites,
      assign=row.assign,
      note=note,
      patience=config.give_up_after,
    )
    sizes = [member.node.num_examples for member in roster.members]
    names = [member.name for member in roster.members]
    listed = ', '.join(
      f'{n} ({size})' for n, size in zip(names, sizes, strict=True)
    )
    session.say(f'Sites, and their training examples: {listed}.')
    path = folder / 'sites.npz'
    groups = [member.node.group for member in roster.members]
    _layout(sizes, listed, source, groups).save(path)
    agreed = tasks.sent(study.name, asked, source, sizes, groups)
    securing = _securing(config, tasks.built(agreed))
    roster.agree(agreed)
    if config.dry_run:
      study_path = folder / 'study.json'
      disk.write_atomically(study_path, json.dumps(roster.config, indent=1))
      session.say(
        f'Before training sites are sent {study_path}. What they would send '
        'back says `fedjax-gen site --dry_run --study=FILE`.'
      )
      return
    deployment = Deployment(
      Collector(
        roster,
        transport,
        Patience(config.deadline, config.give_up_after),
        note,
      ),
      folder / 'sums',
      config.least,
      securing,
    )
    # As the study knows them, which has no part in where its clients are.
    known: Any = type(row.configs)
    asked = known(*asked[: len(known._fields)])._replace(
      run=_each_round_saved(asked.run),
      federation=dataclasses.replace(
        asked.federation,
        partition='sites',
        partition_file=str(path),
        num_clients=len(sizes),
      ),
    )
    row.main(dataclasses.replace(session, deployment=deployment), asked)


def _agreed(
  asked: Any, folder: pathlib.Path, say: Callable[[str], None]
) -> options.DataConfig:
  """With columns and scales of the coordinator's own series or table."""
  data, path = asked.data, folder / 'encoding.json'
  if not data.encoding and not path.exists():
    source = options.load_source(data, seed=asked.run.seed)
    if source.schema is None:
      return data
    size = len(source.train.labels)
    codec = encoding.agree(
      source,
      Partition(np.arange(size), np.array([size]), np.zeros(1, int), 'one'),
      key=jax.random.key(0),
    )
    disk.write_atomically(path, json.dumps(codec.to_record(), indent=1) + '\n')
  path = pathlib.Path(data.encoding or path)
  say(f'Sites need {path} as their --encoding.')
  return dataclasses.replace(data, encoding=str(path))


def _securing(
  config: CoordinateConfig, found: Mapping[str, Task]
) -> Securing | None:
  """How sums are secured, with as many sites as shares of noise need."""
  num_shares = max(task.num_shares for task in found.values())
  if not config.secured:
    if num_shares:
      raise InputError(
        'Expected secured=true with noise in shares, of which no message has '
        'enough by itself, got secured=false.'
      )
    return None
  threshold = config.threshold
  if num_shares:
    threshold = max(
      threshold or masked_sum.usual_threshold(config.sites), num_shares
    )
  return Securing(config.value_range, threshold=threshold)


def _each_round_saved(run):
  """A coordinator that is killed then asks for the same round again."""
  return dataclasses.replace(run, rounds_per_step=1, checkpoint_every=1)


def _connected(
  stack: contextlib.ExitStack,
  folder: pathlib.Path,
  config: CoordinateConfig,
  say,
  note: rosters.Note,
) -> FlowerTransport:
  """Starts Flower, and meets its server app."""
  tls, keys = None, []
  if not config.insecure:
    tls = certificates.coordinator_tls(folder, config.host_names)
    keys = sorted(pathlib.Path(config.site_keys or folder).glob('*.pub'))
    if not keys:
      raise InputError(
        'Expected site_keys to be a folder with the public keys of the sites, '
        f'which `fedjax-gen site` writes as node_key.pub, got '
        f'site_keys={config.site_keys!r}. With insecure=true none is needed.'
      )
    say(f'Sites need {tls.authority} as their --authority.')
  host = '127.0.0.1' if config.insecure else '0.0.0.0'
  stack.enter_context(
    flower_processes.superlink(folder / 'flower', host, config.port, tls)
  )
  for key in keys:
    flower_processes.register(folder / 'flower', str(key))
  meeting, listener = stack.enter_context(loopback.listening())
  flower_processes.submit(folder / 'flower', meeting)
  try:
    relay = loopback.accepted(listener, _PATIENCE)
  except TimeoutError as error:
    raise InputError(
      f'Flower’s server app does not start: see {folder / "flower"}.'
    ) from error
  transport = FlowerTransport(relay, note)
  stack.callback(transport.close)
  return transport


def _layout(
  sizes: list[int], listed: str, source: DataSource, groups: list[int]
) -> Partition:
  """Sizes as a partition. Its rows mean nothing: examples stay at sites.

  Where the data have groups, they are of the group that a site says.

  Raises:
    InputError: a site says a group that there is not.
  """
  if sum(sizes) > rosters.MOST_EXAMPLES:
    raise InputError(
      f'Expected at most {rosters.MOST_EXAMPLES} examples at all sites, got '
      f'{sum(sizes)}: {listed}.'
    )
  known = source.train.groups
  rows = []
  for size, group in zip(sizes, groups, strict=True):
    possible = np.arange(len(source.train.labels))
    if known is not None:
      possible = np.flatnonzero(known == group)
    if not len(possible):
      raise InputError(
        f'Expected sites of the groups {_numbered(source.group_names)}, got '
        f'group={group} of a site.'
      )
    rows.append(np.resize(possible, size))
  return Partition(
    np.concatenate(rows),
    np.asarray(sizes),
    np.asarray(groups),
    f'examples lie at the sites {listed}, and are not known here',
  )


def _numbered(names: Iterable[str]) -> str:
  return ', '.join(f'{i} ({name})' for i, name in enumerate(names))


class _Notes:
  """Writes down what happens, and says what a person should know."""

  def __init__(self, path: pathlib.Path, say):
    self._path, self._say = path, say

  def __call__(self, record: Mapping[str, Any]) -> None:
    with self._path.open('a', encoding='utf-8') as log:
      log.write(json.dumps({'time': time.time(), **record}) + '\n')
    if record['kind'] != 'round':
      node = f'{record["node"]}: ' if 'node' in record else ''
      self._say(f'{record["kind"]}: {node}{record.get("cause", "")}')

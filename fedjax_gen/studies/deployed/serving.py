"""`fedjax-gen site`: trains on data of this machine, as a coordinator asks."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from typing import NamedTuple

import numpy as np

from fedjax_gen import fields, trees, validate
from fedjax_gen.data.federated import FederatedDataset, federated_dataset
from fedjax_gen.data.partition import Partition
from fedjax_gen.data.sources import DataSource
from fedjax_gen.deployment import masking
from fedjax_gen.deployment.agreement import Node, Task
from fedjax_gen.deployment.flower import (
  certificates,
  flower_processes,
  loopback,
)
from fedjax_gen.deployment.site import Allowance, Site
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, ledger as ledger_lib
from fedjax_gen.studies import options
from fedjax_gen.studies.command import program
from fedjax_gen.studies.deployed import tasks

# Of a budget's delta, for samples of records that do not fit their batch.
_SET_ASIDE = 0.01


@dataclasses.dataclass(frozen=True)
class SiteConfig:
  """The site.

  Raises:
    InputError: a value is out of range.
  """

  coordinator: str = fields.option(
    '127.0.0.1:9092', 'Where to connect.', placeholder='HOST:PORT'
  )
  state: str = fields.option(
    'site',
    'Folder of this site: keys, private state, ledger, log. Keep it.',
    placeholder='DIR',
  )
  name: str = fields.option('', 'What others see it called.')
  group: int = fields.option(
    0,
    'Number of the group, or in fedvtc of the architecture, that this site is '
    'of: from 0, in the order that the coordinator says.',
  )
  insecure: bool = fields.option(
    False, 'No TLS: for a coordinator on this machine.'
  )
  authority: str = fields.option(
    '', 'Certificate (ca.crt) by which the coordinator is known.',
    placeholder='FILE',
  )  # fmt: skip
  dry_run: bool = fields.option(
    False, 'Say what is read and what may leave, and end.'
  )
  study: str = fields.option(
    '',
    'With dry_run: the study.json that the dry run of a coordinator wrote.',
    placeholder='FILE',
  )


@dataclasses.dataclass(frozen=True)
class AllowanceConfig:
  """What this site allows, whatever it is asked for.

  Raises:
    InputError: a value is out of range.
  """

  allow_methods: tuple[str, ...] = fields.option(
    (), 'Methods that may run; none named: any.'
  )
  allow_rounds: int = fields.option(0, 'Rounds of a method; 0 for any number.')
  allow_bytes: int = fields.option(0, 'Of a message that leaves; 0 for any.')
  allow_metrics: tuple[str, ...] = fields.option(
    (), 'Metrics of training that may leave, such as loss.'
  )
  secured_only: bool = fields.option(
    False, 'Send under a secure sum, or not at all.'
  )
  peers: tuple[str, ...] = fields.option(
    (), 'Identities of sites that may be in a secure sum; none named: any.'
  )
  budget_epsilon: float = fields.option(
    0.0,
    'Of all that this site ever releases about a record, over runs and '
    'coordinators; then methods without privacy are refused. 0 for no budget.',
  )
  budget_delta: float = fields.option(1e-5, 'Its delta.')

  def __post_init__(self):
    validate.non_negative_int(
      allow_rounds=self.allow_rounds, allow_bytes=self.allow_bytes
    )
    validate.non_negative(budget_epsilon=self.budget_epsilon)
    accounting.check_delta(self.budget_delta)

  def allowance(self) -> Allowance:
    """As the site checks it."""
    return Allowance(
      methods=self.allow_methods,
      rounds=self.allow_rounds,
      message_bytes=self.allow_bytes,
      metrics=self.allow_metrics,
      secured_only=self.secured_only,
      peers=self.peers,
    )

  def budget(self) -> ledger_lib.Ledger | None:
    """Of one client; None without."""
    if not self.budget_epsilon:
      return None
    return ledger_lib.ledger(
      1,
      self.budget_epsilon,
      self.budget_delta,
      set_aside=_SET_ASIDE * self.budget_delta,
    )


class Configs(NamedTuple):
  """Everything of the command line, and what it is by default."""

  site: SiteConfig = SiteConfig()
  data: options.DataConfig = options.DataConfig()
  allowance: AllowanceConfig = AllowanceConfig()


def main(asked: Configs) -> None:
  """Serves until it is told to end."""
  masking.check_installed()
  flower_processes.check_installed()
  config = asked.site
  folder = pathlib.Path(config.state)
  if not config.insecure and not config.authority and not config.dry_run:
    _, public = certificates.node_key(folder)
    raise InputError(
      'Expected authority, the certificate by which the coordinator is known, '
      f'got none. The coordinator has it, and needs {public.resolve()} of this '
      'site. With insecure=true neither is needed.'
    )
  source = options.load_source(asked.data, seed=0)
  data = one_client(source)
  print(_read(source, data), flush=True)
  with Site(
    folder,
    data,
    lambda config: tasks.at_site(config, source),
    name=config.name,
    group=config.group,
    allowance=asked.allowance.allowance(),
    budget=asked.allowance.budget(),
  ) as site:
    print(f'Identity of this site: {site.identity}', flush=True)
    if config.dry_run:
      print(_leaving(asked))
      if config.study:
        study = json.loads(pathlib.Path(config.study).read_text())
        built = tasks.at_site(study, source)
        print('\n'.join(_messages(site, built, config.group)))
      return
    _serve(site, config, folder)


def one_client(source: DataSource) -> FederatedDataset:
  """All training examples of a source as those of one client."""
  size = len(source.train.labels)
  rows = np.arange(size)
  everything = Partition(
    rows, np.array([size]), np.zeros(1, np.int64), 'one site'
  )
  return federated_dataset(source.train.inputs, source.train.labels, everything)


def _serve(site: Site, config: SiteConfig, folder: pathlib.Path) -> None:
  """Answers what comes over Flower, and connects again if that is lost."""
  private = None
  if not config.insecure:
    private = str(certificates.node_key(folder)[0])
  signal.signal(signal.SIGTERM, _interrupted)
  with loopback.listening() as (meeting, listener):
    loopback.serve(listener, site.answer)
    with contextlib.suppress(KeyboardInterrupt):
      while True:
        with flower_processes.supernode(
          folder / 'flower',
          config.coordinator,
          meeting,
          authority=config.authority or None,
          private_key=private,
        ) as node:
          print(f'Serving {config.coordinator}; Ctrl-C ends it.', flush=True)
          node.wait()
        time.sleep(1)
  print('Ended; start the same command again to go on.', flush=True)


def _interrupted(unused_signal, unused_frame):
  raise KeyboardInterrupt


def _read(source: DataSource, data: FederatedDataset) -> str:
  size = trees.num_bytes((data.inputs, data.labels))
  return (
    f'Read: {source.name}, {data.max_size} training examples of shape '
    f'{list(source.input_shape)}, {size:,} bytes. They stay here.'
  )


def _leaving(asked: Configs) -> str:
  allowed = asked.allowance
  metrics = ', '.join(allowed.allow_metrics) or 'none'
  limit = (
    f'{allowed.allow_bytes:,} bytes' if allowed.allow_bytes else 'any size'
  )
  return (
    f'May leave, to {asked.site.coordinator} alone: the number of training '
    'examples, the group, the name and the identity above; in each round one '
    f'message of {limit}{", masked in a secure sum" * allowed.secured_only}; '
    f'metrics: {metrics}. What a message holds, --study says.'
  )


def _messages(
  site: Site, built: Mapping[str, Task], group: int
) -> Iterator[str]:
  """Names, types, shapes and bytes of the messages of a study."""
  for name, task in built.items():
    message = site.leaving(task, Node(0, 0, group, site.num_examples))
    yield f'{name}: {trees.num_bytes(message):,} bytes a round'
    yield from (
      f'  {leaf}: {shape.dtype.name}{list(shape.shape)}'
      for leaf, shape in message.items()
    )


PROGRAM = program.Program(
  name='site',
  sentence='Trains on data of this machine, as a coordinator asks.',
  examples=(
    (
      '--insecure --data=my_images --state=site1 --name=site1',
      'Joins a coordinator on this machine.',
    ),
    (
      '--coordinator=fl.example.org:9092 --authority=ca.crt --data=my_images '
      '--state=site --secured_only',
      'Joins one elsewhere; sends under secure sums alone.',
    ),
  ),
  configs=Configs(),
  main=main,
)

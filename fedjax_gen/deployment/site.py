"""A site: one client of a federation, on its own machine.

Bytes in, bytes out: whatever carries messages asks `Site.answer`. What a site
keeps lies in its own folder, and a message that comes twice gets the reply that
was given: no round is computed, charged or noised a second time.

    identity.key, secrets.json   its own, and readable by nobody else
    ledger.json                  what it has released, over all runs
    log.jsonl                    what it was asked, did, refused; its metrics
    runs/RUN/study.json          what it agreed to
    runs/RUN/METHOD/kept         its private state, and its last message
    runs/RUN/METHOD/sum          its part in the last secure sum
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import pathlib
import re
import secrets as entropy
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import files as base_files, version
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.deployment import (
  agreement as study_lib,
  masked_sum,
  masking,
  wire,
)
from fedjax_gen.deployment.agreement import Node, Study, Task
from fedjax_gen.deployment.site_ledger import SiteLedger
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.errors import InputError
from fedjax_gen.federated.algorithm import ClientKeys
from fedjax_gen.privacy import secret_keys
from fedjax_gen.privacy.ledger import Ledger
from fedjax_gen.running import leaves
from fedjax_gen.running.storage import disk, workdir
from fedjax_gen.types import Key

OwnKeys = Callable[[str, str, int], Key]
"""`(run, method, round) -> key` of this site alone; round -1: of its start."""

_NAME = re.compile(r'[\w.+-]{1,80}')


class Refused(InputError):
  """A site does not do what it was asked; the message may be sent."""


@dataclasses.dataclass(frozen=True)
class Allowance:
  """What a site's administrator allows, whatever a coordinator asks for.

  Attributes:
    methods: that may run; empty for any.
    rounds: of one method of one run, at most; 0 for any number.
    message_bytes: the largest message that may leave; 0 for any.
    metrics: of training that may leave, by name; otherwise they stay in the
      log of the site.
    secured_only: whether messages may leave under a secure sum alone.
    peers: identities of the sites that may be in a secure sum; empty for any,
      and then who is in it is what the coordinator says.
  """

  methods: tuple[str, ...] = ()
  rounds: int = 0
  message_bytes: int = 0
  metrics: tuple[str, ...] = ()
  secured_only: bool = False
  peers: tuple[str, ...] = ()

  def check(self, method: str, round_number: int) -> None:
    """Raises `Refused` for a round that is not allowed."""
    if round_number < 0:
      raise Refused(f'Expected a round from 0 on, got round {round_number}.')
    if self.methods and method not in self.methods:
      raise Refused(
        f'Expected one of the methods {", ".join(self.methods)}, which this '
        f'site allows, got {method!r}.'
      )
    if self.rounds and round_number >= self.rounds:
      raise Refused(
        f'Expected at most {self.rounds} rounds, which this site allows, got '
        f'round {round_number + 1}.'
      )


class _Trained(NamedTuple):
  """What a round left: arrays of the message, and scalars for the log."""

  message: dict[str, np.ndarray]
  metrics: dict[str, float]


class Site:
  """One site; a context manager, which holds its folder for one process."""

  def __init__(
    self,
    folder: str | os.PathLike,
    data: FederatedDataset,
    study: Study,
    *,
    name: str = '',
    group: int = 0,
    allowance: Allowance = Allowance(),
    budget: Ledger | None = None,
    own_keys: OwnKeys | None = None,
  ):
    """Opens the site's folder, or begins one.

    Args:
      folder: of this site.
      data: of one client: this site's training examples.
      study: what is installed here; see `study.Study`.
      name: that people know it by; by default the first of its identity.
      group: of the algorithm's groups.
      allowance: what may be asked for.
      budget: of the site's own ledger; None for none.
      own_keys: in place of keys from the system's entropy, for tests that
        compare with a simulation: THEN WHO KNOWS THEM KNOWS THE NOISE.

    Raises:
      InputError: the folder is another process's, or damaged; `data` is not
        of one client; a library is missing.
    """
    masking.check_installed()
    if data.num_clients != 1:
      raise InputError(
        f'Expected the data of one client, got {data.num_clients} clients.'
      )
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self._lock = _locked(self.folder / 'lock')
    self._data, self._study = data, study
    self._name, self._group = name, group
    self._allowance = allowance
    self._identity = _secret_file(
      self.folder / 'identity.key', lambda: entropy.token_bytes(32).hex()
    )
    self._own_keys = own_keys or self._from_entropy()
    self._ledger = SiteLedger(self.folder / 'ledger.json', budget)
    self._tasks: dict[str, Mapping[str, Task]] = {}
    self._views: dict[Callable, FederatedDataset] = {}

  def __enter__(self) -> 'Site':
    return self

  def __exit__(self, *unused_exception) -> None:
    os.close(self._lock)

  @property
  def identity(self) -> str:
    """The public key that others know this site by, in hexadecimal."""
    return masking.identity(bytes.fromhex(self._identity)).hex()

  @property
  def num_examples(self) -> int:
    """Of this site."""
    return int(self._data.sizes[0])

  def answer(self, message: bytes) -> bytes:
    """The reply to a message, or the reason why there is none.

    What is refused, and what fails here, is a reply too: it ends nobody's run.
    Of failures that are no refusals the name alone is told; all of it is in
    the log of the site.
    """
    header: Mapping[str, Any] = {}
    started = time.perf_counter()
    try:
      packet = Packet.from_bytes(message)
      header = packet.header
      reply, noted = self._answered(packet, wire.digest(message))
    except InputError as error:
      reply = _refusal(header, str(error))
      noted = {'refused': str(error)}
    except disk.DiskFullError as error:
      reply = _refusal(header, 'failed there: the disk is full')
      noted = {'failed': str(error)}
    except Exception as error:
      reply = _refusal(header, f'failed there: {type(error).__name__}')
      noted = {'failed': f'{type(error).__name__}: {error}'}
    record = {
      'time': time.time(),
      **{k: header.get(k) for k in ('kind', 'run', 'method', 'round', 'step')},
      'bytes_down': len(message),
      'bytes_up': len(reply),
      'seconds': time.perf_counter() - started,
      **noted,
    }
    with contextlib.suppress(OSError):  # a full disk; the reply says so
      self._log({k: v for k, v in record.items() if v is not None})
    return reply

  def leaving(self, task: Task, node: Node) -> dict[str, Any]:
    """Shapes of what a round would send, by name: nothing is computed."""
    _, message = self._shapes(task, node)
    return leaves.named_leaves(message)

  def _answered(
    self, packet: Packet, digest: str
  ) -> tuple[bytes, dict[str, Any]]:
    header = packet.header
    if header.get('version') != version.__version__:
      raise Refused(
        f'Expected a coordinator of fedjax_gen {version.__version__}, as here, '
        f'got {header.get("version")!r}.'
      )
    kinds = {'join': self._join, 'train': self._train, 'sum': self._sum}
    if header.get('kind') not in kinds:
      raise Refused(f'Expected a known message, got {header.get("kind")!r}.')
    for name in ('run', 'method'):
      if name in header and not _NAME.fullmatch(str(header[name])):
        raise Refused(f'Expected a plain {name}, got {header[name]!r}.')
    reply, noted = kinds[header['kind']](packet, digest)
    named = {k: header[k] for k in _ECHOED if k in header}
    return reply._replace(header={**reply.header, **named}).to_bytes(), noted

  # To agree on a study.

  def _join(self, packet: Packet, digest: str) -> tuple[Packet, dict]:
    del digest  # to agree twice is to agree
    run, config = packet.header['run'], packet.header['config']
    noted = {}
    if config is not None:  # else who this is, and no more
      noted = {'methods': sorted(self._agreed(run, config))}
    signed = masking.signature(
      bytes.fromhex(self._identity),
      joining_text(run, packet.header['nonce'], self.num_examples, self._group),
    )
    reply = Packet(
      {
        'name': self._name or self.identity[:8],
        'identity': self.identity,
        'signature': signed.hex(),
        'num_examples': self.num_examples,
        'group': self._group,
      }
    )
    return reply, noted

  def _agreed(self, run: str, config: Mapping[str, Any]) -> Mapping[str, Task]:
    """The methods of a study, which is the one of its run from now on."""
    path = self.folder / 'runs' / run / 'study.json'
    if path.exists():
      lines = workdir.different_fields(
        json.loads(path.read_text(encoding='utf-8')), config
      )
      if lines:
        raise Refused(
          f'Expected the study that run {run} began with, got another:\n{lines}'
        )
    tasks = self._study(config)
    if not path.exists():
      disk.write_atomically(path, json.dumps(config, indent=1) + '\n')
    self._tasks[run] = tasks
    return tasks

  # To train.

  def _train(self, packet: Packet, digest: str) -> tuple[Packet, dict]:
    if self._allowance.secured_only:
      raise Refused('Expected a secure sum, which this site insists on.')
    del digest  # a round is known by what it is of
    if self._task(packet.header['run'], packet.header['method']).num_shares:
      raise Refused(
        'Expected a secure sum: the message has a share of the noise alone.'
      )
    trained = self._trained(packet)
    self._check_size(trained.message)
    return Packet({'metrics': self._told(trained.metrics)}, trained.message), {
      'metrics': trained.metrics
    }

  def _trained(self, packet: Packet) -> _Trained:
    """The outcome of a round, computed once."""
    header = packet.header
    run, method, number = header['run'], header['method'], int(header['round'])
    node = Node(
      int(header['fleet']), int(header['row']), self._group, self.num_examples
    )
    self._allowance.check(method, number)
    task = self._task(run, method)
    path = self.folder / 'runs' / run / method / 'kept'
    asked = Packet(
      {k: header[k] for k in ('round', 'fleet', 'row', 'shared')},
      packet.arrays,
    )
    asked_digest = wire.digest(asked.to_bytes())
    kept = _read(path)
    if kept is not None and kept.header['round'] >= number:
      if kept.header['round'] > number:
        raise Refused(
          f'Expected a round after {kept.header["round"]}, got round {number}: '
          'this site has gone on.'
        )
      if kept.header['asked'] != asked_digest:
        raise Refused(
          f'Expected round {number} of {method} as it was asked for before, '
          'got another: its noise would be drawn twice.'
        )
      return _Trained(_under('message/', kept.arrays), kept.header['metrics'])
    client_shapes, _ = self._shapes(task, node)
    view = wire.to_tree(
      packet.arrays, study_lib.view_shapes(task.algorithm, node)
    )
    shared = _key(header['shared'])  # before it is paid for
    self._ledger.charge(run, method, number, task.event)
    if kept is None:
      own = self._own_keys(run, method, -1)
      client = _begin(task, node.fleet)(own, node.info())
    else:
      client = wire.to_tree(_under('client/', kept.arrays), client_shapes)
    keys = ClientKeys(self._own_keys(run, method, number), shared)
    message, client, metrics = _step(task.algorithm.fleets[node.fleet])(
      view, client, self._prepared(task), node.info(), keys
    )
    trained = _Trained(
      wire.to_arrays(message), {k: float(v) for k, v in metrics.items()}
    )
    _write(
      path,
      Packet(
        {'round': number, 'asked': asked_digest, 'metrics': trained.metrics},
        {
          **_over('client/', wire.to_arrays(client)),
          **_over('message/', trained.message),
        },
      ),
    )
    return trained

  # To sum securely.

  def _sum(self, packet: Packet, digest: str) -> tuple[Packet, dict]:
    header = packet.header
    run, method, step = (header[k] for k in ('run', 'method', 'step'))
    if step not in _SUM_STEPS:
      raise Refused(f'Expected a step of a secure sum, got {step!r}.')
    self._allowance.check(method, int(header['round']))
    task = self._task(run, method)
    terms = terms_from(header['terms'])
    self._check_terms(terms, task, header)
    path = self.folder / 'runs' / run / method / 'sum'
    kept = _read(path)
    part = _SumPart.of(kept, terms, header['terms'])
    if (known := part.replies.get(step)) is not None:
      if known['asked'] != digest:
        raise Refused(
          f'Expected the step {step} of {terms.session} as it was asked for '
          'before, got another: two answers would say more than the sum.'
        )
      return Packet(known['header'], _under(f'{step}/', part.arrays)), {}
    masked_round = part.last_masked
    if masked_round >= int(header['round']) and step in ('advertise', 'mask'):
      raise Refused(
        f'Expected one secure sum of round {header["round"]}, got another: '
        'two of the same message would say more than their sum.'
      )
    node, reply, noted = self._sum_step(packet, terms, part.node)
    if step == 'mask':
      masked_round = int(header['round'])
    replies = {
      **part.replies, step: {'asked': digest, 'header': dict(reply.header)}
    }  # fmt: skip
    _write(
      path,
      Packet(
        {
          'terms': header['terms'],
          'node': node.to_json(),
          'replies': replies,
          'last_masked': masked_round,
        },
        {**part.arrays, **_over(f'{step}/', reply.arrays)},
      ),
    )
    return reply, noted

  def _sum_step(
    self, packet: Packet, terms: masked_sum.Terms, node: masked_sum.Node | None
  ) -> tuple[masked_sum.Node, Packet, dict]:
    header = packet.header
    identity = bytes.fromhex(self._identity)
    if header['step'] == 'advertise':
      node, advert = masked_sum.advertise(
        terms, int(header['place']), entropy.token_bytes(32), identity
      )
      return node, Packet({'advert': [part.hex() for part in advert]}), {}
    if node is None:
      raise Refused(
        f'Expected the step advertise of {terms.session} first, got '
        f'{header["step"]}.'
      )
    match header['step']:
      case 'share':
        adverts = {
          int(i): masked_sum.Advert(*map(bytes.fromhex, parts))
          for i, parts in header['adverts'].items()
        }
        node, texts = masked_sum.share(terms, node, adverts)
        return node, Packet({'sealed': _hex(texts)}), {}
      case 'mask':
        trained = self._trained(packet)
        self._check_size(trained.message)
        try:
          node, masked = masked_sum.mask(
            terms, node, _unhex(header['inbox']), self._vector(packet, trained)
          )
        except InputError as error:
          if 'Expected values' in str(error):  # its size would be told
            raise Refused(
              f'Expected values in +-{terms.number.value_range:g}, got a '
              'larger one, or one that is not finite.'
            ) from error
          raise
        reply = Packet(
          {'metrics': self._told(trained.metrics)}, {'masked': masked}
        )
        return node, reply, {'metrics': trained.metrics}
      case 'agree':
        node, signed = masked_sum.agree(
          terms, node, header['survivors'], identity
        )
        return node, Packet({'signature': signed.hex()}), {}
    told = masked_sum.unmask(terms, node, _unhex(header['signatures']))
    reply = Packet({'lost': _hex(told.lost), 'survived': _hex(told.survived)})
    return node, reply, {}

  def _check_terms(
    self, terms: masked_sum.Terms, task: Task, header: Mapping[str, Any]
  ) -> None:
    if reason := task.algorithm.server.aggregate.reveals:
      raise Refused(
        f'Expected a method that needs sums alone, got '
        f'{header["method"]!r} ({reason}): a secure sum hides nothing there.'
      )
    if terms.threshold < task.num_shares:
      raise Refused(
        f'Expected a sum of {task.num_shares} sites or more, of which the '
        f'noise is in shares, got threshold={terms.threshold}.'
      )
    if task.num_shares and self._ledger.ledger and not self._allowance.peers:
      raise Refused(
        'Expected peers that this site knows, with a budget and noise in '
        'shares: the shares of others could be the coordinator’s.'
      )
    own = terms.identities[int(header['place'])].hex()
    if own != self.identity:
      raise Refused(f'Expected a sum with {self.identity}, got {own} for it.')
    unknown = {key.hex() for key in terms.identities} - {
      *self._allowance.peers,
      self.identity,
    }
    if self._allowance.peers and unknown:
      raise Refused(
        f'Expected a sum with the peers that this site allows, got '
        f'{sorted(unknown)}.'
      )

  def _vector(self, packet: Packet, trained: _Trained) -> np.ndarray:
    """What is summed: the sums of this site by itself, in one row."""
    header = packet.header
    node = Node(
      int(header['fleet']), int(header['row']), self._group, self.num_examples
    )
    task = self._task(header['run'], header['method'])
    _, shapes = self._shapes(task, node)
    message = wire.to_tree(trained.message, shapes)
    summed = study_lib.sums(
      task.algorithm, jax.tree.map(jnp.asarray, message), node.info()
    )
    return flat(summed)

  # What all of it needs.

  def _task(self, run: str, method: str) -> Task:
    if run not in self._tasks:  # restarted since
      path = self.folder / 'runs' / run / 'study.json'
      if not path.exists():
        raise Refused(f'Expected a run that this site joined, got {run!r}.')
      self._tasks[run] = self._study(
        json.loads(path.read_text(encoding='utf-8'))
      )
    if method not in self._tasks[run]:
      raise Refused(
        f'Expected one of {", ".join(self._tasks[run])}, got {method!r}.'
      )
    return self._tasks[run][method]

  def _shapes(self, task: Task, node: Node):
    """Shapes of what the client keeps, and of its message."""
    return _shapes(task.algorithm, node, self._prepared(task))

  def _prepared(self, task: Task) -> FederatedDataset:
    """The data as a method sees them; made once."""
    if task.prepare not in self._views:
      self._views[task.prepare] = task.prepare(self._data)
    return self._views[task.prepare]

  def _check_size(self, message: Mapping[str, np.ndarray]) -> None:
    size = sum(array.nbytes for array in message.values())
    if self._allowance.message_bytes and size > self._allowance.message_bytes:
      raise Refused(
        f'Expected messages of {self._allowance.message_bytes} bytes at most, '
        f'which this site allows, got {size}.'
      )

  def _told(self, metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k in self._allowance.metrics}

  def _from_entropy(self) -> OwnKeys:
    path = self.folder / 'secrets.json'
    text = _secret_file(path, lambda: secret_keys.fresh().to_json())
    found = secret_keys.from_json(text)

    def own(run, method, round_number):
      key = found.key(f'{run}/{method}', 'training')
      return jax.random.fold_in(key, round_number + 1)

    return own

  def _log(self, record: Mapping[str, Any]) -> None:
    with (self.folder / 'log.jsonl').open('a', encoding='utf-8') as log:
      log.write(json.dumps(record) + '\n')


class _SumPart(NamedTuple):
  """What a site has on its disk of the last secure sum."""

  node: masked_sum.Node | None
  replies: Mapping[str, Any]
  arrays: Mapping[str, np.ndarray]
  last_masked: int

  @staticmethod
  def of(
    kept: Packet | None, terms: masked_sum.Terms, said: Mapping[str, Any]
  ) -> '_SumPart':
    if kept is None:
      return _SumPart(None, {}, {}, -1)
    last_masked = kept.header['last_masked']
    if kept.header['terms']['session'] != terms.session:
      return _SumPart(None, {}, {}, last_masked)
    if kept.header['terms'] != said:
      raise Refused(
        f'Expected {terms.session} on the terms that it began with, got others.'
      )
    node = masked_sum.Node.from_json(kept.header['node'])
    return _SumPart(node, kept.header['replies'], kept.arrays, last_masked)


def joining_text(run: str, nonce: str, num_examples: int, group: int) -> bytes:
  """What a site signs to say that it is who it says."""
  return json.dumps(['join', run, nonce, num_examples, group]).encode()


def terms_to(terms: masked_sum.Terms) -> dict[str, Any]:
  """Terms as JSON."""
  return {
    **dataclasses.asdict(terms),
    'identities': [key.hex() for key in terms.identities],
  }


def terms_from(said: Mapping[str, Any]) -> masked_sum.Terms:
  """What `terms_to` gave.

  Raises:
    InputError: they are none, or not allowed.
  """
  try:
    number = masked_sum.FixedPoint(**said['number'])
    identities = tuple(bytes.fromhex(key) for key in said['identities'])
    return masked_sum.Terms(
      **{**said, 'number': number, 'identities': identities}
    )
  except (KeyError, TypeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(
      f'Expected the terms of a secure sum, got others: {error}.'
    ) from error


def flat(tree: Any) -> np.ndarray:
  """All numbers of a tree in one row, float64."""
  rows = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
  return np.concatenate([np.zeros(0), *rows]).astype(np.float64)


_ECHOED = ('kind', 'run', 'method', 'round', 'step', 'nonce')
_SUM_STEPS = ('advertise', 'share', 'mask', 'agree', 'unmask')


@functools.cache
def _step(program):
  """A compiled round of one client."""

  @jax.jit
  def step(view, client, data, info, keys):
    own = data.client(jnp.int32(0))._replace(size=info.num_examples)
    return program.update(view, client, own, keys)

  return step


def _begin(task: Task, fleet: int):
  return jax.jit(task.algorithm.fleets[fleet].init)


def _shapes(algorithm, node: Node, data: FederatedDataset):
  """Shapes of what a client keeps, and of its message; nothing is computed."""
  program = algorithm.fleets[node.fleet]
  key = jax.random.key(0)
  client = jax.eval_shape(program.init, key, node.info())
  message, _, _ = jax.eval_shape(
    _step(program),
    study_lib.view_shapes(algorithm, node),
    client,
    data,
    node.info(),
    ClientKeys(key, key),
  )
  return client, message


def _key(words: list[int]) -> Key:
  return jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32))


def _refusal(header: Mapping[str, Any], reason: str) -> bytes:
  named = {k: header[k] for k in _ECHOED if k in header}
  return Packet({'refused': reason, **named}).to_bytes()


def _over(prefix: str, arrays: Mapping[str, np.ndarray]):
  return {prefix + name: array for name, array in arrays.items()}


def _under(prefix: str, arrays: Mapping[str, np.ndarray]):
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def _hex(texts: Mapping[int, bytes]) -> dict[str, str]:
  return {str(i): text.hex() for i, text in texts.items()}


def _unhex(texts: Mapping[str, str]) -> dict[int, bytes]:
  return {int(i): bytes.fromhex(text) for i, text in texts.items()}


def _read(path: pathlib.Path) -> Packet | None:
  return Packet.from_bytes(path.read_bytes()) if path.exists() else None


def _write(path: pathlib.Path, packet: Packet) -> None:
  with disk.full_disk_named(path), base_files.replacing(path) as unfinished:
    unfinished.touch(mode=0o600)
    unfinished.write_bytes(packet.to_bytes())


def _secret_file(path: pathlib.Path, make: Callable[[], str]) -> str:
  """What is in a file that its owner alone may read; made if need be."""
  if not path.exists():
    with base_files.replacing(path) as unfinished:
      unfinished.touch(mode=0o600)
      unfinished.write_text(make())
  return path.read_text().strip()


def _locked(path: pathlib.Path) -> int:
  lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
  with contextlib.suppress(OSError):
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock
  os.close(lock)
  raise InputError(
    f'Expected a free folder, got {path.parent}: another '
    'process serves this site.'
  )

"""Federations in one process: sites, and a network that can be bad."""

import collections
import dataclasses
import random

import jax
import jax.numpy as jnp

from fedjax_gen.deployment import roster as rosters
from fedjax_gen.deployment.agreement import Task
from fedjax_gen.deployment.collecting import Collector, Patience
from fedjax_gen.deployment.coordinator import Coordinator
from fedjax_gen.deployment.site import Site
from fedjax_gen.deployment.wire import Packet
from fedjax_gen.federated import rounds
from fedjax_gen.federated.execution import cohorts, init, traffic

INIT, KEY = jax.random.key(0), jax.random.key(1)
METHOD = 'federated'


def simulated_keys(fleet, row, num_fleets):
  """The keys that a client has in a simulation, as a site's own."""

  def own(run, method, number):
    del run, method
    if number < 0:
      key = init.init_keys(INIT, num_fleets)[1 + fleet]
    else:
      own = cohorts.run_keys(KEY).own
      key = cohorts.round_keys(own, jnp.int32(number), num_fleets)[2][fleet]
    return jax.random.fold_in(key, row)

  return own


class SiteKilled(BaseException):
  """Of a site's process, wherever it stands."""


class Federation:
  """All sites of an algorithm's clients, in folders, and their coordinator."""

  def __init__(self, folder, algorithm, datasets, *, event=None, **options):
    self.folder, self.algorithm, self.datasets = folder, algorithm, datasets
    self.options = options
    self.study = lambda config: {METHOD: Task(self.algorithm, event)}
    self.least, self.securing = 0, None
    self.patience = Patience(5.0, 1e-9)
    self.notes = []
    self.names = [
      (fleet, row)
      for fleet, data in enumerate(datasets)
      for row in range(data.num_clients)
    ]
    self.sites = {}
    self.begin(folder)
    self.network = Network(self)

  def begin(self, folder):
    """Starts all sites, in a folder where none was."""
    self.folder = folder
    for place in range(len(self.names)):
      self.start(place)

  def start(self, place):
    """Starts a site, again if it was there before."""
    if place in self.sites:
      self.sites[place].__exit__()
    fleet, row = self.names[place]
    everyone = self.datasets[fleet]
    # As if all were of the sizes of all: one program for all sites of a fleet.
    data = dataclasses.replace(
      everyone.select([row]),
      min_size=everyone.min_size,
      max_size=everyone.max_size,
    )
    self.sites[place] = Site(
      self.folder / f'site{place}',
      data,
      self.study,
      name=f'site{place:02}',
      group=int(data.groups[0]),
      **{
        'own_keys': simulated_keys(fleet, row, len(self.datasets)),
        **self.options,
      },
    )

  def coordinator(self, patience=1.0):
    """A new one on the same folder, as after a kill."""
    roster = rosters.gathered(
      self.network,
      self.folder / 'server' / 'federation.json',
      len(self.names),
      assign=lambda sites: self.names[: len(sites)],
      note=self.notes.append,
      patience=patience,
    )
    roster.agree({'study': 'test'})
    return Coordinator(
      METHOD,
      self.algorithm,
      Collector(roster, self.network, self.patience, self.notes.append),
      [
        message
        for _, message in traffic.exchanged(self.algorithm, self.datasets)
      ],
      keys=cohorts.run_keys(KEY),
      folder=self.folder / 'server' / 'sums',
      least=self.least or len(self.names),
      securing=self.securing,
    )

  def run(self, num_rounds, state=None):
    """The state after some rounds, and the metrics of the last."""
    coordinator = self.coordinator()
    state = coordinator.init(INIT) if state is None else state
    for _ in range(num_rounds):
      state, metrics = coordinator.round(state)
    return state, metrics

  def kept(self, place):
    """What a site keeps, by name."""
    path = self.folder / f'site{place}' / 'runs'
    [kept] = path.glob('*/*/kept')
    return Packet.from_bytes(kept.read_bytes())

  def causes(self, kind):
    """What was noted of a kind, `(node, cause)` each."""
    return [
      (note.get('node'), note.get('cause'))
      for note in self.notes
      if note['kind'] == kind
    ]


class Network:
  """A transport in memory; `fault` may change or lose what it carries."""

  def __init__(self, federation):
    self.federation = federation
    self.fault = lambda place, header, reply: [reply]
    self.before = lambda place, message: message
    self.late = collections.deque()
    self.bytes = collections.Counter()

  def addresses(self):
    return list(self.federation.sites)

  def exchange(self, requests, seconds):
    del seconds
    while self.late:
      yield self.late.popleft()
    for place, message in requests.items():
      self.bytes['down'] += len(message)
      message = self.before(place, message)
      if message is None:
        continue
      header = Packet.from_bytes(message).header
      try:
        reply = self.federation.sites[place].answer(message)
      except SiteKilled:
        self.federation.start(place)
        continue
      self.bytes['up'] += len(reply)
      for copy in self.fault(place, header, reply):
        yield place, copy


def bad_network(seed):
  """Loses, repeats and delays one in some replies."""
  draws = random.Random(seed)

  def install(network):
    def fault(place, header, reply):
      del header
      luck = draws.random()
      if luck < 0.2:
        return []
      if luck < 0.4:
        network.late.append((place, reply))
        return []
      return [reply, reply] if luck < 0.6 else [reply]

    network.fault = fault

  return install


def simulated(algorithm, datasets, num_rounds):
  """The state and metrics of the engine's rounds."""
  state = rounds.init_state(algorithm, datasets, INIT)
  run = rounds.round_runner(algorithm)
  return jax.device_get(run(state, datasets, KEY, num_rounds))

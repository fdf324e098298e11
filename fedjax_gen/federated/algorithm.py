"""What a federated algorithm is: a value made of pure functions.

The signatures are the trust boundary. `ClientProgram.view` is all that goes
down and the message all that goes up; a client's own state is never an
argument of a server function, and the server reaches a client only through
its view. The byte sizes of these two trees are the communication meter.
"""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_gen.data.federated import ClientData
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.types import Array, Key, Metrics, Tree


class ClientInfo(NamedTuple):
  """What the simulator knows of one client in one round.

  Written for one client; a cohort is the same tuple with a leading `[K]` axis.

  Attributes:
    row: int32 row of the client in its fleet's population.
    group: int32 group of the client; 0 where there are none.
    num_examples: int32 number of its examples; 0 while it is absent.
    weight: float32 weight in weighted means; 0 while it is absent.
    present: bool, False for a client that was not sampled (padding) or
      failed: it contributes nothing and its state stays as it was.
  """

  row: Array
  group: Array
  num_examples: Array
  weight: Array
  present: Array


class ClientProgram(NamedTuple):
  """The work of one client, written for one client; the engine maps it.

  Attributes:
    init: `(key, info) -> client`, the private state it keeps between rounds;
      `()` for a client that keeps nothing.
    view: `(server, info) -> view`, all that the server sends down.
    update: `(view, client, data, key) -> (message, client, metrics)`; the
      message is all that goes up, the metrics are scalars for the log of the
      simulation (they never reach the server program).
  """

  init: Callable[[Key, ClientInfo], Tree]
  view: Callable[[Tree, ClientInfo], Tree]
  update: Callable[[Tree, Tree, ClientData, Key], tuple[Tree, Tree, Metrics]]


class ServerProgram(NamedTuple):
  """The work of the server, which only ever sees sums over clients.

  Attributes:
    init: `key -> server`.
    aggregate: how messages become sums and sums become one tree.
    update: `(server, aggregated, key) -> (server, metrics)`.
  """

  init: Callable[[Key], Tree]
  aggregate: Aggregate
  update: Callable[[Tree, Tree, Key], tuple[Tree, Metrics]]


class Algorithm(NamedTuple):
  """A federated algorithm.

  Attributes:
    server: the server program.
    fleets: one client program for each fleet, a fleet being the clients that
      share one architecture and hence one stackable state. Most algorithms
      have one; heterogeneity is more entries, not a branch.
  """

  server: ServerProgram
  fleets: tuple[ClientProgram, ...]


class FederatedState(NamedTuple):
  """Everything the next round needs, and exactly what a checkpoint holds.

  Attributes:
    round: int32 scalar, rounds done.
    server: the server program's state.
    fleets: the clients' private states, leaves `[N, ...]`, one tree a fleet.
  """

  round: Array
  server: Tree
  fleets: tuple[Tree, ...]

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


class ClientKeys(NamedTuple):
  """What a client draws from in one round, two keys that are both consumed.

  Attributes:
    own: the client's alone. In a private run it is secret
      (`privacy.secret_keys`); on a real site it comes from the site's own
      entropy. Batches, dropout and noise are drawn from it.
    shared: the same for all clients of the round, and known to the server: for
      draws on which clients have to agree. Nothing secret may depend on it.
  """

  own: Key
  shared: Key


class ClientProgram(NamedTuple):
  """The work of one client, written for one client; the engine maps it.

  Attributes:
    init: `(key, info) -> client`, the private state it keeps between rounds;
      `()` for a client that keeps nothing.
    view: `(server, info) -> view`, all that the server sends down.
    update: `(view, client, data, keys) -> (message, client, metrics)`; the
      message is all that goes up, the metrics are scalars for the log of the
      simulation (they never reach the server program). `keys` are
      `ClientKeys`.
  """

  init: Callable[[Key, ClientInfo], Tree]
  view: Callable[[Tree, ClientInfo], Tree]
  update: Callable[
    [Tree, Tree, ClientData, ClientKeys], tuple[Tree, Tree, Metrics]
  ]


class ServerProgram(NamedTuple):
  """The work of the server, which only ever sees sums over clients.

  Attributes:
    init: `key -> server`.
    aggregate: how messages become sums and sums become one tree.
    update: `(server, aggregated, key) -> (server, metrics)`; the key is the
      server's alone, and secret in a private run.
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

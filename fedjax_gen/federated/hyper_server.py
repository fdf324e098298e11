"""A server that holds a hypernetwork, and a code of each client.

Shamsian, Navon, Fetaya, Chechik, "Personalized federated learning using
hypernetworks" (pFedHN), ICML 2021: a client receives the model that the
hypernetwork h makes from its code, and the server passes what comes back
through h, to h and to the code. In the paper that is the change after some
local steps of one client; here it is the gradients of a cohort.

THE SERVER SEES WHAT EACH CLIENT SENDS, by name: to keep it private, add noise
before sending.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen.federated import aggregates
from fedjax_gen.federated.aggregates import Aggregate
from fedjax_gen.federated.algorithm import ClientInfo, ServerProgram
from fedjax_gen.types import Array, Key, Tree


class HyperServer(NamedTuple):
  """State of `hyper_server`.

  Attributes:
    variables: `{'hyper': ..., 'codes': [N, V]}`.
    optimizer_state: of both.
  """

  variables: dict[str, Any]
  optimizer_state: Any


class Hypernetwork(NamedTuple):
  """What the server trains, as functions of one client's code.

  Attributes:
    init: `key -> hyper`.
    init_code: `key -> code [V]`.
    make: `(hyper, code) -> what the client receives`.
    penalty: `(hyper, code, key) -> scalar`, without data.
    project: `code -> code`, after the step.
  """

  init: Callable[[Key], Tree]
  init_code: Callable[[Key], Array]
  make: Callable[[Tree, Array], Tree]
  penalty: Callable[[Tree, Array, Key], Array]
  project: Callable[[Array], Array]


def hyper_server(
  network: Hypernetwork,
  optimizer: optax.GradientTransformation,
  num_clients: int,
) -> tuple[ServerProgram, Callable[[HyperServer, ClientInfo], Tree]]:
  """The server, and what a client views of it.

  Args:
    network: the hypernetwork.
    optimizer: of `{'hyper': ..., 'codes': [N, V]}`.
    num_clients: N.

  Returns:
    A `ServerProgram` for messages like what `network.make` makes, gradients of
    it; and `(server, info) -> view`.
  """

  def init(key):
    hyper_key, code_key = jax.random.split(key)
    hyper = network.init(hyper_key)
    codes = jax.vmap(network.init_code)(jax.random.split(code_key, num_clients))
    variables = {'hyper': hyper, 'codes': codes}
    return HyperServer(variables, optimizer.init(variables))

  def view(server, info):
    hyper, codes = server.variables['hyper'], server.variables['codes']
    return network.make(hyper, codes[info.row])

  def update(server, aggregated, key):
    sent, present = aggregated
    hyper, codes = server.variables['hyper'], server.variables['codes']
    share = present / jnp.maximum(present.sum(), 1.0)
    descended = functools.partial(_descended, network, (sent, share, key))
    gradient = jax.grad(descended, argnums=(0, 1))(hyper, codes)
    updates, state = optimizer.update(
      dict(zip(('hyper', 'codes'), gradient, strict=True)),
      server.optimizer_state,
      server.variables,
    )
    moved = optax.apply_updates(server.variables, updates)
    projected = jax.vmap(network.project)(moved['codes'])
    # A client that was away keeps its code, momentum or not.
    kept = jnp.where((present > 0)[:, None], projected, codes)
    metrics = {'update_norm': optax.tree.norm(updates['hyper'])}
    return HyperServer({**moved, 'codes': kept}, state), metrics

  return ServerProgram(init, _by_row(num_clients), update), view


def _descended(
  network: Hypernetwork,
  received: tuple[Tree, Array, Key],
  hyper: Tree,
  codes: Array,
) -> Array:
  """A scalar with the gradient that clients sent, taken back to h and codes.

  Args:
    network: the hypernetwork.
    received: gradients `[N, ...]`, the clients' shares `[N]` and a key.
    hyper: h.
    codes: `[N, V]`.
  """
  sent, share, key = received
  made = jax.vmap(lambda code: network.make(hyper, code))(codes)
  along = jax.tree.map(
    lambda value, sent: jnp.tensordot(
      share, jnp.sum((value * sent).reshape(len(share), -1), axis=1), 1
    ),
    made,
    sent,
  )
  penalties = jax.vmap(lambda code: network.penalty(hyper, code, key))(codes)
  return sum(jax.tree.leaves(along)) + jnp.sum(share * penalties)


def _by_row(num_clients: int) -> Aggregate:
  """Each client's message in its row, and its weight."""
  by_row = aggregates.by_group(num_clients, keep_weight=True)

  def partial(messages, infos):
    return by_row.partial(messages, infos._replace(group=infos.row))

  return by_row._replace(
    partial=partial, reveals='codes at the server: a group for each client'
  )

"""Training in phases: each phase trains some modules of a model.

A phase ends after a number of rounds, whoever took part. What it does not train
is a constant to its loss, is not noised in a private run, and stays as it is on
the server. The state has the same structure in all phases, so that one compiled
program serves them: the round decides which branch is computed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.federated import ClientData
from fedjax_gen.errors import InputError
from fedjax_gen.federated.aggregates import WeighedMean
from fedjax_gen.federated.algorithm import ServerProgram
from fedjax_gen.federated.servers import LearnedServer
from fedjax_gen.types import Array, Key, LossFn, Metrics, Phase, Tree, Variables

Run = Callable[
  [LossFn, Variables, Tree, ClientData, Key], tuple[Variables, Tree, Metrics]
]
"""As `averaging.Trainer.run`."""


class View(NamedTuple):
  """What clients receive.

  Attributes:
    variables: of the model.
    round: int32 scalar, rounds done.
  """

  variables: Variables
  round: Array


class PhasedServer(NamedTuple):
  """State of `phased_server`.

  Attributes:
    learned: of the server of all modules.
    round: int32 scalar, rounds done.
  """

  learned: LearnedServer
  round: Array

  @property
  def variables(self) -> Variables:
    """Of all modules, after the last round."""
    return self.learned.variables

  @property
  def deployed(self) -> Variables:
    """Of all modules, averaged over rounds if the server is asked to."""
    return self.learned.deployed


def check(loss: LossFn | Sequence[Phase], num_rounds: int) -> None:
  """Raises `InputError` if a training ends before its last phase.

  Args:
    loss: what training descends, or its phases.
    num_rounds: of the training.
  """
  if callable(loss):
    return
  before = sum(phase.rounds for phase in loss[:-1])
  if num_rounds <= before:
    raise InputError(
      f'Expected rounds > {before}, those of the phases before the last, got '
      f'rounds={num_rounds}.'
    )


def of_round(phases: Sequence[Phase], number: Array) -> Array:
  """Index of the phase in which a round is, from the number of rounds done."""
  ends = np.cumsum([phase.rounds for phase in phases[:-1]], dtype=np.int32)
  return jnp.sum(number >= jnp.asarray(ends, jnp.int32))


def train(
  run: Run,
  phases: Sequence[Phase],
  number: Array,
  variables: Variables,
  kept: Sequence[Tree],
  data: ClientData,
  key: Key,
) -> tuple[Variables, tuple[Tree, ...], Metrics]:
  """Trains the modules of the phase in which a round is.

  Args:
    run: trains some variables, as `averaging.Trainer.run`.
    phases: of the training.
    number: rounds done.
    variables: of the whole model.
    kept: what `run` keeps between rounds, for each phase.
    data: of the client.
    key: consumed.

  Returns:
    Variables, what is kept, and metrics. Those of other phases are zero.
  """

  def branch(index):
    phase = phases[index]

    def compute():
      chosen = {module: variables[module] for module in phase.modules}

      def loss_fn(trained, batch, key):
        loss, (after, metrics) = phase.loss(variables | trained, batch, key)
        return loss, ({name: after[name] for name in trained}, metrics)

      trained, own, metrics = run(loss_fn, chosen, kept[index], data, key)
      after = (*kept[:index], own, *kept[index + 1 :])
      return variables | trained, after, metrics

    return compute

  branches = [branch(index) for index in range(len(phases))]
  shapes = [jax.eval_shape(compute)[2] for compute in branches]
  every = {name: shape for metrics in shapes for name, shape in metrics.items()}

  def padded(compute):
    def computed():
      *trained, metrics = compute()
      return *trained, trees.zeros_like(every) | metrics

    return computed

  return jax.lax.switch(
    of_round(phases, number), [padded(compute) for compute in branches]
  )


def phased_server(
  server: ServerProgram, phases: Sequence[Phase]
) -> ServerProgram:
  """A server that moves the modules of the phase in which it is, alone.

  Where it averages over rounds, the average of a module begins with its phase,
  and later phases are given the averaged module, which is what is deployed.

  Args:
    server: `servers.learned_server` of variables by module.
    phases: of the training.
  """
  starts = np.cumsum([0, *(phase.rounds for phase in phases[:-1])])

  def init(key):
    return PhasedServer(server.init(key), jnp.zeros((), jnp.int32))

  def update(state, aggregated, key):
    learned = state.learned
    trained = _is_trained(phases, state.round, learned.variables)
    if learned.average:
      is_start = jnp.isin(state.round, jnp.asarray(starts))
      rounds = jnp.where(is_start, 0, learned.average.rounds)
      learned = learned._replace(
        average=learned.average._replace(rounds=rounds)
      )
    after, metrics = server.update(learned, _only(trained, aggregated), key)
    # Put back: an optimizer with momentum moves what has no gradient, too.
    after = after._replace(
      variables=_where(trained, after.variables, learned.variables)
    )
    if learned.average:
      averaged = _where(
        trained, after.average.variables, learned.average.variables
      )
      after = after._replace(average=after.average._replace(variables=averaged))
    return PhasedServer(after, state.round + 1), metrics

  return ServerProgram(init, server.aggregate, update)


def view(phases: Sequence[Phase], server: PhasedServer) -> View:
  """What clients train, and of the other modules what is deployed."""
  trained = _is_trained(phases, server.round, server.variables)
  return View(_where(trained, server.variables, server.deployed), server.round)


def _is_trained(
  phases: Sequence[Phase], number: Array, variables: Variables
) -> dict[str, Array]:
  """Whether each module is trained in the phase in which a round is."""
  index = of_round(phases, number)
  return {
    module: jnp.asarray([module in phase.modules for phase in phases])[index]
    for module in variables
  }


def _where(
  chosen: dict[str, Array], variables: Variables, others: Variables
) -> Variables:
  """By module: the first variables where it is chosen, else the others."""
  return {
    module: trees.where(flag, variables[module], others[module])
    for module, flag in chosen.items()
  }


def _only(trained: dict[str, Array], aggregated: Tree) -> Tree:
  """An aggregate, with zeros for the modules that are not trained."""
  if isinstance(aggregated, WeighedMean):
    return aggregated._replace(mean=_only(trained, aggregated.mean))
  return _where(trained, aggregated, trees.zeros_like(aggregated))

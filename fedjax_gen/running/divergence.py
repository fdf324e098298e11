"""Finds the first number that is not finite, and which client it belongs to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_gen.running import leaves
from fedjax_gen.running.stopping import DivergedError
from fedjax_gen.running.storage.checkpoints import Checkpoints

# A metric with a name that ends so is `[n, K]`, one number per round and
# participant. They are not logged; they name the clients behind a loss that is
# not finite.
PER_CLIENT = '_per_client'
CLIENT_NUMBERS = f'client{PER_CLIENT}'


def find(
  rounds: Sequence[Mapping[str, float]],
  metrics: Mapping[str, np.ndarray] | None,
  trained: Any,
) -> str | None:
  """Returns in words the first number that is not finite, or None.

  Args:
    rounds: per round its number, `round`, and its metrics; those with names
      that end in `loss` must be finite unless the round had no `participants`.
    metrics: the same metrics as arrays, with those per client; None to look at
      what is trained alone.
    trained: a tree of arrays; floats must be finite.
  """
  for i, record in enumerate(rounds if metrics is not None else ()):
    if record.get('participants') == 0:
      continue  # a mean over nobody
    for name, value in record.items():
      if name.endswith('loss') and not np.isfinite(value):
        clients = _clients(metrics or {}, f'{name}{PER_CLIENT}', i)
        return f'{name} is {value} in round {record["round"]}{clients}'
  if (leaf := leaves.first_non_finite(trained)) is not None:
    return f'{leaf} is not finite after round {rounds[-1]["round"]}'
  return None


def error(method: str, problem: str, checkpoints: Checkpoints) -> DivergedError:
  """Returns the exception for a `problem` found, naming what is kept."""
  rounds = checkpoints.rounds()
  kept = (
    f'The last good checkpoint, of round {rounds[-1]}, is kept: '
    f'{checkpoints.path / str(rounds[-1])}'
    if rounds
    else 'No checkpoint had been saved before.'
  )
  return DivergedError(
    f'{method} diverged: {problem}.\n{kept}\n'
    'A smaller learning rate is the usual remedy.'
  )


def _clients(metrics: Mapping[str, np.ndarray], name: str, i: int) -> str:
  if name not in metrics:
    return ''
  bad = np.flatnonzero(~np.isfinite(metrics[name][i]))
  if CLIENT_NUMBERS in metrics:
    bad = metrics[CLIENT_NUMBERS][i][bad]
  if not bad.size:
    return ', no single client being the cause'
  shown = ', '.join(map(str, bad[:10])) + ', ...' * (bad.size > 10)
  return f', from client{"s" * (bad.size > 1)} {shown}'

"""What a client that joins later has of a code, and what lies between codes.

python -m benchmarks.newcomer --out=newcomer.json

The federation is `gaussian_domains`: five domains, two clients each. FedHypeVAE
is trained without some clients; to each of these a code is then fitted from
its own class moments, and nothing else changes. The decoder of that code is
compared, on records of the newcomer that nothing saw, with that of the neutral
code, and with that of the code that the same client has where it was trained
with the others. Two cases: the newcomer's domain has another client that was
trained, or no client of the domain was.

For what lies between two codes the exact class means of the domains are known:
along the way from one client's code to that of another, how far are the
generated class means from those of either domain, and from the mean of both?
"""

import argparse
from collections.abc import Callable, Sequence
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.data import gaussians, heldout, partition, sources
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.data.heldout import Split
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import heads
from fedjax_gen.evaluation.embeddings import embedding_quality
from fedjax_gen.federated import rounds
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.models.hyper import hypernetwork, meta_code
from fedjax_gen.models.hyper.hypernetwork import HyperVae, HyperVaeConfig
from fedjax_gen.models.hyper.meta_code import ClassMoments
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import plan as plan_lib
from fedjax_gen.types import Array

_CLIENTS = gaussians.NUM_DOMAINS * gaussians.USERS_PER_DOMAIN
_PER_CLASS = 500  # generated embeddings
_KEPT = ('accuracy', 'class_mean_error', 'class_mmd')


class Trained(NamedTuple):
  """A finished training.

  Attributes:
    clients: that took part.
    hyper: what they share.
    codes: `[len(clients), V]`.
  """

  clients: Sequence[int]
  hyper: dict[str, Any]
  codes: Array


class World(NamedTuple):
  """What all trainings have in common."""

  source: DataSource
  split: Split
  model: HyperVae
  algorithm: Algorithm
  run: Callable[..., Any]
  flags: argparse.Namespace


def main(argv: list[str] | None = None) -> None:
  """Measures, prints and writes a JSON object."""
  flags = _flags(argv)
  world = _world(flags)
  everyone = _trained(world, range(_CLIENTS))
  result = {
    'rounds': flags.rounds,
    'epsilon': flags.epsilon,
    'domain_known': _known_domains(world, everyone),
    'domain_new': _new_domains(world, everyone),
    'between': _between(world, everyone),
  }
  text = json.dumps(result, indent=2)
  print(text)
  if flags.out:
    pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')


def _world(flags: argparse.Namespace) -> World:
  """Data, and one algorithm for all trainings: clients are equally large."""
  source = sources.load('gaussian_domains', seed=flags.seed)
  train = source.train
  split = heldout.split_clients(
    partition.natural(train.users), train.labels, seed=flags.seed
  )
  model = hypernetwork.build_hyper_vae(
    HyperVaeConfig(), DataSpec(source.input_shape, source.num_classes)
  )
  config = fedhypevae.Config()
  plan = plan_lib.record_plan(
    plan_lib.PrivacyConfig('record', flags.epsilon),
    np.asarray(split.train.sizes),
    batch_size=config.batch_size,
    epochs=config.epochs,
    rounds=flags.rounds,
  )
  mode = 'none' if np.isinf(flags.epsilon) else 'record_joint'
  algorithm = fedhypevae.fedhypevae(config, model, mode, plan)
  run = rounds.round_runner(algorithm)
  return World(source, split, model, algorithm, run, flags)


def _known_domains(world: World, everyone: Trained) -> dict[str, dict]:
  """The second client of every domain joins the first ones."""
  firsts = _trained(world, range(0, _CLIENTS, gaussians.USERS_PER_DOMAIN))
  newcomers = [c for c in range(_CLIENTS) if c not in firsts.clients]
  return _means([
    _newcomer(world, firsts, everyone, client) for client in newcomers
  ])  # fmt: skip


def _new_domains(world: World, everyone: Trained) -> dict[str, dict]:
  """The clients of one domain join those of the four others."""
  rows = []
  for domain in range(gaussians.NUM_DOMAINS):
    mine = [c for c in range(_CLIENTS) if _domain(c) == domain]
    others = _trained(world, [c for c in range(_CLIENTS) if c not in mine])
    rows += [_newcomer(world, others, everyone, client) for client in mine]
  return _means(rows)


def _newcomer(
  world: World, before: Trained, everyone: Trained, client: int
) -> dict[str, dict[str, float]]:
  """One client, by the code that its decoder is of."""
  model, flags = world.model, world.flags
  fit_key, draw_key = jax.random.split(jax.random.key(flags.seed + 1))

  def fitted(clients, most=None):
    moments = _moments(world, clients, most)
    code, _ = meta_code.fit_code(model, before.hyper, moments, fit_key)
    return before.hyper, code

  choices = {'neutral code': fitted(before.clients)}
  for most in flags.records:
    choices[f'own code, {most} records a class'] = fitted([client], most)
  choices['own code, all records'] = fitted([client])
  row = list(everyone.clients).index(client)
  choices['trained with the others'] = everyone.hyper, everyone.codes[row]
  found = {
    name: _measured(world, *made, client, draw_key)
    for name, made in choices.items()
  }
  inputs, labels = _rows(world, 'train', client)
  found['its own records'] = _quality(world, inputs, labels, client)
  return found


def _between(world: World, everyone: Trained) -> list[dict[str, float]]:
  """Means over the pairs of first clients of different domains."""
  exact = gaussians.moments().means
  firsts = range(0, _CLIENTS, gaussians.USERS_PER_DOMAIN)
  shares = np.linspace(0, 1, 5)
  rows = []
  for first in firsts:
    for last in firsts:
      if first == last:
        continue
      ends = exact[_domain(first)], exact[_domain(last)]
      way = meta_code.interpolated(
        everyone.codes[first], everyone.codes[last], len(shares)
      )
      means = [_generated_means(world, everyone.hyper, code) for code in way]
      rows.append([
        {
          'from_first': _distance(mean, ends[0]),
          'from_last': _distance(mean, ends[1]),
          'from_their_mean': _distance(
            mean, (1 - share) * ends[0] + share * ends[1]
          ),
          'between_the_ends': _distance(*ends),
        }
        for share, mean in zip(shares, means, strict=True)
      ])  # fmt: skip
  return [
    {'share': float(share), **_mean_of(at)}
    for share, at in zip(shares, zip(*rows, strict=True), strict=True)
  ]


def _trained(world: World, clients: Sequence[int]) -> Trained:
  """FedHypeVAE with some of the clients, on their training records."""
  flags, train = world.flags, world.source.train
  data = federated_dataset(
    train.inputs, train.labels, world.split.train
  ).select(np.asarray(clients))
  init_key, run_key = jax.random.split(jax.random.key(flags.seed))
  state = rounds.init_state(world.algorithm, [data], init_key)
  state, _ = world.run(state, [data], run_key, flags.rounds)
  return Trained(
    list(clients), state.server.variables, state.fleets[0].own['code']
  )


def _moments(
  world: World, clients: Sequence[int], most: int | None
) -> ClassMoments:
  """Exact class moments of training records, without noise."""
  parts = [_rows(world, 'train', client) for client in clients]
  inputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
  of_classes = [
    inputs[labels == label][:most] for label in range(world.source.num_classes)
  ]
  return ClassMoments(
    jnp.array([len(rows) for rows in of_classes], jnp.float32),
    jnp.stack([rows.mean(axis=0) for rows in of_classes]),
    jnp.stack([rows.var(axis=0) for rows in of_classes]),
  )


def _measured(world, hyper, code, client, key) -> dict[str, float]:
  """What a code's embeddings are worth to a client."""
  model, num_classes = world.model, world.source.num_classes
  labels = np.tile(np.arange(num_classes, dtype=np.int32), _PER_CLASS)
  inputs = hypernetwork.generate(
    model, hyper, model.personalise(hyper, code), jnp.asarray(labels), key
  )
  return _quality(world, np.asarray(inputs), labels, client)


def _quality(world, inputs, labels, client) -> dict[str, float]:
  """Of embeddings: a classifier made of them, and how far they are."""
  real_inputs, real_labels = _rows(world, 'test', client)
  head = heads.train_head(inputs, labels, world.source.num_classes)
  chosen = heads.probabilities(head, real_inputs).argmax(axis=1)
  found = embedding_quality.quality(
    real_inputs, real_labels, inputs, labels, world.flags.seed
  )
  found['accuracy'] = float(np.mean(chosen == real_labels))
  return {name: found[name] for name in _KEPT}


def _generated_means(world: World, hyper: Any, code: Array) -> np.ndarray:
  personal = world.model.personalise(hyper, code)
  return np.asarray(
    meta_code.generated_moments(
      world.model, hyper, personal, jax.random.key(0), 256
    ).means
  )


def _rows(world: World, part: str, client: int):
  rows = getattr(world.split, part).rows(client)
  train = world.source.train
  return train.inputs[rows], train.labels[rows]


def _domain(client: int) -> int:
  return client // gaussians.USERS_PER_DOMAIN


def _distance(left: np.ndarray, right: np.ndarray) -> float:
  """Root mean square over features and classes; features are of size 1."""
  return float(np.sqrt(np.mean((left - right) ** 2)))


def _mean_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
  return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}


def _means(rows: Sequence[dict]) -> dict[str, dict]:
  """Over newcomers, with the spread of the accuracy."""
  return {
    name: {
      **_mean_of([row[name] for row in rows]),
      'accuracy_stddev': float(np.std([r[name]['accuracy'] for r in rows])),
      'newcomers': len(rows),
    }
    for name in rows[0]
  }


def _flags(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=200)
  parser.add_argument('--epsilon', type=float, default=np.inf)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--records', type=int, nargs='*', default=[5, 20], help='of a class'
  )
  parser.add_argument('--out', help='JSON file to write')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()

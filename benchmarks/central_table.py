"""TVAE or CTGAN of the package `ctgan`, on a table in one place.

    pip install -e '.[tables,peers]'
    python -m benchmarks.central_table --data=rand_health --model=TVAE \
        --workdir=runs/tvae

What the federated model of `experiments.fedvae` is compared with: the same rows
for training, the same held-out rows, the same scores, but no federation and no
privacy. Writes `summary.json` as the programs do.
"""

import argparse
from collections.abc import Sequence
import pathlib

import numpy as np

from fedjax_gen import encoding, federation
from fedjax_gen.data import sources
from fedjax_gen.data.examples import DataSource
from fedjax_gen.evaluation import kind_scores
from fedjax_gen.running.environment import environment
from fedjax_gen.running.storage import disk

_MISSING = ' is missing'


def drawn(source: DataSource, model: str, *, epochs: int, seed: int, num: int):
  """`[num, F]` encoded rows of a model of the encoded source's training rows.

  Neither model takes missing numbers: these are the median of their column, and
  a column of flags says where.
  """
  import ctgan  # noqa: PLC0415, an extra
  import pandas as pd  # noqa: PLC0415, an extra
  import torch  # noqa: PLC0415, an extra

  np.random.seed(seed)  # noqa: NPY002, what ctgan draws from
  torch.manual_seed(seed)
  assert source.codec is not None
  columns = source.codec.schema.columns
  raw = source.codec.decode(source.train.inputs)
  frame = pd.DataFrame(raw, columns=[column.name for column in columns])
  discrete = [column.name for column in columns if not column.is_number]
  for name in frame.columns[frame.isna().any()]:
    frame[name + _MISSING] = frame[name].isna().astype(float)
    frame[name] = frame[name].fillna(frame[name].median())
    discrete.append(name + _MISSING)
  synthesiser = getattr(ctgan, model)(epochs=epochs)
  synthesiser.fit(frame, discrete)
  made = synthesiser.sample(num).astype(float)
  for column in columns:
    if column.name + _MISSING in made:
      made.loc[made[column.name + _MISSING] == 1, column.name] = np.nan
  return source.codec.encode(made[[c.name for c in columns]].to_numpy())


def main(arguments: Sequence[str] | None = None) -> None:
  """Trains, measures, writes the summary."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data', default='rand_health')
  parser.add_argument('--model', choices=['TVAE', 'CTGAN'], default='TVAE')
  parser.add_argument('--epochs', type=int, default=30)
  parser.add_argument('--num_samples', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  asked = parser.parse_args(arguments)
  source = sources.load(asked.data, seed=asked.seed)
  clients = federation.build_partition(
    federation.FederationConfig(), source, seed=asked.seed
  )
  source = encoding.encode(source, clients)
  made = drawn(
    source, asked.model, epochs=asked.epochs, seed=asked.seed,
    num=asked.num_samples,
  )  # fmt: skip
  metrics = kind_scores.measure(
    source, made, np.zeros(len(made), int), seed=asked.seed, by_training=True
  )
  asked.workdir.mkdir(parents=True, exist_ok=True)
  summary = {'environment': environment(), 'methods': {asked.model: metrics}}
  disk.write_atomically(asked.workdir / 'summary.json', disk.to_json(summary))


if __name__ == '__main__':
  main()

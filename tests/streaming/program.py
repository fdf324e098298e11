"""A run of a population in files, to be killed by its test."""

import pathlib
import sys
import time

import jax
import numpy as np

from fedjax_gen.federated import sampling
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.running import federated_step, leaves, training
from fedjax_gen.running.progress import progress
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.streaming import streamed
from tests.streaming import toys

ROUNDS = 20


def main(path: pathlib.Path, pause: float):
  init_key, key = jax.random.split(jax.random.key(0))
  _, everyone = toys.datasets()
  fleets = [everyone.select(np.arange(7)), everyone.select(np.arange(7, 10))]
  [program] = toys.keeping().fleets
  run = streamed.streamed_runner(
    Algorithm(toys.keeping().server, (program, program)), fleets, init_key,
    folder=path / 'clients',
    samplers=[
      sampling.with_dropout(sampling.uniform(5), 0.2), sampling.uniform(2),
    ],
  )  # fmt: skip

  def slowly(*arguments):
    time.sleep(pause)
    return run(*arguments)

  with Workdir(path, {'what': 'toy'}) as workdir:
    result = training.train(
      method='toy',
      init=run.init_state,
      step=federated_step.federated_step(
        slowly, [federated_step.rounds.Traffic(1, 1)] * 2, fleets, key
      ),
      # Two rounds in three are lost with the process.
      schedule=training.Schedule(ROUNDS, checkpoint_every=3),
      workdir=workdir,
      progress=progress(),
      best_metric='loss',
      best_mode='min',
      population=run,
    )
    kept = [
      run.client_states(result.state, np.arange(data.num_clients), fleet=fleet)
      for fleet, data in enumerate(fleets)
    ]
    digest = leaves.params_digest((result.state.server, kept))
    (path / 'digest.txt').write_text(digest)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), float(sys.argv[2]))

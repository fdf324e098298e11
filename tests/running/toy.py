"""A program with a tiny model that uses all of the run infrastructure."""

import dataclasses
import time
from typing import NamedTuple

from fedjax_gen import validate
from fedjax_gen.studies.command import program


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  """The model."""

  learning_rate: float = dataclasses.field(
    default=0.1, metadata={'help': 'Step size.'}
  )
  likelihood: str = dataclasses.field(
    default='gaussian',
    metadata={'help': 'Of a pixel.', 'choices': ('gaussian', 'bernoulli')},
  )
  widths: tuple[int, ...] = dataclasses.field(
    default=(4, 3), metadata={'help': 'Of the hidden layers.'}
  )
  nan_round: int = 0
  pause: float = dataclasses.field(default=0.0, metadata={'recorded': False})

  def __post_init__(self):
    validate.positive(learning_rate=self.learning_rate)


class Configs(NamedTuple):
  run: program.RunConfig = program.RunConfig(rounds=12)
  toy: ToyConfig = ToyConfig()


def main(session, asked):
  import jax
  import jax.numpy as jnp

  from fedjax_gen.running import leaves, training

  run, toy = asked

  xs = jnp.linspace(0, 1, 40).reshape(10, 4)

  def init():
    key = jax.random.key(run.seed)
    return {
      'params': {'w': jax.random.normal(key, (4,)), 'empty': ()},
      'key': key,
      'round': jnp.int32(0),
    }

  def one_round(state, unused):
    key = jax.random.fold_in(state['key'], state['round'])
    noise = jax.random.normal(key, (4,))

    def loss_fn(w):
      return jnp.mean((xs @ w - 1) ** 2)

    w = state['params']['w']
    loss, grad = jax.value_and_grad(loss_fn)(w)
    number = state['round'] + 1
    bad = number == toy.nan_round
    w = w - toy.learning_rate * (grad + 0.01 * noise)
    per_client = jnp.where(
      bad & (jnp.arange(3) == 1), jnp.nan, jnp.full((3,), loss)
    )
    state = {
      'params': {'w': w, 'empty': ()},
      'key': state['key'],
      'round': number,
    }
    return state, {
      'loss': jnp.mean(per_client),
      'loss_per_client': per_client,
      'client_per_client': jnp.array([5, 7, 9]),
      'bytes_up': jnp.int32(16),
    }

  compiled = jax.jit(one_round, donate_argnums=0)

  def step(state, num_rounds):
    time.sleep(toy.pause)
    log = []
    for _ in range(num_rounds):
      state, metrics = compiled(state, ())
      log.append(metrics)
    return state, jax.tree.map(lambda *rows: jnp.stack(rows), *log)

  with session.open_workdir() as workdir:
    results, methods = {}, {}
    for method in ('federated', 'central'):
      results[method] = training.train(
        method=method,
        init=init,
        step=step,
        schedule=training.Schedule(
          run.rounds,
          run.rounds_per_step,
          run.eval_every,
          run.checkpoint_every,
        ),
        workdir=workdir,
        progress=session.progress,
        evaluate=lambda s: {'test_elbo': -(s['params']['w'] ** 2).sum()},
        best_metric='test_elbo',
        trained=lambda state: state['params'],
        stop=session.stop,
      )
      methods[method] = workdir.once(
        method, lambda m=method: {'final': results[m].history[-1]['loss']}
      )
    workdir.write_summary(
      {
        'experiment': 'toy',
        'params_digest': leaves.params_digest(
          results['federated'].state['params']
        ),
        'seconds': sum(r.seconds for r in results.values()),
        'compile_seconds': sum(r.compile_seconds for r in results.values()),
        'methods': methods,
      }
    )


PROGRAM = program.Program(
  name='toy',
  sentence='Trains a linear model on numbers that it makes up.',
  examples=(('', 'everything by default'), ('--rounds=3', 'sooner')),
  configs=Configs(),
  main=main,
)


if __name__ == '__main__':
  program.run(PROGRAM)

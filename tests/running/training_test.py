import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.running import divergence, leaves
from fedjax_gen.running.stopping import (
  DivergedError,
  StoppedError,
  StopSignal,
)
from fedjax_gen.running.storage.workdir import Workdir
from fedjax_gen.running.training import Pace, Schedule, train


class Quiet:
  """Shows nothing, remembers what it was told."""

  def __init__(self):
    self.seen = []

  def start(self, method, num_rounds, done, clock):
    self.seen.append((method, num_rounds, done))

  def doing(self, what):
    pass

  def update(self, rounds, loss):
    self.seen.append(rounds)

  def close(self):
    self.seen.append('closed')


def _init():
  return {'w': jnp.float32(0.0), 'infinite': jnp.float32(jnp.inf)}


def _counting_step(state, num_rounds):
  losses = state['w'] + 1 + np.arange(num_rounds)
  return state | {'w': state['w'] + num_rounds}, {'loss': losses}


def _train(path, step=_counting_step, progress=None, **kwargs):
  with Workdir(path, {}) as workdir:
    return train(
      method='m',
      init=_init,
      step=step,
      workdir=workdir,
      progress=progress or Quiet(),
      trained=lambda state: state['w'],
      **kwargs,
    )


def test_steps_evaluations_and_checkpoints_keep_to_the_schedule(tmp_path):
  calls, evaluated = [], []

  def step(state, num_rounds):
    calls.append(num_rounds)
    return _counting_step(state, num_rounds)

  def evaluate(state):
    evaluated.append(int(state['w']))
    return {'test_elbo': state['w']}

  progress = Quiet()
  result = _train(
    tmp_path,
    step,
    progress,
    schedule=Schedule(
      11, rounds_per_step=3, eval_every=4, checkpoint_every=100
    ),
    evaluate=evaluate,
  )
  assert calls == [1, 2, 3, 3, 2]  # the first to see how long one takes
  assert evaluated == [6, 9, 11]  # at the end of the step where 4, 8 fall; last
  assert [r['loss'] for r in result.history] == list(range(1, 12))
  assert [r['round'] for r in result.history if 'test_elbo' in r] == evaluated
  assert progress.seen == [('m', 11, 0), 1, 3, 6, 9, 11, 'closed']
  saved = [p.name for p in (tmp_path / 'checkpoints/m').iterdir()]
  assert saved == ['11']


def test_an_evaluation_is_given_what_is_evaluated_and_no_more(tmp_path):
  given = []

  def evaluate(part):
    given.append(part)
    return {'test_elbo': 0.0}

  _train(
    tmp_path,
    schedule=Schedule(2),
    evaluate=evaluate,
    evaluated=lambda state: 2 * state['w'],
  )
  assert [float(part) for part in given] == [2.0, 4.0]


def test_a_finished_training_is_returned_without_a_step(tmp_path):
  first = _train(tmp_path, schedule=Schedule(4))

  def never(state, num_rounds):
    raise AssertionError

  second = _train(tmp_path, never, schedule=Schedule(4))
  assert leaves.params_digest(second.state) == leaves.params_digest(first.state)
  assert second.history == first.history
  assert second.seconds == first.seconds


def test_a_crashed_training_goes_on_from_its_checkpoint(tmp_path):
  schedule = Schedule(10, rounds_per_step=2, checkpoint_every=4)

  def crash(state, num_rounds):
    if state['w'] == 6:
      raise RuntimeError('power cut')
    return _counting_step(state, num_rounds)

  with pytest.raises(RuntimeError):
    _train(tmp_path, crash, schedule=schedule)
  progress = Quiet()
  result = _train(tmp_path, progress=progress, schedule=schedule)
  assert progress.seen == [('m', 10, 4), 5, 6, 8, 10, 'closed']
  assert [r['loss'] for r in result.history] == list(range(1, 11))


def test_an_evaluation_that_is_best_is_saved_though_none_was_due(tmp_path):
  elbos = {1: -9.0, 2: -3.0, 3: -5.0, 4: -6.0, 5: -7.0, 6: -8.0}
  _train(
    tmp_path,
    schedule=Schedule(6, checkpoint_every=100),
    evaluate=lambda state: {'test_elbo': elbos[int(state['w'])]},
    best_metric='test_elbo',
  )
  saved = {p.name for p in (tmp_path / 'checkpoints/m').iterdir()}
  assert saved == {'2', '6'}


def test_a_parameter_that_overflows_stops_before_it_is_saved(tmp_path):
  def step(state, num_rounds):
    new, metrics = _counting_step(state, num_rounds)
    return new | {'w': new['w'] / (new['w'] < 3)}, metrics

  with pytest.raises(DivergedError, match='not finite after round 3') as error:
    _train(tmp_path, step, schedule=Schedule(5))
  assert 'checkpoints/m/2' in str(error.value)
  assert not (tmp_path / 'checkpoints/m/3').exists()


def test_the_clients_of_a_bad_loss_are_named(tmp_path):
  def step(state, num_rounds):
    per_client = jnp.ones((num_rounds, 3)).at[-1, 2].set(jnp.nan)
    return state, {
      'loss': per_client.mean(1),
      'loss_per_client': per_client,
      'client_per_client': jnp.tile(jnp.array([4, 5, 6]), (num_rounds, 1)),
    }

  with pytest.raises(DivergedError, match='round 1, from client 6') as error:
    _train(tmp_path, step, schedule=Schedule(4, rounds_per_step=2))
  assert 'No checkpoint' in str(error.value)


def test_compile_time_is_told_apart(tmp_path):
  compiled = jax.jit(_counting_step, static_argnums=1)

  def step(state, num_rounds):
    return compiled(state, num_rounds)

  result = _train(tmp_path, step, schedule=Schedule(3))
  assert result.compile_seconds > result.seconds > 0


def test_rounds_of_a_call_follow_the_clock():
  pace = Pace(seconds=10.0)
  assert pace.rounds(50) == 1
  for seconds, expected in ((0.0, 50), (0.5, 20), (3.0, 3), (60.0, 1)):
    pace.took(1, seconds)
    assert pace.rounds(50) == expected
  pace.took(4, 8.0)
  assert pace.rounds(50) == 5


def test_steps_end_alike_however_their_rounds_are_divided(
  tmp_path, monkeypatch
):
  schedule = Schedule(11, rounds_per_step=4, eval_every=3, checkpoint_every=8)

  def run(name, pace):
    monkeypatch.setattr(Pace, 'rounds', pace)
    return _train(
      tmp_path / name,
      schedule=schedule,
      evaluate=lambda state: {'test_elbo': state['w']},
      best_metric='loss',  # of a round: the first is the best of all
      best_mode='min',
    )

  quick, slow = (
    run('quick', lambda self, at_most: at_most),
    run('slow', lambda self, at_most: 1),
  )
  assert quick.history == slow.history
  for folder in (tmp_path / 'quick', tmp_path / 'slow'):
    saved = {p.name for p in (folder / 'checkpoints/m').iterdir()}
    assert saved == {'4', '8', '11'}


def test_a_training_stopped_within_a_step_ends_it_as_it_would_have(tmp_path):
  schedule = Schedule(8, rounds_per_step=4, eval_every=4, checkpoint_every=4)
  evaluations = []

  def evaluate(state):
    evaluations.append(int(state['w']))
    return {'test_elbo': 0.0}

  def stopping(state, num_rounds):
    if state['w'] == 5:
      signal.raise_signal(signal.SIGTERM)
    return _counting_step(state, 1)  # as if rounds were slow

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Pace, 'rounds', lambda self, at_most: 1)
    with StopSignal() as stop, pytest.raises(StoppedError):
      _train(
        tmp_path, stopping, schedule=schedule, evaluate=evaluate, stop=stop
      )
  assert (tmp_path / 'checkpoints/m/6').exists()
  result = _train(tmp_path, schedule=schedule, evaluate=evaluate)
  assert evaluations == [4, 8]
  assert [r['round'] for r in result.history] == list(range(1, 9))


def test_a_schedule_without_rounds_is_refused():
  with pytest.raises(InputError, match='eval_every'):
    Schedule(5, eval_every=0)


def test_a_digest_tells_names_types_shapes_and_bits_apart():
  trees = [
    {'w': np.zeros(4, np.float32)},
    {'v': np.zeros(4, np.float32)},
    {'w': np.zeros(4, np.int32)},
    {'w': np.zeros((2, 2), np.float32)},
    {'w': np.array([0, 0, 0, -0.0], np.float32)},
    {'w': jax.random.key(0)},
    {'w': jax.random.key(1)},
  ]
  assert len({leaves.params_digest(tree) for tree in trees}) == len(trees)
  assert leaves.params_digest(trees[0]) == leaves.params_digest(
    {'w': jnp.zeros(4)}
  )


def test_a_loss_ends_no_private_training():
  rounds = [{'round': 1, 'participants': 1, 'loss': float('nan')}]
  state = {'a': np.ones(2)}
  metrics = {'loss': np.array([np.nan])}
  assert 'loss is nan' in divergence.find(rounds, metrics, state)
  assert divergence.find(rounds, None, state) is None
  flawed = {'a': np.array([1.0, np.nan])}
  assert 'not finite' in divergence.find(rounds, None, flawed)

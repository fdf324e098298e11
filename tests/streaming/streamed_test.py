"""Streamed rounds give the bits of rounds in memory, whoever takes part."""

import chex
import jax
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.federated import (
  blocks,
  mapping as mappings,
  rounds,
  sampling,
)
from fedjax_gen.federated.algorithm import Algorithm
from fedjax_gen.running import leaves
from fedjax_gen.streaming import fetching, streamed
from tests.streaming import toys

_INIT_KEY, _KEY = jax.random.split(jax.random.key(0))
_SAMPLERS = {
  'few': sampling.with_dropout(sampling.uniform(3), 0.3),
  'nearly_everyone': sampling.with_dropout(sampling.uniform(9), 0.2),
  'everyone': sampling.everyone(),
  'poisson': sampling.poisson(0.4),
  'by_size': sampling.by_size(4),
}


def _runner(tmp_path, data, sampler, **options):
  return streamed.streamed_runner(
    toys.keeping(), [data], _INIT_KEY, folder=tmp_path, samplers=[sampler],
    **options,
  )  # fmt: skip


def _in_memory(sampler, num_rounds, **options):
  data, _ = toys.datasets()
  run = rounds.round_runner(toys.keeping(), samplers=[sampler], **options)
  state = rounds.init_state(toys.keeping(), [data], _INIT_KEY)
  return run(state, [data], _KEY, num_rounds)


def _assert_same(run, state, metrics, expected, expected_metrics):
  assert int(state.round) == int(expected.round)
  chex.assert_trees_all_equal(state.server, expected.server)
  kept = run.client_states(state, np.arange(len(toys.SIZES)))
  chex.assert_trees_all_equal(kept, expected.fleets[0])
  chex.assert_trees_all_equal(metrics, expected_metrics)


@pytest.mark.parametrize(
  ('name', 'prefetch'), [*((name, True) for name in _SAMPLERS), ('few', False)]
)
def test_bits_are_those_of_rounds_in_memory(tmp_path, name, prefetch):
  _, host = toys.datasets()
  run = _runner(tmp_path, host, _SAMPLERS[name], prefetch=prefetch)
  state, first = run(run.init_state(), [host], _KEY, 2)
  state, second = run(state, [host], _KEY, 4)
  metrics = jax.tree.map(lambda *a: np.concatenate(a), first, second)
  _assert_same(run, state, metrics, *_in_memory(_SAMPLERS[name], 6))


@pytest.mark.parametrize(
  'options',
  [
    {'block_size': 'all'},
    {'block_size': 2, 'mesh': True},
    {'reproducible': True, 'mesh': True},
  ],
)
def test_bits_agree_whatever_the_mapping(tmp_path, options):
  if options.pop('mesh', False):
    options['mesh'] = mappings.clients_mesh(2)
  mapping = mappings.Mapping(**options)
  _, host = toys.datasets()
  sampler = _SAMPLERS['few']
  run = _runner(tmp_path, host, sampler, mapping=mapping)
  state, metrics = run(run.init_state(), [host], _KEY, 4)
  expected = _in_memory(sampler, 4, mapping=mapping)
  _assert_same(run, state, metrics, *expected)


def test_fleets_are_streamed_each_from_its_own(tmp_path):
  [program] = toys.keeping().fleets
  algorithm = Algorithm(toys.keeping().server, (program, program))
  data, host = toys.datasets()
  parts = np.arange(4), np.arange(4, 10)
  samplers = [sampling.uniform(2), sampling.uniform(5)]
  on_host = [host.select(part) for part in parts]
  run = streamed.streamed_runner(
    algorithm, on_host, _INIT_KEY, folder=tmp_path, samplers=samplers
  )
  state, metrics = run(run.init_state(), on_host, _KEY, 3)

  on_device = [data.select(part) for part in parts]
  expected = rounds.init_state(algorithm, on_device, _INIT_KEY)
  expected, expected_metrics = rounds.round_runner(
    algorithm, samplers=samplers
  )(expected, on_device, _KEY, 3)
  chex.assert_trees_all_equal(metrics, expected_metrics)
  for fleet, part in enumerate(parts):
    kept = run.client_states(state, np.arange(len(part)), fleet=fleet)
    chex.assert_trees_all_equal(kept, expected.fleets[fleet])


def test_everyone_is_asked_in_blocks_of_one_shape(tmp_path):
  data, host = toys.datasets()
  sampler = _SAMPLERS['few']
  run = _runner(tmp_path, host, sampler)
  state, _ = run(run.init_state(), [host], _KEY, 2)
  expected, _ = _in_memory(sampler, 2)

  @jax.jit
  def of_clients(block_data, infos, kept):
    def of_client(slot):
      return block_data.client(slot).everything()

    return jax.vmap(of_client)(jax.numpy.arange(len(infos.row))), infos, kept

  def found(parts):
    return blocks.joined(
      lambda block: of_clients(block.data, block.infos, block.kept), parts
    )

  everyone = blocks.in_memory(data, expected.fleets[0])
  batches, *others = found([everyone])
  parts = list(run.blocks(state, 0, size=4))
  assert [part.num for part in parts] == [4, 4, 2]
  same, *same_others = found(parts)
  chex.assert_trees_all_equal(others, same_others)
  np.testing.assert_array_equal(batches.mask, same.mask)
  np.testing.assert_array_equal(
    batches.inputs[batches.mask], same.inputs[same.mask]
  )
  # Some of them, in whatever order, and without what is not asked for.
  rows = np.array([7, 2, 3])
  some = blocks.in_memory(data, expected.fleets[0], rows)
  [part] = run.blocks(state, 0, rows, examples=False)
  chex.assert_trees_all_equal((some.infos, some.kept), (part.infos, part.kept))
  assert next(run.blocks(state, 0, kept=False)).kept == ()
  assert parts[2].exact().data.num_clients == 2


def test_what_is_written_and_not_finite_is_told(tmp_path):
  _, host = toys.datasets()
  program = toys.keeping().fleets[0]

  def update(view, client, data, keys):
    message, (bias, *others), metrics = program.update(view, client, data, keys)
    bias = jax.tree.map(lambda leaf: leaf / (others[1][0] != 2), bias)
    return message, (bias, *others), metrics

  algorithm = toys.keeping()._replace(fleets=(program._replace(update=update),))
  for samples, is_flawed in ((lambda row: row != 2, False), (None, True)):

    def sampler(key, data, samples=samples):
      cohort = sampling.everyone()(key, data)
      present = samples(cohort.row) if samples else cohort.present
      return cohort._replace(present=present)

    run = streamed.streamed_runner(
      algorithm, [host], _INIT_KEY, folder=tmp_path / str(is_flawed),
      samplers=[sampler],
    )  # fmt: skip
    run(run.init_state(), [host], _KEY, 1)
    assert leaves.first_non_finite(run.flaws) == (
      '0/0/w' if is_flawed else None
    )


def test_only_the_present_have_rows(tmp_path):
  _, host = toys.datasets()

  def some(key, data):
    cohort = sampling.everyone()(key, data)
    return cohort._replace(present=cohort.row < 4)

  run = _runner(tmp_path, host, some)
  state, _ = run(run.init_state(), [host], _KEY, 2)
  np.testing.assert_array_equal(
    state.fleets[0] > 0, np.arange(len(toys.SIZES)) < 4
  )


def test_one_program_serves_all_rounds(tmp_path):
  _, host = toys.datasets()
  program = toys.keeping().fleets[0]
  update = chex.assert_max_traces(program.update, n=3)
  algorithm = toys.keeping()._replace(fleets=(program._replace(update=update),))
  run = streamed.streamed_runner(
    algorithm, [host], _INIT_KEY, folder=tmp_path,
    samplers=[_SAMPLERS['few']],
  )  # fmt: skip
  state, _ = run(run.init_state(), [host], _KEY, 5)
  assert int(state.round) == 5


def test_examples_may_lie_in_a_file(tmp_path):
  _, host = toys.datasets()
  np.save(tmp_path / 'inputs.npy', host.inputs)
  inputs = np.load(tmp_path / 'inputs.npy', mmap_mode='r')
  mapped = toys.on_host(inputs, host)
  assert isinstance(mapped.inputs, np.memmap)
  run = _runner(tmp_path / 'rows', mapped, _SAMPLERS['few'])
  state, metrics = run(run.init_state(), [mapped], _KEY, 3)
  _assert_same(run, state, metrics, *_in_memory(_SAMPLERS['few'], 3))


def test_what_was_fetched_for_another_state_is_not_used(tmp_path):
  _, host = toys.datasets()
  sampler = _SAMPLERS['few']
  run = _runner(tmp_path, host, sampler)
  run(run.init_state(), [host], _KEY, 2)
  state, metrics = run(run.init_state(), [host], _KEY, 3)
  _assert_same(run, state, metrics, *_in_memory(sampler, 3))
  other, _ = run(run.init_state(), [host], _INIT_KEY, 3)
  assert not np.array_equal(other.server.variables['w'],
                            state.server.variables['w'])  # fmt: skip


def test_errors_of_the_thread_reach_the_caller(tmp_path, monkeypatch):
  _, host = toys.datasets()
  run = _runner(tmp_path, host, _SAMPLERS['few'])
  state, _ = run(run.init_state(), [host], _KEY, 1)
  fetched = fetching.gathering.gather

  def broken(*arguments):
    raise OSError('the disk is gone')

  monkeypatch.setattr(fetching.gathering, 'gather', broken)
  state, _ = run(state, [host], _KEY, 1)  # this cohort was there before
  with pytest.raises(OSError, match='the disk is gone'):
    run(state, [host], _KEY, 1)
  monkeypatch.setattr(fetching.gathering, 'gather', fetched)
  state, _ = run(state, [host], _KEY, 1)
  expected, _ = _in_memory(_SAMPLERS['few'], 3)
  chex.assert_trees_all_equal(state.server, expected.server)


def test_mistakes_are_named_before_anything_is_compiled(tmp_path):
  data, host = toys.datasets()
  with pytest.raises(InputError, match=r'datasets\[0\] on the device'):
    _runner(tmp_path, data, sampling.everyone())
  with pytest.raises(InputError, match='a sampler for each of 1 fleets, got 2'):
    streamed.streamed_runner(
      toys.keeping(), [host], _INIT_KEY, folder=tmp_path,
      samplers=[sampling.everyone()] * 2,
    )  # fmt: skip
  with pytest.raises(InputError, match='cohort_size=11'):
    _runner(tmp_path, host, sampling.uniform(11))
  run = _runner(tmp_path, host, sampling.everyone())
  with pytest.raises(InputError, match='num_rounds=0'):
    run(run.init_state(), [host], _KEY, 0)
  with pytest.raises(InputError, match='the very ones'):
    run(run.init_state(), [toys.datasets()[1]], _KEY, 1)
  keys = toys.keeping().fleets[0]._replace(init=lambda key, info: key)
  with pytest.raises(InputError, match='keys of type'):
    streamed.streamed_runner(
      toys.keeping()._replace(fleets=(keys,)), [host], _INIT_KEY,
      folder=tmp_path, samplers=[sampling.everyone()],
    )  # fmt: skip

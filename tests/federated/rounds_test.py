"""Rounds: one trace, resumable to the bit, and right in the limits."""

import dataclasses

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_gen.errors import InputError
from fedjax_gen.federated import (
  aggregates,
  local,
  mapping,
  rounds,
  sampling,
  servers,
)
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from tests.federated import toys

_KEY = jax.random.key(1)


def _start(algorithm, *datasets):
  return rounds.init_state(algorithm, datasets, jax.random.key(0))


def _num_compiled(call):
  """Programs that XLA compiles in a call."""
  events = []

  def listen(event, seconds, **details):
    del seconds, details
    events.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    call()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return events.count('/jax/core/compile/backend_compile_duration')


class RoundsTest(parameterized.TestCase):
  def test_four_rounds_are_two_and_two(self):
    data = toys.dataset([3, 5, 4])
    algorithm = toys.mean_estimation()
    run = rounds.round_runner(
      algorithm, samplers=[sampling.with_dropout(sampling.uniform(2), 0.3)]
    )
    whole, metrics = run(_start(algorithm, data), [data], _KEY, 4)
    half, first = run(_start(algorithm, data), [data], _KEY, 2)
    again, second = run(half, [data], _KEY, 2)
    chex.assert_trees_all_equal(whole, again)
    chex.assert_trees_all_equal(
      metrics, jax.tree.map(lambda *a: jnp.concatenate(a), first, second)
    )

  def test_rounds_are_traced_once(self):
    data = toys.dataset([4, 4])
    # For the shapes of the message and of the sums, and to compile; five calls
    # add none.
    algorithm = toys.mean_estimation(max_traces=4)
    run = rounds.round_runner(algorithm)
    state = _start(algorithm, data)
    for _ in range(5):
      state, _ = run(state, [data], _KEY, 2)
    self.assertEqual(int(state.round), 10)

  @parameterized.parameters(True, False)
  def test_to_ask_for_memory_compiles_nothing_more(self, asks_first):
    data = [toys.dataset([4, 4])]
    run = rounds.round_runner(toys.mean_estimation())
    states = [jax.block_until_ready(_start(run.algorithm, *data)) for _ in '12']

    def ask():
      self.assertGreater(run.temporary_bytes(states.pop(), data, _KEY, 2), 0)

    def go():
      jax.block_until_ready(run(states.pop(), data, _KEY, 2))

    first, second = (ask, go) if asks_first else (go, ask)
    self.assertGreater(_num_compiled(first), 0)
    self.assertEqual(_num_compiled(second), 0)

  def test_state_keeps_its_structure_and_is_donated(self):
    data = toys.dataset([4, 4])
    algorithm = toys.mean_estimation()
    before = _start(algorithm, data)
    shapes = jax.tree.map(jax.typeof, before)
    after, _ = rounds.round_runner(algorithm)(before, [data], _KEY, 1)
    self.assertEqual(shapes, jax.tree.map(jax.typeof, after))
    self.assertTrue(before.server.variables['w'].is_deleted())

  def test_one_client_with_all_data_is_central_training(self):
    data = toys.dataset([7])
    optimizer = optax.adam(0.05)
    work = local.local_work(3, 4)
    algorithm = toys.mean_estimation(optimizer=optimizer, work=work)
    state = _start(algorithm, data)
    start = state.server.variables['w']
    examples = np.asarray(data.inputs)[np.asarray(data.order)]

    # A plain loop; the order of examples within an epoch is the client's.
    w, optimizer_state = {'w': start}, optimizer.init({'w': start})
    _, fleet_key = jax.random.split(jax.random.fold_in(_KEY, 0))
    _, client_key = jax.random.split(fleet_key)
    client_key = jax.random.fold_in(client_key, 0)
    for epoch in range(3):
      order_key, _ = jax.random.split(jax.random.fold_in(client_key, epoch))
      order = np.asarray(data.client(jnp.int32(0)).shuffled(order_key))
      self.assertSameElements(order, range(7))
      for rows in (order[:4], order[4:]):
        gradient = {'w': w['w'] - examples[rows].mean(0)}
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        w = optax.apply_updates(w, updates)

    state, _ = rounds.round_runner(algorithm)(state, [data], _KEY, 1)
    np.testing.assert_allclose(state.server.variables['w'], w['w'], rtol=1e-5)

  def test_fedavg_weighs_clients_by_their_examples(self):
    data = toys.dataset([1, 3])
    # One full-batch step of rate 1 from anywhere lands on the client's mean.
    algorithm = toys.mean_estimation(
      optimizer=optax.sgd(1.0), work=local.local_work(1, 8)
    )
    state, _ = rounds.round_runner(algorithm)(
      _start(algorithm, data), [data], _KEY, 1
    )
    np.testing.assert_allclose(
      state.server.variables['w'], data.inputs.mean(0), rtol=1e-5
    )

  def test_an_absent_client_contributes_nothing_and_loses_nothing(self):
    data = toys.dataset([2, 2, 2])
    algorithm = toys.mean_estimation()

    def only_the_second(key, data):
      cohort = sampling.everyone()(key, data)
      return cohort._replace(present=jnp.array([False, True, False]))

    state, metrics = rounds.round_runner(algorithm, samplers=[only_the_second])(
      _start(algorithm, data), [data], _KEY, 3
    )
    np.testing.assert_array_equal(state.fleets[0], [0, 3, 0])
    self.assertTrue((metrics.clients[0]['loss'][:, [0, 2]] == 0).all())

    alone = data.select(np.array([1]))
    # Keys follow the index, so the same client alone draws something else;
    # full batches make its result independent of the draws.
    algorithm = toys.mean_estimation(work=local.local_work(2, 8))
    run = rounds.round_runner(algorithm, samplers=[only_the_second])
    masked, _ = run(_start(algorithm, data), [data], _KEY, 2)
    single, _ = rounds.round_runner(algorithm)(
      _start(algorithm, alone), [alone], _KEY, 2
    )
    np.testing.assert_allclose(
      masked.server.variables['w'], single.server.variables['w'], rtol=1e-6
    )

  def test_absent_clients_are_not_computed_where_clients_run_alone(self):
    data = toys.dataset([2, 2])
    poisoned = dataclasses.replace(
      data, inputs=data.inputs.at[data.order[2:]].set(jnp.nan)
    )
    algorithm = toys.mean_estimation()

    def only_the_first(key, data):
      cohort = sampling.everyone()(key, data)
      return cohort._replace(present=jnp.array([True, False]))

    callbacks = []

    def counted(view, client, data, keys):
      jax.debug.callback(lambda: callbacks.append(1))
      return algorithm.fleets[0].update(view, client, data, keys)

    program = algorithm.fleets[0]._replace(update=counted)
    run = rounds.round_runner(
      algorithm._replace(fleets=(program,)),
      samplers=[only_the_first],
      mapping=mapping.Mapping(1),
    )
    state, _ = run(_start(algorithm, poisoned), [poisoned], _KEY, 3)
    jax.effects_barrier()
    self.assertLen(callbacks, 3)
    chex.assert_tree_all_finite(state.server)

  def test_nobody_present_leaves_the_server_as_it_was(self):
    data = toys.dataset([2, 2])
    algorithm = toys.mean_estimation()
    before = _start(algorithm, data)
    start = np.asarray(before.server.variables['w'])
    after, _ = rounds.round_runner(algorithm, samplers=[sampling.poisson(0.0)])(
      before, [data], _KEY, 2
    )
    np.testing.assert_array_equal(start, after.server.variables['w'])

  def test_who_else_is_sampled_changes_nothing_for_a_client(self):
    data = toys.dataset([6, 6, 6])
    algorithm = toys.mean_estimation()

    def cohort_of(*clients):
      def sample(key, data):
        cohort = sampling.everyone()(key, data)
        return jax.tree.map(lambda a: a[np.array(clients)], cohort)

      return sample

    losses = [
      rounds.round_runner(algorithm, samplers=[cohort_of(*clients)])(
        _start(algorithm, data), [data], _KEY, 1
      )[1].clients[0]['loss'][0, -1]
      for clients in [(0, 2), (1, 2), (2,)]
    ]
    self.assertEqual(losses[0], losses[1])
    self.assertEqual(losses[0], losses[2])

  def test_two_fleets_share_an_encoder_and_keep_their_heads(self):
    aggregate = aggregates.by_module(
      {
        name: aggregates.weighted_mean()
        for name in ('shared', 'small', 'large')
      }
    )

    def fleet(name):
      def update(view, client, data, keys):
        del keys
        target = data.everything()
        mean = (
          jnp.sum(target.inputs * target.mask[:, None], axis=0)
          / target.mask.sum()
        )
        message = {
          'shared': view['shared'] - mean,
          name: view[name] - mean.sum(keepdims=True),
        }
        return message, client, {}

      def view(server, info):
        del info
        return {key: server.variables[key] for key in ('shared', name)}

      return ClientProgram(lambda key, info: (), view, update)

    server = servers.learned_server(
      lambda key: {
        'shared': jnp.zeros(3),
        'small': jnp.zeros(1),
        'large': jnp.zeros(1),
      },
      aggregate,
      optax.sgd(1.0),
    )
    algorithm = Algorithm(server, (fleet('small'), fleet('large')))
    whole = toys.dataset([2, 1, 3])
    small, large = whole.select(np.array([0, 1])), whole.select(np.array([2]))
    state, _ = rounds.round_runner(algorithm)(
      _start(algorithm, small, large), [small, large], _KEY, 1
    )
    examples = np.asarray(whole.inputs)[np.asarray(whole.order)]
    got = state.server.variables
    np.testing.assert_allclose(got['shared'], examples.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
      got['small'], examples[:3].mean(0).sum(keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(
      got['large'], examples[3:].mean(0).sum(keepdims=True), rtol=1e-5
    )
    meter = rounds.traffic(algorithm, [small, large])
    self.assertEqual(meter, (rounds.Traffic(16, 16),) * 2)

  def test_fleets_and_data_sets_must_match(self):
    algorithm = toys.mean_estimation()
    data = toys.dataset([2])
    with self.assertRaisesRegex(InputError, 'one data set for each of 1'):
      rounds.init_state(algorithm, [data, data], _KEY)

  def test_no_rounds_are_refused(self):
    algorithm = toys.mean_estimation()
    data = toys.dataset([2])
    with self.assertRaisesRegex(InputError, 'num_rounds=0'):
      rounds.round_runner(algorithm)(_start(algorithm, data), [data], _KEY, 0)


if __name__ == '__main__':
  absltest.main()

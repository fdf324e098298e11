"""The benchmark of a round: its work is work, its ratios are ratios."""

import functools
import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from benchmarks import (
  curves,
  models,
  products,
  profile,
  program_bytes,
  run,
  tasks,
  workers,
)
from benchmarks.contestants import dense, naive_vmap, ours, system
from benchmarks.hlo import Cost, Program
from benchmarks.tasks import Task
from fedjax_gen.data.federated import Batch
from fedjax_gen.federated.mapping import clients_mesh


def test_operations_are_those_of_the_layers():
  # Forward, and backward twice that, but no gradient of the pixels.
  macs = 784 * 256 + 256 * 32 + 16 * 256 + 256 * 784
  expected = 2 * (3 * macs - 784 * 256) * 2 * 3 * 4
  assert Task('mlp_vae', clients=2, steps=3, batch=4).flops == expected


def test_bytes_are_those_of_products_and_optimizer():
  layers = [(784, 256), (256, 32), (16, 256), (256, 784)]
  weights = [i * o for i, o in layers]
  one_pass = [4 * (i + o) + i * o for i, o in layers]
  # Three passes, but no gradient of the pixels; Adam's seven arrays.
  numbers = 3 * sum(one_pass) - one_pass[0] + 7 * sum(weights)
  task = Task('mlp_vae', clients=2, steps=3, batch=4)
  assert task.bytes_needed == 4 * numbers * 2 * 3


@pytest.mark.parametrize('name', ['conv_vae', 'mlp_vae', 'emnist_conv'])
def test_layers_have_the_weights_of_the_models(name):
  _check_weights(name, models.build(name).init)


@pytest.mark.parametrize(
  ('name', 'build'),
  [('fedvae_paper', system.paper_vae), ('fissionvae', system.fission_vae)],
)
def test_layers_have_the_weights_and_products_of_the_systems(name, build):
  _check_weights(name, build().init)
  task = Task(name, clients=2, steps=1, batch=32)
  counted = system.flops(system.build_system(task))
  # The program also multiplies zeros around images, and weighs messages.
  assert task.flops < counted < 1.1 * task.flops


def _check_weights(name, init):
  variables = jax.eval_shape(init, jax.random.key(0))
  kernels = sorted(
    leaf.size for leaf in jax.tree.leaves(variables) if leaf.ndim > 1
  )
  assert kernels == sorted(layer.weights for layer in tasks._LAYERS[name])


def test_products_in_loops_count_for_every_turn():
  product = 2 * 4 * 5 * 5
  assert products.product_flops(_loops, *_MATRICES) == 3 * 7 * product
  gradient = jax.grad(lambda *a: _loops(*a).sum(), argnums=(0, 1))
  assert products.product_flops(gradient, *_MATRICES) == 3 * 3 * 7 * product

  def branches(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: _loops(x, w), lambda: x @ w[0])

  assert products.product_flops(branches, *_MATRICES) == 3 * 7 * product


def test_products_in_a_loop_of_unknown_length_are_refused_unless_told():
  with pytest.raises(ValueError, match='while'):
    products.product_flops(_unknown_loop, *_MATRICES)
  counted = products.product_flops(_unknown_loop, *_MATRICES, unknown_turns=6)
  assert counted == 6 * 2 * 4 * 5 * 5


def test_bytes_without_loops_are_those_of_xla():
  model, images = models.build('conv_vae'), jnp.ones((4, 28, 28, 1))
  batch = Batch(images, jnp.zeros(4), jnp.ones(4, bool))

  def gradient(variables, key):
    return jax.grad(model.loss_fn, has_aux=True)(variables, batch, key)[0]

  key = jax.random.key(0)
  variables = jax.eval_shape(model.init, key)
  compiled = jax.jit(gradient).lower(variables, key).compile()
  expected = compiled.cost_analysis()['bytes accessed']
  moved = program_bytes.bytes_moved(compiled)
  assert moved == pytest.approx(expected, rel=0.05)


def test_bytes_in_loops_count_for_every_turn():
  turns = np.array([2, 5, 11])
  compiled = [_compiled(functools.partial(_loops, turns=n)) for n in turns]
  moved = [program_bytes.bytes_moved(one) for one in compiled]
  # A straight line of turns, each of which moves what seven products do; and
  # some more, since a loop counts itself and cuts its matrix out of all.
  slope = np.diff(moved) / np.diff(turns)
  assert slope[0] == slope[1]
  alone = program_bytes.bytes_moved(_compiled(lambda x, w: jnp.tanh(x @ w[0])))
  assert 7 * alone <= slope[0] < 14 * alone


def test_of_rows_that_are_gathered_the_rows_count():
  def moved(size):
    arguments = jnp.ones((size, 8)), jnp.arange(4)
    rows = jax.jit(lambda table, index: jnp.tanh(table[index]) + 1)
    return program_bytes.bytes_moved(rows.lower(*arguments).compile())

  assert moved(50) == moved(5000) < 50 * 8 * 4


def test_bytes_of_a_loop_of_unknown_length_are_unknown_unless_told():
  compiled = _compiled(_unknown_loop)
  assert program_bytes.bytes_moved(compiled) is None
  two, three, four = (
    program_bytes.bytes_moved(compiled, unknown_turns=turns)
    for turns in (2, 3, 4)
  )
  assert four - three == three - two > 0


def test_bytes_are_of_all_devices_together():
  mesh = clients_mesh(4)
  sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
  numbers = jax.device_put(jnp.ones(8), sharding)
  compiled = jax.jit(jnp.tanh).lower(numbers).compile()
  assert program_bytes.bytes_moved(compiled) == 2 * 8 * 4


_MATRICES = jnp.ones((4, 5)), jnp.ones((7, 5, 5))


def _loops(x, w, turns=3):
  """Seven matrices one after the other, all of it some turns."""

  def inner(x, matrix):
    return jnp.tanh(x @ matrix), ()

  def outer(_, x):
    return jax.lax.scan(inner, x, w)[0]

  return jax.lax.fori_loop(0, turns, outer, x)


def _unknown_loop(x, w):
  return jax.lax.while_loop(
    lambda x: x.sum() < 9, lambda x: jnp.tanh(x @ w[0]), x
  )


def _compiled(function):
  return jax.jit(function).lower(*_MATRICES).compile()


def test_contestants_know_what_their_rounds_move():
  task = Task('mlp_vae', 2, 2, 8)
  moved = ours.build(task, 'one').costs()['bytes_moved']
  # More than must be; a loop counted once would be half of it, or less.
  assert task.bytes_needed < moved < 4 * task.bytes_needed


@pytest.mark.parametrize('option', ['one', 'all'])
def test_a_round_of_ours_descends(option):
  contestant = ours.build(Task('mlp_vae', 2, 2, 8), option)
  before = jax.tree.map(np.asarray, contestant._state.server.variables)
  contestant()
  after = contestant._state.server.variables
  moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), before, after)
  assert min(jax.tree.leaves(moved)) > 0


def test_the_others_in_jax_train_the_same_model():
  task = Task('conv_vae', 2, 2, 2)
  shapes = [
    sorted(leaf.shape for leaf in jax.tree.leaves(tree))
    for tree in (
      naive_vmap.build(task)._variables,
      dense.build(task)._variables,
      ours.build(task, 'one')._state.server.variables,
    )
  ]
  assert shapes[0] == shapes[1] == shapes[2]


def test_who_dies_in_a_round_is_absent(monkeypatch):
  monkeypatch.setattr(workers, '_ANSWER_SECONDS', 60)
  contestant = workers.Worker('gemm', Task('mlp_vae', 1, 1, 1))
  contestant.wait()
  assert contestant.absent is None
  contestant._process.kill()
  contestant._process.wait()
  contestant.round()
  assert contestant.absent == 'no answer'
  assert not contestant.rounds


def test_rows_compare_with_the_loop_and_the_peak():
  def contestant(name, seconds, **costs):
    return types.SimpleNamespace(
      name=name,
      task=task,
      first={'compile_seconds': None},
      rounds=[{'seconds': s, 'peak_memory_mib': 1} for s in seconds],
      costs=costs,
    )

  task = Task('mlp_vae', 2, 3, 4)
  rows = run._rows(
    task,
    [
      # The median counts.
      contestant('ours:auto', [1.0, 2.0, 9.0], bytes_moved=48e9),
      contestant('torch_loop', [4.0]),
      # The best counts.
      contestant('gemm', [2.0, 1.0], flops=10 * task.flops),
      contestant('copy', [4.0, 1.0], bytes_moved=96e9),
    ],
  )
  auto, torch = rows
  assert auto['samples_per_second'] == 24 / 2
  assert auto['ratio_to_torch_loop'] == 2
  assert torch['ratio_to_naive_vmap'] is None
  assert auto['fraction_of_gemm_peak'] == pytest.approx(1 / 20)
  assert auto['gigabytes_per_second'] == pytest.approx(24)
  assert auto['fraction_of_copy'] == pytest.approx(1 / 4)
  assert torch['fraction_of_copy'] is None
  needed = task.bytes_needed / 96e9
  assert torch['needed_fraction_of_copy'] == pytest.approx(needed / 4)
  assert 'auto' in run._table(rows)
  # Of columns that nobody has, nothing is shown.
  assert '/ loop' not in run._table(rows)


def test_what_is_not_installed_is_left_out():
  script = (
    "import sys; sys.modules['torch'] = None\n"
    'from benchmarks import worker\n'
    "worker.main('torch_loop', sys.argv[1])\n"
  )
  record = json.dumps(Task('mlp_vae', 2, 1, 2).record())
  done = subprocess.run(
    [sys.executable, '-c', script, record],
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  )
  assert 'torch' in json.loads(done.stdout)['absent']


def test_a_worker_answers_with_times_and_costs():
  with workers.started([('ours:one', Task('mlp_vae', 1, 1, 2))]) as (worker,):
    worker.round()
    workers.analyse([worker])
  assert worker.rounds[0]['seconds'] > 0
  assert worker.costs['bytes_moved'] > 0


def test_curves_are_of_a_clients_share():
  row = curves._row('clients', 30, [3.0, 1.0, 9.0], 30)
  assert row['milliseconds_per_client'] == 100
  population = {
    'cohort': 10,
    'memory_1000': {'seconds': [[0.1], [0.3, 0.2]]},
    'host_2000': {'seconds': [[0.5]]},
    'memory_ratio': 1.0,
  }
  rows = curves._of_population(population)
  assert [
    (row['series'], row['population'], row['milliseconds_per_client'])
    for row in rows
  ] == [('memory', 1000, 20), ('host', 2000, 50)]
  assert 'host 2,000' in curves._table('population', rows)


def test_the_picture_of_curves_is_the_same_for_the_same_points(tmp_path):
  points = {
    'clients': [curves._row('clients', n, [n / 1e3], n) for n in (10, 100)],
    'devices': [curves._row('devices', n, [1 / n], 100) for n in (1, 2)],
  }
  pictures = []
  for name in ('first.svg', 'second.svg'):
    curves.draw(points, str(tmp_path / name))
    pictures.append((tmp_path / name).read_bytes())
  assert pictures[0] == pictures[1]
  points['devices'][0]['milliseconds_per_client'] *= 2
  curves.draw(points, str(tmp_path / 'other.svg'))
  assert (tmp_path / 'other.svg').read_bytes() != pictures[0]


def test_a_profile_counts_the_operations_of_the_layers():
  task = Task('mlp_vae', 2, 2, 8)
  contestant = ours.build(task, 'one')
  program = Program(contestant.text())
  costs = profile.by_label(program, profile.traced(contestant), 4)
  # Besides them stand sums that are written as products with ones.
  total = sum(cost.flops for cost in costs.values())
  assert 1 <= total / (task.flops / 4) < 1.01
  assert costs['Dense_0 forward, products'].flops == 2 * 8 * 784 * 256
  # Reads images and weights and writes activations, each once.
  numbers = 8 * 784 + 784 * 256 + 8 * 256
  assert costs['Dense_0 forward, products'].bytes == 4 * numbers
  assert min(cost.seconds for cost in costs.values()) > 0
  rows = profile.table(costs, 1e9, 1e9).splitlines()
  assert len(rows) == 1 + len(costs) + 1
  assert rows[-1].startswith('all')


def test_a_loop_that_reads_a_part_is_charged_for_the_part():
  program = Program("""
%fused (param_0.1: f32[8,4], param_1.2: f32[2,4]) -> f32[2,4] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  %slice.1 = f32[2,4]{1,0} slice(%param_0.1), slice={[0:2], [0:4]}
  %param_1.2 = f32[2,4]{1,0} parameter(1)
  ROOT %add.1 = f32[2,4]{1,0} add(%slice.1, %param_1.2)
}

ENTRY %main (a.1: f32[8,4], b.1: f32[2,4]) -> f32[2,4] {
  %a.1 = f32[8,4]{1,0} parameter(0)
  %b.1 = f32[2,4]{1,0} parameter(1)
  ROOT %fusion.1 = f32[2,4]{1,0} fusion(%a.1, %b.1), kind=kLoop, calls=%fused
}
""")
  assert program.cost('fusion.1') == Cost(0.0, 0.0, 3 * 8 * 4)

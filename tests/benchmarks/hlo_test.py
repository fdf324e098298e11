"""Costs of compiled programs, read from their text."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from benchmarks import hlo, models
from fedjax_gen.data.federated import Batch
from fedjax_gen.federated.mapping import clients_mesh
from tests.benchmarks.loops import MATRICES, known, unknown


def test_bytes_without_loops_are_those_of_xla():
  model, images = models.build('conv_vae'), jnp.ones((4, 28, 28, 1))
  batch = Batch(images, jnp.zeros(4), jnp.ones(4, bool))

  def gradient(variables, key):
    return jax.grad(model.loss_fn, has_aux=True)(variables, batch, key)[0]

  key = jax.random.key(0)
  variables = jax.eval_shape(model.init, key)
  compiled = jax.jit(gradient).lower(variables, key).compile()
  expected = compiled.cost_analysis()['bytes accessed']
  moved = hlo.bytes_moved(compiled)
  assert moved == pytest.approx(expected, rel=0.05)


def test_bytes_in_loops_count_for_every_turn():
  turns = np.array([2, 5, 11])
  compiled = [_compiled(functools.partial(known, turns=n)) for n in turns]
  moved = [hlo.bytes_moved(one) for one in compiled]
  # A straight line of turns, each of which moves what seven products do; and
  # some more, since a loop counts itself and cuts its matrix out of all.
  slope = np.diff(moved) / np.diff(turns)
  assert slope[0] == slope[1]
  alone = hlo.bytes_moved(_compiled(lambda x, w: jnp.tanh(x @ w[0])))
  assert 7 * alone <= slope[0] < 14 * alone


def test_of_rows_that_are_gathered_the_rows_count():
  def moved(size):
    arguments = jnp.ones((size, 8)), jnp.arange(4)
    rows = jax.jit(lambda table, index: jnp.tanh(table[index]) + 1)
    return hlo.bytes_moved(rows.lower(*arguments).compile())

  assert moved(50) == moved(5000) < 50 * 8 * 4


def test_bytes_of_a_loop_of_unknown_length_are_unknown_unless_told():
  compiled = _compiled(unknown)
  assert hlo.bytes_moved(compiled) is None
  two, three, four = (
    hlo.bytes_moved(compiled, unknown_turns=turns) for turns in (2, 3, 4)
  )
  assert four - three == three - two > 0


def test_bytes_are_of_all_devices_together():
  mesh = clients_mesh(4)
  sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
  numbers = jax.device_put(jnp.ones(8), sharding)
  compiled = jax.jit(jnp.tanh).lower(numbers).compile()
  assert hlo.bytes_moved(compiled) == 2 * 8 * 4


# Of an array of 128 bytes a part of 32, and where it lies.
_FUSION = """
%fused (array: f32[8,4], part: f32[2,4], at: s32[]) -> f32[8,4] {{
  %array = f32[8,4]{{1,0}} parameter(0)
  %part = f32[2,4]{{1,0}} parameter(1)
  %at = s32[] parameter(2)
  {}
}}

ENTRY %main (a: f32[8,4], b: f32[2,4], c: s32[]) -> f32[8,4] {{
  %a = f32[8,4]{{1,0}} parameter(0)
  %b = f32[2,4]{{1,0}} parameter(1)
  %c = s32[] parameter(2)
  ROOT %fusion = f32[8,4]{{1,0}} fusion(%a, %b, %c), kind=kLoop, calls=%fused
}}
"""
_UPDATE = 'dynamic-update-slice(%{}, %{}, %at, %at)'


@pytest.mark.parametrize(
  ('lines', 'expected'),
  [
    # What is cut out and the other part are read, their sum is written.
    (
      [
        '%cut = f32[2,4]{1,0} slice(%array), slice={[0:2], [0:4]}',
        'ROOT %sum = f32[2,4]{1,0} add(%cut, %part)',
      ],
      32 + 32 + 32,
    ),
    # Where rows lie is read, and not to be taken for the array they lie in.
    (
      [
        '%place = s32[8,4]{1,0} bitcast(%array)',
        'ROOT %rows = f32[2,4]{1,0} gather(%part, %place)',
      ],
      128 + 32 + 32,
    ),
    # In place: the update and its place are read, the update is written.
    (
      ['ROOT %new = f32[8,4]{1,0} ' + _UPDATE.format('array', 'part')],
      32 + 4 + 32,
    ),
    # One after the other, and beside another result.
    (
      [
        '%first = f32[8,4]{1,0} ' + _UPDATE.format('array', 'part'),
        '%view = f32[8,4]{1,0} bitcast(%first)',
        '%new = f32[8,4]{1,0} ' + _UPDATE.format('view', 'part'),
        '%half = bf16[2,4]{1,0} convert(%part)',
        'ROOT %both = (f32[8,4]{1,0}, bf16[2,4]{1,0}) tuple(%new, %half)',
      ],
      32 + 4 + 2 * 32 + 16,
    ),
    # Not in place: all of the array is read, all of the result written.
    (
      [
        '%new = f32[8,4]{1,0} ' + _UPDATE.format('array', 'part'),
        'ROOT %other = f32[8,4]{1,0} negate(%new)',
      ],
      128 + 32 + 4 + 128,
    ),
    (
      [
        '%other = f32[8,4]{1,0} negate(%array)',
        'ROOT %new = f32[8,4]{1,0} ' + _UPDATE.format('other', 'part'),
      ],
      128 + 32 + 4 + 128,
    ),
  ],
)
def test_a_fusion_is_charged_for_the_parts_it_reads_and_writes(lines, expected):
  program = hlo.Program(_FUSION.format('\n  '.join(lines)))
  assert program.bytes('fusion') == expected


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('slice(%a), slice={[0:2]}', 2 * 32),
    ('gather(%a, %i)', 2 * 32 + 4),
    ('negate(%b)', 2 * 32),
    ('bitcast(%b)', 0),
  ],
)
def test_of_rows_cut_out_of_an_array_the_rows_count(line, expected):
  program = hlo.Program(f"""
ENTRY %main (a: f32[8,4], b: f32[2,4], i: s32[]) -> f32[2,4] {{
  %a = f32[8,4]{{1,0}} parameter(0)
  %b = f32[2,4]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  ROOT %result = f32[2,4]{{1,0}} {line}
}}
""")
  assert program.bytes('result') == expected


@pytest.mark.parametrize(
  ('type_', 'expected'),
  [
    ('f32[2,3]{1,0}', 24),
    ('pred[6]', 6),
    ('bf16[6]', 12),
    ('f8e4m3fn[6]', 6),
    ('c64[6]', 48),
    ('s4[6]', 6),
    ('s32[]', 4),
    ('token[]', 0),
    ('(f32[2]{0}, /*index=1*/(u8[3]{0}, f64[]))', 8 + 3 + 8),
  ],
)
def test_sizes_are_those_that_the_names_of_types_say(type_, expected):
  program = hlo.Program(
    f'ENTRY %main () -> {type_} {{\n  %a = {type_} rng()\n}}'
  )
  assert program.instructions['a'].size == expected


def test_operations_of_a_product_are_those_of_its_sums():
  def product(a, b):
    return jnp.einsum('nij,njk->nik', a, b) + 1

  arguments = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
  text = jax.jit(product).lower(*arguments).compile().as_text()
  program = hlo.Program(text)
  entry = program.computations[program.entry]
  assert sum(program.flops(one.name) for one in entry) == 2 * 2 * 3 * 4 * 5


def _compiled(function):
  return jax.jit(function).lower(*MATRICES).compile()

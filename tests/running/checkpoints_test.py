import errno
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.running import leaves
from fedjax_gen.running.storage.checkpoints import Checkpoints
from fedjax_gen.running.storage.disk import DiskFullError


class State(NamedTuple):
  round: jax.Array
  server: dict[str, Any]
  clients: tuple
  key: jax.Array
  nothing: None = None


def make_state(value=1.0, width=3, impl='threefry2x32'):
  return State(
    jnp.int32(7),
    {
      'kernel/odd': jnp.full((2, width), value),
      'half': jnp.ones(2, jnp.bfloat16),
      'none yet': jnp.zeros((0, 4)),
    },
    (),
    jax.random.key(5, impl=impl),
  )


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.shape) == (e.dtype, e.shape)
    if jnp.issubdtype(e.dtype, jax.dtypes.prng_key):
      a, e = jax.random.key_data(a), jax.random.key_data(e)
    np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_a_state_of_every_kind_of_leaf_comes_back(tmp_path, impl):
  checkpoints = Checkpoints(tmp_path)
  state = make_state(impl=impl)
  checkpoints.save(4, state, metrics={'loss': 2.0}, extra={'seconds': 1.5})
  target = leaves.abstract(state)
  restored = Checkpoints(tmp_path).restore(target)
  assert_same(restored.state, state)
  assert restored.round == 4
  assert restored.metrics == {'loss': 2.0}
  assert restored.extra == {'seconds': 1.5}
  # Bound to no device, as the state of a fresh start is.
  assert not restored.state.round.committed
  # The key is alive: it draws the same numbers.
  assert jax.random.bits(restored.state.key) == jax.random.bits(state.key)


def test_the_last_and_the_best_are_kept(tmp_path):
  checkpoints = Checkpoints(
    tmp_path, keep=2, best_metric='fid', best_mode='min'
  )
  for round_number, fid in enumerate([9.0, 3.0, 8.0, 7.0, None, 5.0], 1):
    metrics = {} if fid is None else {'fid': fid}
    checkpoints.save(round_number, make_state(fid or 0.0), metrics=metrics)
  assert checkpoints.rounds() == [2, 5, 6]
  assert checkpoints.best_round() == 2
  assert checkpoints.is_best({'fid': 2.0})
  assert not checkpoints.is_best({'fid': 4.0})
  assert not checkpoints.is_best({'loss': 0.0})
  best = checkpoints.restore(make_state(), 2).state
  assert best.server['kernel/odd'][0, 0] == 3.0


def test_the_largest_is_the_best_by_default(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1, best_metric='elbo')
  for round_number, elbo in enumerate([-9.0, -3.0, -8.0], 1):
    checkpoints.save(round_number, make_state(), metrics={'elbo': elbo})
  assert checkpoints.rounds() == [2, 3]


def test_what_a_kill_left_is_ignored_and_cleaned(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, make_state())
  (tmp_path / '6.orbax-checkpoint-tmp').mkdir()
  (tmp_path / '2.old').mkdir()
  (tmp_path / 'notes of the user').mkdir()
  assert checkpoints.rounds() == [3]
  checkpoints.clean()
  assert {p.name for p in tmp_path.iterdir()} == {'3', 'notes of the user'}


@pytest.mark.parametrize(
  ('target', 'words'),
  [
    (make_state(width=5), r'kernel/odd to be float32\[2, 5\], found float3'),
    (make_state()._replace(round=jnp.float32(1)), 'round to be float32'),
    (make_state()._replace(server={}), 'server/half to be none, found bfl'),
    ((make_state(), jnp.ones(2)), r'found none'),
  ],
)
def test_the_first_leaf_of_another_state_is_named(tmp_path, target, words):
  Checkpoints(tmp_path).save(3, make_state())
  with pytest.raises(InputError, match=words) as error:
    Checkpoints(tmp_path).restore(target)
  assert str(tmp_path / '3') in str(error.value)


def test_a_missing_damaged_or_foreign_checkpoint_is_named(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(InputError, match='no checkpoint in'):
    checkpoints.restore(make_state())
  checkpoints.save(3, make_state())
  with pytest.raises(InputError, match='no checkpoint of round 4'):
    checkpoints.restore(make_state(), 4)
  (tmp_path / '5').mkdir()
  (tmp_path / '5' / 'model.bin').write_text('something else')
  with pytest.raises(InputError, match=f'Cannot read the .*{tmp_path}/5'):
    checkpoints.restore(make_state())
  assert checkpoints.restore(make_state(), 3).round == 3


def test_a_full_disk_is_named_and_earlier_checkpoints_stay(
  tmp_path, monkeypatch
):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, make_state())

  def fail(path, **unused):
    (tmp_path / f'{path.name}.orbax-checkpoint-tmp').mkdir()
    # What TensorStore raises.
    raise ValueError(f'RESOURCE_EXHAUSTED: {os.strerror(errno.ENOSPC)} [..]')

  monkeypatch.setattr(checkpoints._orbax, 'save', fail)
  with pytest.raises(DiskFullError, match=f'{tmp_path}/6'):
    checkpoints.save(6, make_state())
  assert [p.name for p in tmp_path.iterdir()] == ['3']
  assert checkpoints.restore(make_state()).round == 3


def test_another_error_while_saving_is_not_taken_for_a_full_disk(
  tmp_path, monkeypatch
):
  checkpoints = Checkpoints(tmp_path)

  def fail(path, **unused):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(checkpoints._orbax, 'save', fail)
  with pytest.raises(OSError, match='Input/output'):
    checkpoints.save(6, make_state())


def test_options_out_of_range_are_refused(tmp_path):
  with pytest.raises(InputError, match='keep'):
    Checkpoints(tmp_path, keep=0)
  with pytest.raises(InputError, match='best_mode'):
    Checkpoints(tmp_path, best_mode='highest')

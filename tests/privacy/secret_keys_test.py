"""Secret keys are wide JAX keys that are apart, with a true normal's tail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.data import federated, partition, sources
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.models.hyper import hypernetwork
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import noise, plan as plans, secret_keys

_NUM = 10_000_000


def _words(key):
  return jax.random.key_data(key).reshape(-1)


def test_a_secret_key_has_512_bits_and_so_has_what_is_derived():
  key = secret_keys.fresh().key('method', 'training')
  for derived in (
    key,
    jax.random.split(key, 3)[1],
    jax.random.fold_in(key, 7),
    jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))[2],
  ):
    words = np.asarray(_words(derived))
    assert words.size * 32 == 512
    assert len(set(words.tolist())) == words.size  # no word is another's copy
    assert secret_keys.is_secret(derived)
  assert not secret_keys.is_secret(jax.random.key(0))


def test_derived_keys_are_the_same_under_jit_and_vmap():
  key = secret_keys.nominal(1).key('method', 'training')
  folded = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
  alone = jax.jit(jax.random.fold_in)(key, 3)
  np.testing.assert_array_equal(_words(folded[3]), _words(alone))
  np.testing.assert_array_equal(
    jax.vmap(lambda k: secret_keys.normal(k, 5))(folded)[3],
    secret_keys.normal(alone, 5),
  )


def test_noise_and_everything_else_come_from_roots_of_their_own():
  one = secret_keys.fresh()
  key = one.key('method', 'training')
  noise_changed = one._replace(noise=bytes(32)).key('method', 'training')
  rest_changed = one._replace(sampling=bytes(32)).key('method', 'training')
  draw = functools.partial(jax.random.bits, shape=(50,))
  np.testing.assert_array_equal(draw(key), draw(noise_changed))
  np.testing.assert_array_equal(
    secret_keys.normal(key, 50), secret_keys.normal(rest_changed, 50)
  )
  assert not np.any(draw(key) == draw(rest_changed))
  normals = secret_keys.normal(key, 50), secret_keys.normal(noise_changed, 50)
  assert not np.any(normals[0] == normals[1])


@pytest.mark.parametrize('word', range(16))
def test_every_word_of_the_key_decides(word):
  key = secret_keys.nominal(0).key('method', 'training')
  data = jax.random.key_data(key)
  other = jax.random.wrap_key_data(
    data.at[word].add(1), impl=jax.random.key_impl(key)
  )
  changed = [
    np.any(np.asarray(draw(key) != draw(other)))
    for draw in (
      lambda k: secret_keys.normal(k, 20),
      lambda k: jax.random.bits(k, (20,)),
    )
  ]
  assert changed == [word < 8, word >= 8]


def test_secrets_of_two_runs_have_nothing_in_common_and_nominal_ones_repeat():
  first, second = secret_keys.fresh(), secret_keys.fresh()
  assert len({*first[:3], *second[:3]}) == 6
  assert not first.is_nominal
  assert secret_keys.nominal(3) == secret_keys.nominal(3)
  assert secret_keys.nominal(3).noise != secret_keys.nominal(4).noise
  assert secret_keys.nominal(3).is_nominal
  assert first.digest('data') != second.digest('data')
  assert secret_keys.from_json(first.to_json()) == first


@pytest.mark.parametrize('text', ['', '{}', '{"noise": "ab"}', '[1]'])
def test_what_is_no_secrets_is_refused_without_being_shown(text):
  with pytest.raises(InputError, match='Secrets.to_json') as caught:
    secret_keys.from_json(text)
  assert not text or text not in str(caught.value)


def test_no_secret_key_is_made_of_a_seed():
  impl = jax.random.key_impl(secret_keys.nominal(0).key('a', 'b'))
  with pytest.raises(InputError, match='entropy'):
    jax.random.key(0, impl=impl)


@jax.jit
def _tails(key):
  draws = secret_keys.normal(key, _NUM)
  beyond = [jnp.sum(jnp.abs(draws) > bound) for bound in (4.0, 4.5, 5.0)]
  return jnp.stack(beyond), jnp.max(jnp.abs(draws))


def test_the_tail_is_the_normals_in_1e8_draws():
  key = secret_keys.nominal(5).key('tail', 'test')
  found = [_tails(jax.random.fold_in(key, i)) for i in range(10)]
  counts = sum(np.asarray(beyond, np.int64) for beyond, _ in found)
  expected = 10 * _NUM * 2 * stats.norm.sf([4.0, 4.5, 5.0])
  assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected)), counts
  # JAX's own ends at 5.42, which in so many draws is hardly ever reached.
  assert max(float(most) for _, most in found) > 5.45


def test_the_support_reaches_beyond_9_standard_deviations(monkeypatch):
  uniform = jnp.nextafter(jnp.float32(1), jnp.float32(0))
  largest = float(jnp.sqrt(2.0) * jax.lax.erf_inv(uniform))
  assert largest < 5.5  # of one draw
  monkeypatch.setattr(
    jax.random, 'normal', lambda key, shape, dtype: jnp.full(shape, largest)
  )
  assert float(secret_keys.normal(jax.random.key(0), 1)[0]) > 9


@pytest.mark.parametrize('is_secret', [True, False])
def test_a_kolmogorov_test_accepts_the_scale_and_no_other(is_secret):
  key = jax.random.key(0)
  if is_secret:
    key = secret_keys.nominal(0).key('kolmogorov', 'test')
  drawn = noise.gaussian(key, jnp.zeros(1_000_000), 2.0)
  assert stats.kstest(np.asarray(drawn) / 2.0, 'norm').pvalue > 1e-3
  assert stats.kstest(np.asarray(drawn) / 2.02, 'norm').pvalue < 1e-3


@functools.cache
def _noise(head):
  """A round's noise on the base weights, as a function of the own key."""
  source = sources.load('gaussian_domains')
  train = source.train
  clients = partition.iid(len(train.labels), 4, seed=0)
  data = federated.federated_dataset(train.inputs, train.labels, clients)
  config = hypernetwork.HyperVaeConfig(hidden_sizes=(16,), head=head)
  model = hypernetwork.build_hyper_vae(
    config, DataSpec(source.input_shape, source.num_classes)
  )
  plan = plans.record_plan(
    plans.PrivacyConfig('record', epsilon=1.0, accountant='rdp'),
    np.asarray(data.sizes), batch_size=64, epochs=0.0, rounds=10,
  )  # fmt: skip

  def runner(multiplier):
    algorithm = fedhypevae.fedhypevae(
      fedhypevae.Config(optimizer='sgd'),
      model,
      'record_joint',
      plan._replace(noise_multiplier=multiplier),
    )
    run = rounds.round_runner(algorithm)

    def after(own_key):
      state = rounds.init_state(algorithm, [data], jax.random.key(0))
      keys = rounds.RunKeys(own_key, jax.random.key(1))
      state, _ = run(state, [data], keys, 1)
      leaves = jax.tree.leaves(state.server.variables['base'])
      return np.concatenate([np.ravel(leaf) for leaf in leaves])

    return after

  # The same records are drawn from the same key: what differs is the noise.
  noised, exact = runner(plan.noise_multiplier), runner(0.0)
  return lambda own_key: noised(own_key) - exact(own_key)


def _correlation(first, second):
  size = min(first.size, second.size)
  found = np.corrcoef(first[:size], second[:size])[0, 1]
  return abs(found), 4 / np.sqrt(size)


def test_two_methods_of_a_run_share_no_noise():
  one = secret_keys.fresh()
  ours = _noise('row_scaled')(one.key('FedHypeVAE', 'training'))
  baseline = _noise('constant')(one.key('DP-CVAE', 'training'))
  found, bound = _correlation(ours, baseline)
  assert found < bound


def test_two_runs_of_a_method_share_no_noise():
  first, second, again = (
    _noise('row_scaled')(made.key('FedHypeVAE', 'training'))
    for made in (
      secret_keys.fresh(),
      secret_keys.nominal(0),
      secret_keys.nominal(0),
    )  # fmt: skip
  )
  found, bound = _correlation(first, second)
  assert found < bound
  np.testing.assert_array_equal(second, again)


def test_keys_that_are_split_and_folded_are_not_the_same():
  key = secret_keys.nominal(0).key('method', 'training')
  for index, part in enumerate(jax.random.split(key, 3)):
    folded = jax.random.fold_in(key, index)
    assert not np.any(
      secret_keys.normal(part, 50) == secret_keys.normal(folded, 50)
    )

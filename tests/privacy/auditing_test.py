"""An audit stays below what is true, and finds what is wrong."""

import functools
import math
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedjax_gen import trees
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, clipping, events, noise
from fedjax_gen.privacy.audit import auditing
from fedjax_gen.privacy.steps import batches

_DELTA = 1e-5


class _NeedsJaxPrivacy(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    try:
      import jax_privacy  # noqa: F401
    except ImportError:
      self.skipTest('jax_privacy is not installed')


def _loss(variables, record, key):
  """Of a linear classifier."""
  del key
  logits = record.inputs @ variables['w'] + variables['b']
  return -jax.nn.log_softmax(logits)[record.labels], {}


def _variables(num_features, num_classes):
  return {
    'w': jnp.zeros((num_features, num_classes)),
    'b': jnp.zeros(num_classes),
  }


class CanariesTest(parameterized.TestCase):
  def test_inclusion_is_by_fair_coins(self):
    included = np.asarray(auditing.canary_inclusion(4000, jax.random.key(0)))
    self.assertEqual((included.dtype, included.shape), (bool, (4000,)))
    self.assertBetween(included.mean(), 0.47, 0.53)
    together = included[1:] == included[:-1]
    self.assertBetween(together.mean(), 0.47, 0.53)

  def test_records_are_long_and_point_everywhere(self):
    got = auditing.canaries(60, (20, 30), 4, jax.random.key(1), 7.0)
    chex.assert_shape(got.inputs, (60, 20, 30))
    chex.assert_type((got.inputs, got.labels), (jnp.float32, jnp.int32))
    self.assertTrue(got.mask.all())
    self.assertEqual(set(np.asarray(got.labels).tolist()), {0, 1, 2, 3})
    flat = np.asarray(got.inputs).reshape(60, -1) / 7
    gram = flat @ flat.T
    np.testing.assert_allclose(np.diag(gram), 1, rtol=1e-5)
    cosines = gram[~np.eye(60, dtype=bool)]
    np.testing.assert_allclose(cosines.std(), 600**-0.5, rtol=0.1)
    self.assertLess(abs(cosines.mean()), 0.005)

  @parameterized.parameters(
    (lambda key: auditing.canary_inclusion(0, key), 'num_canaries=0'),
    (lambda key: auditing.canaries(2, (3,), 2, key, 0.0), 'scale=0.0'),
    (lambda key: auditing.canaries(2, (3,), 0, key, 1.0), 'num_classes=0'),
    (lambda key: auditing.clipped_gradients(
      _loss, {}, auditing.canaries(2, (3,), 2, key, 1.0), key, 1.0,
      chunk_size=0), 'chunk_size=0'),
  )  # fmt: skip
  def test_arguments_out_of_range(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build(jax.random.key(0))


def _drawing(variables, record, key):
  """Reads its key, as the loss of a variational model does."""
  inputs = record.inputs + 0.1 * jax.random.normal(key, (3,))
  return _loss(variables, record._replace(inputs=inputs), key)


@jax.jit
def _setting(key):
  """Variables and canaries, some of which are long enough to be clipped."""
  keys = jax.random.split(key)
  batch = auditing.canaries(5, (3,), 4, keys[0], 1.0)
  scale = jnp.array([0.1, 0.4, 1.0, 3.0, 9.0])[:, None]
  variables = {'w': jax.random.normal(keys[1], (3, 4)), 'b': jnp.arange(4.0)}
  return variables, batch._replace(inputs=batch.inputs * scale)


@functools.partial(jax.jit, static_argnames='chunk_size')
def _directions(variables, batch, key, chunk_size=2):
  return auditing.clipped_gradients(
    _drawing, variables, batch, key, 0.8, chunk_size=chunk_size
  )


class ScoresTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.key = jax.random.key(2)
    self.variables, self.batch = _setting(self.key)

  @parameterized.parameters(2, 16)
  def test_directions_are_what_records_add_to_the_clipped_sum(self, chunk):
    rows = _directions(self.variables, self.batch, self.key, chunk)
    expected = jax.jit(
      functools.partial(clipping.clipped_sum, _drawing, max_norm=0.8)
    )(self.variables, self.batch, self.key)
    self.assertBetween(float(expected.share_clipped), 0.2, 0.8)
    total = jax.tree.map(lambda leaf: np.asarray(leaf).sum(0), rows)
    chex.assert_trees_all_close(total, expected.total, rtol=1e-5, atol=1e-6)
    flat = np.concatenate(
      [np.reshape(leaf, (5, -1)) for leaf in jax.tree.leaves(rows)], axis=1
    )
    norms = np.minimum(expected.norms, 0.8)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), norms, rtol=1e-5)

  def test_white_box_scores_are_inner_products_over_all_leaves(self):
    rows = _directions(self.variables, self.batch, self.key)
    weights = np.cos(np.arange(12.0, dtype=np.float32)).reshape(3, 4)
    released = {'w': weights, 'b': np.ones(4, np.float32)}
    expected = [
      np.sum(np.asarray(rows['w'][j]) * weights) + np.sum(rows['b'][j])
      for j in range(5)
    ]
    got = _white_box(released, rows)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


_white_box = jax.jit(auditing.gradient_scores)


def _randomised_response(rng, num_canaries, epsilon):
  """Scores of a mechanism that is (epsilon, 0)-DP and no better."""
  included = rng.random(num_canaries) < 0.5
  right = rng.random(num_canaries) < 1 / (1 + math.exp(-epsilon))
  # No ties: what looks best among many thresholds is chance.
  scores = (included == right) + 0.1 * rng.random(num_canaries)
  return included, scores


def _bound(included, scores, delta=_DELTA, **options):
  return auditing.epsilon_lower_bound(
    scores[included], scores[~included], delta, **options
  )


class LowerBoundTest(_NeedsJaxPrivacy):
  @parameterized.product(method=auditing.METHODS, epsilon=(0.0, 1.0))
  def test_exceeds_the_truth_as_rarely_as_it_says(self, method, epsilon):
    rng = np.random.default_rng(5)
    trials, risk = 200, 0.1
    bounds = [
      _bound(
        *_randomised_response(rng, 64, epsilon),
        confidence=1 - risk,
        method=method,
      )
      for _ in range(trials)
    ]
    wrong = np.sum(np.array(bounds) > epsilon)
    spread = math.sqrt(trials * risk * (1 - risk))
    self.assertLess(wrong, trials * risk + 2 * spread)

  @parameterized.product(method=auditing.METHODS, epsilon=(1.0, 3.0))
  def test_approaches_the_truth_with_many_canaries(self, method, epsilon):
    rng = np.random.default_rng(6)
    included, scores = _randomised_response(rng, 20_000, epsilon)
    got = _bound(included, scores, 1e-9, method=method)
    self.assertBetween(got, 0.85 * epsilon, epsilon)

  def test_what_is_told_apart_gives_the_closed_forms(self):
    # Thresholds: the highest 30, 15 of 60; none out, the highest 15 of them.
    inside, outside = 2 + np.arange(30) / 30, np.arange(30) / 30
    risk = 0.05 / 2
    got = auditing.epsilon_lower_bound(inside, outside, 1e-12)
    accuracy = risk ** (1 / 30)
    np.testing.assert_allclose(
      got, math.log(accuracy / (1 - accuracy)), atol=1e-5
    )
    got = auditing.epsilon_lower_bound(
      inside, outside, 0.01, method='clopper_pearson'
    )
    rate = (risk / 2) ** (1 / 30)  # below TPR; FPR is below the rest
    np.testing.assert_allclose(
      got, math.log((rate - 0.01) / (1 - rate)), rtol=1e-6
    )

  def test_false_positives_are_at_a_rank_of_those_out(self):
    # One stands out for no reason, so that only the lower threshold helps.
    inside, outside = 2 + np.arange(30) / 30, np.arange(30) / 30
    outside[7] = 10.0
    got = auditing.epsilon_lower_bound(
      inside, outside, 1e-12, method='clopper_pearson'
    )
    risk = 0.05 / 2
    rate = (risk / 2) ** (1 / 30)
    false_rate = stats.beta.ppf(1 - risk / 2, 16, 15)  # 15 of 30
    np.testing.assert_allclose(got, math.log(rate / false_rate), rtol=1e-6)

  @parameterized.parameters(*auditing.METHODS)
  def test_more_confidence_and_more_delta_bound_less(self, method):
    included, scores = _randomised_response(np.random.default_rng(7), 400, 4.0)
    bound = functools.partial(_bound, included, scores, method=method)
    usual = bound(1e-5)
    self.assertLess(bound(1e-5, confidence=0.999), usual)
    self.assertLess(bound(1e-2), usual)
    self.assertGreater(usual, 1.0)

  @parameterized.parameters(*auditing.METHODS)
  def test_scores_say_in_by_being_high(self, method):
    high, low = np.arange(100) + 100, np.arange(100)
    got = auditing.epsilon_lower_bound(low, high, _DELTA, method=method)
    self.assertEqual(got, 0)
    got = auditing.epsilon_lower_bound(high, low, _DELTA, method=method)
    self.assertGreater(got, 2)

  @parameterized.parameters(*auditing.METHODS)
  def test_too_few_scores_bound_nothing(self, method):
    got = auditing.epsilon_lower_bound([1.0], [0.0], _DELTA, method=method)
    self.assertEqual(got, 0)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    (([], [0.0], 0.1), {}, r'scores_in .* shape \(0,\)'),
    (([0.0], [[0.0]], 0.1), {}, r'scores_out .* shape \(1, 1\)'),
    (([0.0, math.nan], [0.0], 0.1), {}, r'scores_in .* with 1 finite'),
    (([0.0], [0.0], 0.0), {}, 'delta=0.0'),
    (([0.0], [0.0], 0.1), {'confidence': 0.5}, 'confidence=0.5'),
    (([0.0], [0.0], 0.1), {'confidence': 1.0}, 'confidence=1.0'),
    (([0.0], [0.0], 0.1), {'method': 'auc'}, "method='auc'"),
  )
  def test_arguments_out_of_range(self, args, options, message):
    with self.assertRaisesRegex(InputError, message):
      auditing.epsilon_lower_bound(*args, **options)

  def test_a_missing_library_is_named(self):
    with (
      mock.patch.dict(sys.modules, {'jax_privacy': None}),
      self.assertRaisesRegex(InputError, r"pip install 'fedjax_gen\[dp\]'"),
    ):
      auditing.epsilon_lower_bound([1.0], [0.0], _DELTA)


_FEATURES, _CLASSES, _RECORDS, _CANARIES = 512, 4, 40, 400
_BOUND, _RATE, _STEPS = 1.0, 0.5, 8


@jax.jit
def _start(key):
  """Data with the included canaries in them; all canaries; who is in."""
  keys = jax.random.split(key, 3)
  real = auditing.canaries(_RECORDS, (_FEATURES,), _CLASSES, keys[0], 1.0)
  extra = auditing.canaries(_CANARIES, (_FEATURES,), _CLASSES, keys[1], 9.0)
  included = auditing.canary_inclusion(_CANARIES, keys[2])
  everyone = jax.tree.map(lambda *parts: jnp.concatenate(parts), real, extra)
  present = jnp.concatenate([real.mask, included])
  zero = jnp.zeros(1, jnp.int32)
  data = FederatedDataset(
    everyone.inputs,
    everyone.labels,
    jnp.argsort(~present, stable=True),
    offsets=zero,
    sizes=zero + present.sum(),
    groups=zero,
    min_size=_RECORDS,
    max_size=present.size,
  )
  return data, extra, included


@jax.jit
def _sum_and_directions(variables, data, extra, key):
  sample_key, loss_key = jax.random.split(key)
  drawn = batches.poisson_batch(
    sample_key, data.client(0), _RATE, data.max_size
  )
  total = clipping.clipped_sum(
    _loss, variables, drawn.batch, loss_key, _BOUND, chunk_size=55
  ).total
  directions = auditing.clipped_gradients(
    _loss, variables, extra, loss_key, _BOUND, chunk_size=50
  )
  return total, directions


def _trained_scores(seed, noise_multiplier):
  """Who was in, and the scores of all by the white box.

  Nothing but `included` and what is released depends on the coins.
  """
  start_key, run_key = jax.random.split(jax.random.key(seed))
  data, extra, included = _start(start_key)
  variables, scores = _variables(_FEATURES, _CLASSES), jnp.zeros(_CANARIES)
  for step in range(_STEPS):
    step_key, noise_key = jax.random.split(jax.random.fold_in(run_key, step))
    total, directions = _sum_and_directions(variables, data, extra, step_key)
    released = noise.noisy_mean(
      noise_key,
      total,
      max_norm=_BOUND,
      noise_multiplier=noise_multiplier,
      expected_size=_RATE * (_RECORDS + _CANARIES / 2),
    )
    scores += _white_box(released, directions)
    variables = trees.subtract(variables, released)
  return np.asarray(included), np.asarray(scores)


class TrainingTest(_NeedsJaxPrivacy):
  """A run of DP-SGD, audited from that run alone."""

  def lower_bounds(self, noise_multiplier):
    """By the white box, of three runs."""
    return [
      _bound(*_trained_scores(seed, noise_multiplier)) for seed in range(3)
    ]

  @functools.cached_property
  def calibrated(self):
    return accounting.noise_multiplier(
      1.0, _DELTA, sampling_probability=_RATE, steps=_STEPS
    )

  def test_the_right_noise_passes(self):
    self.assertLess(max(self.lower_bounds(self.calibrated)), 1.0)

  def test_little_noise_honestly_charged_passes_and_is_seen(self):
    claim = accounting.epsilon(
      events.poisson_gaussian(1.0, _RATE, _STEPS), _DELTA
    )
    found = self.lower_bounds(1.0)
    self.assertGreater(min(found), 0.5)
    self.assertLess(max(found), claim)

  @parameterized.named_parameters(
    ('none', 0.0),
    # As if it were meant for the mean and went on the sum.
    ('over_the_batch', 1 / (_RATE * (_RECORDS + _CANARIES / 2))),
  )
  def test_the_wrong_noise_is_caught(self, share):
    self.assertGreater(min(self.lower_bounds(share * self.calibrated)), 1.0)


if __name__ == '__main__':
  absltest.main()

import numpy as np
import pytest
from scipy import linalg

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import distances


def _with_moments(mean, covariance, num=50, seed=0):
  """Returns samples whose mean and covariance are exactly those given."""
  noise = np.random.default_rng(seed).normal(size=[num, len(mean)])
  noise = noise - noise.mean(axis=0)
  white = noise @ linalg.inv(linalg.sqrtm(np.cov(noise.T)))
  return white @ linalg.sqrtm(np.asarray(covariance)) + mean


def _clouds(num=400, width=6):
  """Returns two overlapping sets of features, not centred, not alike."""
  rng = np.random.default_rng(1)
  mixing = rng.normal(size=[width, width])
  real = rng.normal(size=[num, width]) @ mixing + 2.0
  generated = rng.normal(size=[num // 2, width]) * 1.2 + 1.5
  return real.astype(np.float32), generated.astype(np.float32)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
  real = _with_moments([0.0, 1.0], np.diag([1.0, 4.0]))
  generated = _with_moments([3.0, 5.0], np.diag([9.0, 16.0]), num=30)
  # 3^2 + 4^2 between the means, (1 - 3)^2 + (2 - 4)^2 between the deviations.
  value = distances.frechet_distance(real, generated)
  np.testing.assert_allclose(value, 25 + 8, rtol=1e-10)


def test_frechet_distance_of_rotated_gaussians_needs_the_matrix_root():
  first = np.array([[4.0, 0.0], [0.0, 1.0]])
  second = np.array([[2.5, 1.5], [1.5, 2.5]])  # the first, turned by 45 degrees
  value = distances.frechet_distance(
    _with_moments([0, 0], first), _with_moments([0, 0], second, seed=1)
  )
  root = linalg.sqrtm(first @ second)
  np.testing.assert_allclose(value, 10 - 2 * np.trace(root).real, rtol=1e-10)
  assert value > 0.5  # equal eigenvalues: only the directions differ


@pytest.mark.parametrize('num', [4, 200])  # 4 < 8: covariances are singular
def test_frechet_distance_of_shifted_copy_is_squared_shift(num):
  real = np.random.default_rng(0).normal(size=[num, 8])
  value = distances.frechet_distance(real, real + 0.5)
  np.testing.assert_allclose(value, 8 * 0.25, rtol=1e-10)
  assert 0 <= distances.frechet_distance(real, real[::-1]) < 1e-10


def test_frechet_distance_is_symmetric_and_finite_for_a_collapsed_set():
  real, generated = _clouds()
  forth = distances.frechet_distance(real, generated)
  back = distances.frechet_distance(generated, real)
  np.testing.assert_allclose(forth, back, rtol=1e-10)
  collapsed = np.repeat(generated[:1], 20, axis=0)
  spread = np.var(real.astype(np.float64), axis=0, ddof=1).sum()
  shift = np.sum((real.mean(axis=0, dtype=np.float64) - generated[0]) ** 2)
  value = distances.frechet_distance(real, collapsed)
  np.testing.assert_allclose(value, spread + shift, rtol=1e-6)


def test_kernel_distance_of_two_pairs_by_hand():
  # (ab + 1)^3: 1 within the first pair, 27 within the second, and between
  # them 1, 1, 8, 27 with mean 37 / 4.
  estimate = distances.kernel_distance(
    np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
  )
  np.testing.assert_allclose(estimate.mean, 1 + 27 - 2 * 37 / 4)
  np.testing.assert_allclose(estimate.stddev, 0, atol=1e-12)


def test_kernel_distance_is_unbiased_for_equal_distributions():
  rng = np.random.default_rng(0)
  estimate = distances.kernel_distance(
    rng.normal(size=[20_000, 4]),
    rng.normal(size=[20_000, 4]),
    num_subsets=400,
    subset_size=20,
  )
  error = estimate.stddev / np.sqrt(400)
  assert abs(estimate.mean) < 3 * error
  # Counting pairs of an example with itself would add about this much.
  bias = 2 * (2**3 - 1) / 20
  assert bias > 6 * error


def test_kernel_distance_depends_on_seed_only_through_subsets():
  real, generated = _clouds()
  subsets = {'num_subsets': 5, 'subset_size': 50}
  first = distances.kernel_distance(real, generated, **subsets, seed=1)
  again = distances.kernel_distance(real, generated, **subsets, seed=1)
  other = distances.kernel_distance(real, generated, **subsets, seed=2)
  assert first == again
  assert first.mean != other.mean and first.stddev > 0


@pytest.mark.parametrize('num_splits', [1, 10])
def test_inception_score_ranges_from_one_to_the_number_of_classes(num_splits):
  uniform = np.full([100, 5], 0.2)
  certain = np.tile(np.eye(5), [200, 1])
  low = distances.inception_score(uniform, num_splits=num_splits)
  np.testing.assert_allclose(low, [1, 0], atol=1e-12)
  high = distances.inception_score(certain, num_splits=num_splits)
  np.testing.assert_allclose(high.mean, 5, rtol=0.05)
  one_class = np.tile(np.eye(5)[0], [100, 1])
  np.testing.assert_allclose(distances.inception_score(one_class)[0], 1)


def test_inception_score_does_not_mind_samples_sorted_by_class():
  by_class = np.repeat(np.eye(10), 100, axis=0)
  assert distances.inception_score(by_class).mean > 9


def test_manifold_scores_of_points_on_a_line_by_hand():
  real = np.array([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8
  generated = np.array([[0.5], [5.0], [100.0]])  # radii 4.5, 4.5, 95
  scores = distances.precision_recall_density_coverage(
    real, generated, num_neighbours=1
  )
  # 0.5 lies in the balls of 0 and 1, 5 in that of 10, 100 in none; the
  # generated balls hold every real point; that of 2 holds no generated one.
  np.testing.assert_allclose(scores, [2 / 3, 1, 3 / 3, 3 / 4])


def test_manifold_scores_tell_missing_modes_from_bad_samples():
  rng = np.random.default_rng(0)
  real = rng.normal(size=[400, 2]) + 20 * rng.integers(0, 2, [400, 1])
  one_mode = rng.normal(size=[400, 2])
  scores = distances.precision_recall_density_coverage(real, one_mode)
  assert scores.precision > 0.9 and scores.recall < 0.6
  assert scores.coverage < 0.6
  noise = rng.uniform(-100, 100, size=[400, 2])
  scores = distances.precision_recall_density_coverage(real, noise)
  assert scores.precision < 0.1 and scores.density < 0.1


def test_manifold_scores_do_not_depend_on_the_blocks_of_the_computation():
  rng = np.random.default_rng(0)
  real, generated = rng.normal(size=[50, 3]), rng.normal(size=[2500, 3])
  scores = distances.precision_recall_density_coverage(real, generated)
  gaps = np.linalg.norm(generated[:, None] - real[None, :], axis=-1)
  own = np.sort(np.linalg.norm(real[:, None] - real[None, :], axis=-1))[:, 5]
  inside = gaps <= own
  np.testing.assert_allclose(scores.precision, inside.any(axis=1).mean())
  np.testing.assert_allclose(scores.density, inside.sum(axis=1).mean() / 5)
  np.testing.assert_allclose(scores.coverage, inside.any(axis=0).mean())


def test_frechet_and_kernel_distance_agree_with_torchmetrics():
  torch = pytest.importorskip('torch', reason='reference: torch')
  fid = pytest.importorskip(
    'torchmetrics.image.fid', reason='reference: torchmetrics'
  )
  kid = pytest.importorskip('torchmetrics.image.kid')
  real, generated = (x.astype(np.float64) for x in _clouds())
  moments = [
    torch.from_numpy(moment)
    for x in (real, generated)
    for moment in (x.mean(axis=0), np.cov(x.T))
  ]
  np.testing.assert_allclose(
    distances.frechet_distance(real, generated),
    fid._compute_fid(*moments).item(),
    rtol=1e-8,
  )
  real = real[: len(generated)]  # one subset that is the whole set
  np.testing.assert_allclose(
    distances.kernel_distance(real, generated, num_subsets=1).mean,
    kid.poly_mmd(torch.from_numpy(real), torch.from_numpy(generated)).item(),
    rtol=1e-8,
  )


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_inception_score_agrees_with_torchmetrics():
  torch = pytest.importorskip('torch', reason='reference: torch')
  module = pytest.importorskip(
    'torchmetrics.image.inception', reason='reference: torchmetrics'
  )
  logits = np.random.default_rng(0).normal(size=[60, 7]) * 3
  try:
    reference = module.InceptionScore(feature=torch.nn.Identity(), splits=1)
  except ModuleNotFoundError as error:
    pytest.skip(f'reference: {error}')
  reference.features = [torch.from_numpy(logits)]
  probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    distances.inception_score(probabilities, num_splits=1).mean,
    reference.compute()[0].item(),
    rtol=1e-6,
  )


@pytest.mark.parametrize('num_neighbours', [1, 5])
def test_manifold_scores_agree_with_the_prdc_package(num_neighbours):
  prdc = pytest.importorskip('prdc', reason='reference: prdc')
  real, generated = _clouds()
  expected = prdc.compute_prdc(real, generated, num_neighbours)
  scores = distances.precision_recall_density_coverage(
    real, generated, num_neighbours=num_neighbours
  )
  for name, value in scores._asdict().items():
    np.testing.assert_allclose(value, expected[name], err_msg=name)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: distances.frechet_distance(x[:1], x), 'at least 2.*real, got 1'),
    (lambda x: distances.frechet_distance(x, x * np.nan), 'generated.*finite'),
    (lambda x: distances.frechet_distance(x, x[:, :1]), "'generated': 1"),
    (lambda x: distances.kernel_distance(x, x, subset_size=1), 'subset_size'),
    (lambda x: distances.kernel_distance(x, x, num_subsets=0), 'num_subsets'),
    (lambda x: distances.inception_score(x), 'add up to 1'),
    (lambda x: distances.inception_score(x[:3]), 'at least 10 examples'),
    (
      lambda x: distances.precision_recall_density_coverage(x, x[:5]),
      'at least 6 examples in generated, got 5',
    ),
  ],
)
def test_unusable_features_are_refused_by_name(call, message):
  with pytest.raises(InputError, match=message):
    call(np.random.default_rng(0).uniform(size=[20, 3]))

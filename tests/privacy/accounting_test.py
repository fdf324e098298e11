"""What releases cost: published values, relations that must hold, refusals."""

import itertools
import math
import os
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import dp_accounting
import numpy as np
from scipy import stats

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import accounting, composition, events

_DELTA = 1e-5
# Noise multipliers for epsilon = 1 at delta = 1e-4 with 1,613 records, by
# another program over the same library, on a grid that rounds up a little.
_NEEDED = (
  (64, 50, 1.284, 1.421),
  (64, 520, 3.025, 3.324),
  (64, 6500, 10.29, 11.27),
  (256, 50, 3.798, 4.192),
  (256, 140, 6.119, 6.747),
  (256, 1750, 21.22, 23.34),
)


class EpsilonTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.0, 0.01, 1000, 2.101, 1.829),
    (2.0, 0.16, 350, 8.501, 7.832),
    (0.8, 0.1, 100, 12.409, 10.976),
  )
  def test_sampled_gaussians_cost_what_is_known(self, z, q, steps, rdp, pld):
    event = events.poisson_gaussian(z, q, steps)
    for accountant, known in (('rdp', rdp), ('pld', pld)):
      got = accounting.epsilon(event, _DELTA, accountant=accountant)
      np.testing.assert_allclose(got, known, atol=1e-3)

  @parameterized.parameters(*_NEEDED)
  def test_known_noise_gives_epsilon_one(self, batch, steps, pld, rdp):
    for accountant, z in (('pld', pld), ('rdp', rdp)):
      event = events.poisson_gaussian(z, batch / 1613, steps)
      got = accounting.epsilon(event, 1e-4, accountant=accountant)
      np.testing.assert_allclose(got, 1, rtol=4e-3)

  @parameterized.parameters((0.7, 1), (2.0, 1), (10.0, 30), (1.0, 100_000))
  def test_gaussians_cost_their_closed_form(self, z, steps):
    got = accounting.epsilon(events.gaussian(z, steps), _DELTA)
    # Balle and Wang, "Improving the Gaussian mechanism", 2018, theorem 8.
    z = z / math.sqrt(steps)
    delta = stats.norm.cdf(0.5 / z - got * z) - np.exp(
      got + stats.norm.logcdf(-0.5 / z - got * z)
    )
    np.testing.assert_allclose(delta, _DELTA, rtol=1e-3)

  @parameterized.parameters((2.0, 0.001, 10_000), (4.0, 0.004, 1000))
  def test_steps_that_lose_little_are_not_rounded_up(self, z, q, steps):
    event = events.poisson_gaussian(z, q, steps)
    fine = dp_accounting.pld.PLDAccountant(
      value_discretization_interval=1e-5
    ).compose(
      dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)),
      steps,
    )
    np.testing.assert_allclose(
      accounting.epsilon(event, _DELTA), fine.get_epsilon(_DELTA), rtol=0.01
    )

  @parameterized.parameters('pld', 'rdp')
  def test_replacing_one_moves_a_sum_twice_as_far(self, accountant):
    for kind in (events.gaussian, events.laplace):
      if kind is events.laplace and accountant == 'pld':
        continue  # refused, below
      replaced = accounting.epsilon(
        kind(4.0), _DELTA, accountant=accountant, neighbouring='replace_one'
      )
      halved = accounting.epsilon(kind(2.0), _DELTA, accountant=accountant)
      np.testing.assert_allclose(replaced, halved, rtol=1e-6)

  @parameterized.parameters('pld', 'rdp')
  def test_zeroing_one_out_costs_what_removing_it_does(self, accountant):
    for event in (events.gaussian(2.0), events.poisson_gaussian(1.0, 0.1, 9)):
      default = accounting.epsilon(event, _DELTA, accountant=accountant)
      for relation in ('zero_out', 'add_or_remove_one'):
        got = accounting.epsilon(
          event, _DELTA, accountant=accountant, neighbouring=relation
        )
        self.assertEqual(got, default)

  def test_little_noise_has_an_epsilon_all_the_same(self):
    # Its losses on a fine grid would take minutes to list. Each step costs
    # about 1 / (2 z^2) where it is drawn.
    got = accounting.epsilon(events.poisson_gaussian(0.02, 0.5, 10), _DELTA)
    self.assertBetween(got, 10 / (2 * 0.02**2), 1.5 * 10 / (2 * 0.02**2))

  def test_a_coarser_grid_is_an_upper_bound(self):
    event = events.poisson_gaussian(0.1, 0.1, 10)
    fine = accounting.epsilon(event, _DELTA)
    with mock.patch.object(composition, '_MOST_LOSSES', 5_000):
      composition._composed.cache_clear()
      coarse = accounting.epsilon(event, _DELTA)
    composition._composed.cache_clear()
    self.assertGreaterEqual(coarse, fine)
    np.testing.assert_allclose(coarse, fine, rtol=1e-3)

  def test_the_order_of_releases_decides_no_digit(self):
    released = [events.gaussian(3.0), events.poisson_gaussian(1.0, 0.1, 20),
                events.gaussian(2.0), events.poisson_gaussian(1.1, 0.2, 5),
                events.poisson_gaussian(1.0, 0.1, 7)]  # fmt: skip
    for accountant in accounting.ACCOUNTANTS:
      costs = {
        accounting.epsilon(order, _DELTA, accountant=accountant)
        for order in itertools.permutations(released[:4])
      }
      self.assertLen(costs, 1)
    joined = [*released[:1], events.poisson_gaussian(1.0, 0.1, 27),
              *released[2:4]]  # fmt: skip
    self.assertEqual(
      accounting.epsilon(released, _DELTA), accounting.epsilon(joined, _DELTA)
    )

  def test_replacing_one_costs_more_with_every_kind_of_sample(self):
    for event in (
      events.poisson_gaussian(1.3, 0.04, 50),
      events.truncated_poisson_gaussian(
        1.3, 0.04, 50, num_records=1600, capacity=100
      ),
    ):
      added = accounting.epsilon(event, _DELTA)
      replaced = accounting.epsilon(event, _DELTA, neighbouring='replace_one')
      self.assertGreater(replaced, 1.3 * added)

  def test_fixed_size_samples_are_amplified_and_know_of_replacing(self):
    def cost(event):
      return accounting.epsilon(
        event, _DELTA, accountant='rdp', neighbouring='replace_one'
      )

    sampled = events.fixed_size_gaussian(
      4.0, 50, num_records=1600, batch_size=64
    )
    self.assertLess(cost(sampled), cost(events.gaussian(4.0, 50)) / 2)
    # All records in every batch: the Gaussian mechanism with 2 C, no better.
    everyone = events.fixed_size_gaussian(4.0, 5, num_records=64, batch_size=64)
    self.assertGreaterEqual(
      cost(everyone), cost(events.gaussian(4.0, 5)) - 1e-6
    )

  def test_steps_compose_and_events_join(self):
    def cost(*released):
      return accounting.epsilon(released, _DELTA)

    np.testing.assert_allclose(
      cost(events.gaussian(4.0, 16)), cost(events.gaussian(1.0)), rtol=1e-3
    )
    np.testing.assert_allclose(
      cost(events.gaussian(3.0), events.gaussian(4.0)),
      cost(events.gaussian(12 / 5)),  # 1 / 9 + 1 / 16 = 1 / 2.4^2
      rtol=1e-3,
    )
    # A moment release beside training is not free.
    training = events.poisson_gaussian(2.0, 0.1, 100)
    self.assertGreater(
      cost(training, events.gaussian(2.0)), cost(training) + 0.1
    )

  def test_epochs_in_place_of_steps_would_report_too_little(self):
    steps = events.poisson_gaussian(1.0, 0.04, 500)
    epochs = events.poisson_gaussian(1.0, 0.04, 20)
    self.assertGreater(
      accounting.epsilon(steps, _DELTA), 2 * accounting.epsilon(epochs, _DELTA)
    )

  def test_truncation_costs_more_and_nothing_with_room(self):
    def cost(capacity):
      event = events.truncated_poisson_gaussian(
        1.3, 0.04, 50, num_records=1600, capacity=capacity
      )
      return accounting.epsilon(event, _DELTA)

    sampled = accounting.epsilon(events.poisson_gaussian(1.3, 0.04, 50), _DELTA)
    np.testing.assert_allclose(cost(160), sampled, rtol=1e-2)
    self.assertGreaterEqual(cost(100), cost(160))
    self.assertGreater(cost(70), 2 * sampled)

  def test_laplace_costs_one_over_its_scale(self):
    np.testing.assert_allclose(
      accounting.epsilon(events.laplace(2.0), 1e-9), 0.5, rtol=1e-3
    )

  @parameterized.parameters('pld', 'rdp')
  def test_no_noise_is_infinity_and_nothing_is_zero(self, accountant):
    for event in (
      events.non_private(),
      events.gaussian(0.0),
      events.poisson_gaussian(0.0, 0.1, 3),
    ):
      together = (events.gaussian(10.0), event)
      got = accounting.epsilon(together, _DELTA, accountant=accountant)
      self.assertEqual(got, math.inf)
    self.assertEqual(accounting.epsilon((), _DELTA, accountant=accountant), 0)

  def test_disjoint_clients_cost_the_largest(self):
    self.assertEqual(accounting.parallel([0.5, 2.0, 1.0]), 2.0)
    self.assertEqual(accounting.parallel([]), 0.0)
    self.assertEqual(accounting.parallel([1.0, math.inf]), math.inf)


class CalibrationTest(parameterized.TestCase):
  @parameterized.parameters(
    ('pld', 64, 50, 1.284), ('rdp', 256, 140, 6.747), ('pld', 256, 140, 6.119)
  )
  def test_noise_is_what_is_known_and_fits(self, accountant, batch, steps, z):
    q = batch / 1613
    got = accounting.noise_multiplier(
      1.0, 1e-4, sampling_probability=q, steps=steps, accountant=accountant
    )
    np.testing.assert_allclose(got, z, rtol=1e-3)
    cost = accounting.epsilon(
      events.poisson_gaussian(got, q, steps), 1e-4, accountant=accountant
    )
    self.assertLessEqual(cost, 1.0)
    self.assertGreater(cost, 0.999)

  def test_what_else_is_released_is_paid_for(self):
    moments = events.gaussian(8.0)
    alone = accounting.noise_multiplier(1.0, _DELTA, steps=10)
    beside = accounting.noise_multiplier(
      1.0, _DELTA, steps=10, others=(moments,)
    )
    self.assertGreater(beside, alone)
    together = (events.gaussian(beside, 10), moments)
    self.assertLessEqual(accounting.epsilon(together, _DELTA), 1.0)
    with self.assertRaisesRegex(InputError, 'epsilon=1.0.*1 other events.*4'):
      accounting.noise_multiplier(1.0, _DELTA, others=(events.gaussian(1.0),))

  def test_little_noise_is_found_too(self):
    got = accounting.noise_multiplier(8.0, _DELTA)
    cost = accounting.epsilon(events.gaussian(got), _DELTA)
    self.assertBetween(cost, 7.99, 8.0)

  @parameterized.parameters('pld', 'rdp')
  def test_a_tiny_epsilon_has_its_noise(self, accountant):
    for target in (1e-4, 1e-9):
      got = accounting.noise_multiplier(
        target, 1e-4, sampling_probability=0.1, steps=10, accountant=accountant
      )
      cost = accounting.epsilon(
        events.poisson_gaussian(got, 0.1, 10), 1e-4, accountant=accountant
      )
      self.assertLessEqual(cost, target)
      self.assertBetween(got, 10.0, 1e5)

  def test_what_no_noise_reaches_is_refused(self):
    with self.assertRaisesRegex(InputError, 'epsilon=1e-09 at delta=1e-12'):
      accounting.noise_multiplier(1e-9, 1e-12, steps=10)

  def test_the_largest_epsilon_is_found(self):
    got = accounting.noise_multiplier(
      accounting.MOST_EPSILON, _DELTA, sampling_probability=0.2, steps=100
    )
    cost = accounting.epsilon(events.poisson_gaussian(got, 0.2, 100), _DELTA)
    self.assertBetween(cost, 99.9, 100.0)

  def test_the_least_delta_is_resolved(self):
    # By both accountants alike, and not as infinity.
    event = events.poisson_gaussian(1.0, 0.05, 300)
    pld, rdp = (
      accounting.epsilon(event, accounting.LEAST_DELTA, accountant=accountant)
      for accountant in accounting.ACCOUNTANTS
    )
    self.assertBetween(pld, 0.9 * rdp, rdp)

  def test_infinity_asks_for_no_noise(self):
    self.assertEqual(accounting.noise_multiplier(math.inf, _DELTA), 0)


class CrossCheckTest(parameterized.TestCase):
  @parameterized.parameters((1.0, 100, 50, 1e-5), (2.0, 20, 30, 1e-4))
  def test_costs_what_jax_privacy_says(self, z, batch, steps, delta):
    try:
      from jax_privacy import accounting as theirs
    except ImportError:
      self.skipTest('jax_privacy is not installed')
    num_records, capacity = 1000, 2 * batch

    def cost(config, capacity=None):
      params = theirs.DpParams(
        noise_multipliers=z,
        num_samples=num_records,
        delta=delta,
        batch_size=batch,
        truncated_batch_size=capacity,
      )
      accountant = theirs.DpsgdTrainingAccountant(config)
      return accountant.compute_epsilon(steps, params)

    pld = theirs.PldAccountantConfig(value_discretization_interval=5e-4)
    rdp = theirs.RdpAccountantConfig()
    q = batch / num_records
    event = events.poisson_gaussian(z, q, steps)
    truncated = events.truncated_poisson_gaussian(
      z, q, steps, num_records=num_records, capacity=capacity
    )
    # They discretise losses otherwise.
    for got, expected in (
      (accounting.epsilon(event, delta), cost(pld)),
      (accounting.epsilon(event, delta, accountant='rdp'), cost(rdp)),
      (accounting.epsilon(truncated, delta), cost(pld, capacity)),
    ):
      np.testing.assert_allclose(got, expected, rtol=2e-3)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    (events.fixed_size_gaussian(1.0, 2, num_records=9, batch_size=3), 'pld',
     'replace_one'),
    (events.fixed_size_gaussian(1.0, 2, num_records=9, batch_size=3), 'rdp',
     'add_or_remove_one'),
    (events.truncated_poisson_gaussian(
      1.0, 0.1, 2, num_records=9, capacity=3), 'rdp', 'add_or_remove_one'),
    (events.poisson_gaussian(1.0, 0.1, 2), 'rdp', 'replace_one'),
    (events.laplace(1.0), 'pld', 'replace_one'),
  )  # fmt: skip
  def test_what_an_accountant_does_not_know(self, event, accountant, relation):
    with self.assertRaisesRegex(InputError, f'kind={event.kind!r}'):
      accounting.epsilon(
        event, _DELTA, accountant=accountant, neighbouring=relation
      )

  @parameterized.parameters(
    (lambda: accounting.epsilon((), 0.0), 'delta=0.0'),
    (lambda: accounting.epsilon((), 1), 'delta=1'),
    (lambda: accounting.epsilon((), 1e-300), 'delta=1e-300'),
    (lambda: accounting.noise_multiplier(1e4, 0.1), 'epsilon=10000.0.*nothing'),
    (lambda: accounting.epsilon((), 0.1, accountant='prv'), "accountant='prv'"),
    (lambda: accounting.epsilon((), 0.1, neighbouring='x'), "neighbouring='x'"),
    (lambda: accounting.noise_multiplier(0.0, 0.1), 'epsilon=0.0'),
    (lambda: accounting.noise_multiplier(1.0, 0.1, steps=0), 'steps=0'),
    (lambda: events.gaussian(-1.0), 'noise_multiplier=-1.0'),
    (lambda: events.gaussian(math.nan), 'noise_multiplier=nan'),
    (lambda: events.poisson_gaussian(1.0, 1.5, 1),
     'sampling_probability=1.5'),
    (lambda: events.poisson_gaussian(1.0, 0.5, 0), 'steps=0'),
    (lambda: events.fixed_size_gaussian(
      1.0, 1, num_records=2, batch_size=3), 'sampling_probability=1.5'),
    (lambda: events.truncated_poisson_gaussian(
      1.0, 0.5, 1, num_records=2, capacity=0), 'capacity=0'),
    (lambda: events.Event('exponential', 1.0), "kind='exponential'"),
  )  # fmt: skip
  def test_arguments_out_of_range(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build()


class ImportTest(absltest.TestCase):
  def test_the_accountants_are_imported_when_used(self):
    code = (
      'import sys, fedjax_gen.privacy.ledger, fedjax_gen.privacy.accounting;'
      'assert "dp_accounting" not in sys.modules;'
      'assert "jax" not in sys.modules'
    )
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, 'PYTHONPATH': root}
    subprocess.run([sys.executable, '-c', code], check=True, env=environment)


if __name__ == '__main__':
  absltest.main()

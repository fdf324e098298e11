"""Noise and rounds of a plan, against the accountant."""

import dataclasses
import math

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import (
  accounting,
  events,
  ledger as ledgers,
  plan as plans,
)
from fedjax_gen.privacy.ledger import BudgetSpentError
from fedjax_gen.privacy.steps import batches

_SIZES = np.array([40, 60, 0, 100])
_RECORD = plans.PrivacyConfig(privacy='record', epsilon=3.0, delta=1e-3)
_CLIENT = dataclasses.replace(_RECORD, privacy='client')


def _record_plan(rounds=4, epochs=1.0, batch_size=25, ledger=None, **changes):
  return plans.record_plan(
    dataclasses.replace(_RECORD, **changes),
    _SIZES,
    batch_size=batch_size,
    epochs=epochs,
    rounds=rounds,
    ledger=ledger,
  )


class RecordTest(parameterized.TestCase):
  @parameterized.parameters(
    (25, 1.0, 0.5, 2), (25, 3.0, 0.5, 6), (5, 0.0, 0.1, 1), (99, 2.0, 1.0, 2)
  )
  def test_all_clients_sample_alike(self, batch_size, epochs, rate, steps):
    got = plans.record_sampling(_SIZES, batch_size, epochs)
    self.assertEqual(got, (rate, steps))

  @parameterized.parameters('pld', 'rdp')
  def test_noise_is_what_the_budget_asks_for_and_no_more(self, accountant):
    plan = _record_plan(accountant=accountant)
    self.assertEqual((plan.rounds, plan.steps), (4, 2))
    self.assertEqual(
      plan.event, events.poisson_gaussian(plan.noise_multiplier, 0.5, 2)
    )
    spent = plan.charged(plan.rounds)
    self.assertLessEqual(spent.worst(), 3.0)
    np.testing.assert_array_equal(spent.spent(), spent.worst())
    less = events.poisson_gaussian(0.99 * plan.noise_multiplier, 0.5, 8)
    self.assertGreater(
      accounting.epsilon(less, _RECORD.delta, accountant=accountant), 3.0
    )
    with self.assertRaises(BudgetSpentError):
      plan.charged(plan.rounds + 1)
    self.assertEqual(plan.charged(0), plan.before)
    self.assertEqual(plan.charged(plan.rounds), plan.ledger)

  def test_with_noise_given_the_run_ends_when_the_budget_does(self):
    plan = _record_plan(rounds=1000, batch_size=99, noise_multiplier=3.0)
    self.assertEqual(plan.noise_multiplier, 3.0)
    self.assertLess(plan.rounds, 1000)
    self.assertLessEqual(plan.charged(plan.rounds).worst(), 3.0)
    with self.assertRaises(BudgetSpentError):
      plan.charged(plan.rounds + 1)
    # No more than were asked for, either.
    few = _record_plan(rounds=1, batch_size=99, noise_multiplier=3.0)
    self.assertEqual(few.rounds, 1)
    with self.assertRaisesRegex(BudgetSpentError, 'the first round'):
      _record_plan(batch_size=99, noise_multiplier=0.2)

  def test_infinity_clips_and_promises_nothing(self):
    plan = _record_plan(epsilon=math.inf)
    self.assertEqual((plan.noise_multiplier, plan.rounds), (0.0, 4))
    self.assertEqual(plan.charged(4).worst(), math.inf)

  def test_what_truncation_costs_is_kept_from_delta(self):
    sizes = np.array([5000, 3000])
    config = dataclasses.replace(_RECORD, clip_chunk=1)
    plan = plans.record_plan(config, sizes, batch_size=40, epochs=1.0, rounds=3)
    self.assertLess(plan.capacity, 300)
    cost = batches.overflow_delta(
      3.0, 5000, plan.sampling_rate, plan.capacity, 3 * plan.steps
    )
    self.assertGreater(cost, 0.0)
    self.assertLessEqual(plan.ledger.accounted_delta + cost, _RECORD.delta)
    # A few rows less would cost more than was kept, or the room is wasted.
    tight = batches.overflow_delta(
      3.0, 5000, plan.sampling_rate, plan.capacity - 8, 3 * plan.steps
    )
    self.assertGreater(plan.ledger.accounted_delta + tight, _RECORD.delta)

  def test_all_records_in_every_step_are_no_sample(self):
    plan = _record_plan(batch_size=99)
    self.assertEqual(plan.event, events.gaussian(plan.noise_multiplier, 1))
    self.assertGreater(plan.capacity, 100)

  def test_what_else_is_released_makes_more_noise(self):
    moments = plans.record_ledger(_RECORD, 4).charge(
      'moments', events.gaussian(4.0), [1, 3]
    )
    alone = _record_plan(batch_size=99)
    beside = _record_plan(batch_size=99, ledger=moments)
    self.assertGreater(beside.noise_multiplier, 1.02 * alone.noise_multiplier)
    spent = beside.charged(beside.rounds)
    self.assertLessEqual(spent.worst(), 3.0)
    self.assertGreater(spent.spent()[1], spent.spent()[0])
    # What was planned without knowing of it does not fit.
    with self.assertRaises(BudgetSpentError):
      moments.charge('training', alone.event.repeated(alone.rounds))

  def test_only_clients_with_records_share_noise(self):
    plan = _record_plan(batch_size=99, noise_placement='distributed')
    # Of three, two shares remain to who subtracts its own.
    np.testing.assert_allclose(plan.share**2 * 2, 1.0)
    self.assertEqual(_record_plan(batch_size=99).share, 1.0)
    nobody = _record_plan(
      batch_size=99, noise_placement='distributed', colluding=0
    )
    np.testing.assert_allclose(nobody.share**2 * 3, 1.0)
    with self.assertRaisesRegex(InputError, 'colluding < 3'):
      _record_plan(noise_placement='distributed', colluding=3)

  @parameterized.parameters(2, 5, 10)
  def test_shares_hold_against_another_client(self, num_clients):
    config = dataclasses.replace(
      _RECORD, epsilon=8.0, noise_placement='distributed'
    )
    plan = plans.record_plan(
      config, np.full(num_clients, 1000), batch_size=50, epochs=0.0, rounds=30
    )
    others = math.sqrt(num_clients - 1) * plan.share
    seen = events.poisson_gaussian(
      plan.noise_multiplier * others, plan.sampling_rate, 30
    )
    got = accounting.epsilon(seen, plan.ledger.accounted_delta)
    self.assertLessEqual(got, 8.0)
    self.assertGreater(got, 7.9)

  def test_the_costliest_client_decides_and_not_the_longest_history(self):
    ledger = plans.record_ledger(_RECORD, 4)
    ledger = ledger.charge('expensive', events.gaussian(1.8), [0])
    for label in ('cheap', 'cheaper'):
      ledger = ledger.charge(label, events.gaussian(60.0), [1])
    plan = _record_plan(ledger=ledger)
    self.assertLessEqual(plan.ledger.worst(), 3.0)
    self.assertGreater(plan.ledger.worst(), 2.9)
    self.assertEqual(plan.ledger.spent().argmax(), 0)

  @parameterized.parameters(
    ({'neighbouring': 'replace_one'}, 3.0),
    ({'accountant': 'rdp'}, 3.0),
    ({'epsilon': 1.0}, 1.0),
    ({'epsilon': 50.0}, 3.0),
    ({'delta': 1e-5}, 3.0),
  )
  def test_a_ledgers_own_terms_hold(self, changes, budget):
    ledger = dataclasses.replace(plans.record_ledger(_RECORD, 4), **changes)
    plan = _record_plan(batch_size=99, ledger=ledger)
    self.assertLessEqual(plan.ledger.worst(), budget)
    self.assertGreater(plan.ledger.worst(), 0.97 * budget)
    for name, value in changes.items():
      self.assertEqual(getattr(plan.ledger, name), value)

  def test_two_histories_of_which_neither_is_within_the_other(self):
    # Alone they cost about the same; next to training they do not.
    ledger = plans.record_ledger(_RECORD, 4)
    ledger = ledger.charge('once', events.gaussian(2.0), [0])
    ledger = ledger.charge('often', events.gaussian(5.6, 8), [1])
    ledger = ledger.charge(
      'sampled', events.poisson_gaussian(0.9, 0.05, 40), [3]
    )
    plan = _record_plan(batch_size=99, ledger=ledger)
    spent = plan.ledger.spent()
    self.assertLessEqual(spent.max(), 3.0)
    self.assertGreater(spent.max(), 2.99)
    self.assertLess(spent[2], spent.max())

  def test_noise_that_is_given_ends_with_the_smaller_budget(self):
    ledger = dataclasses.replace(plans.record_ledger(_RECORD, 4), epsilon=8.0)
    plan = _record_plan(
      rounds=1000, batch_size=99, noise_multiplier=3.0, ledger=ledger
    )
    alone = _record_plan(rounds=1000, batch_size=99, noise_multiplier=3.0)
    self.assertEqual(plan.rounds, alone.rounds)
    self.assertLessEqual(plan.ledger.worst(), 3.0)
    small = dataclasses.replace(ledger, epsilon=1.0)
    fewer = _record_plan(
      rounds=1000, batch_size=99, noise_multiplier=3.0, ledger=small
    )
    self.assertLess(fewer.rounds, plan.rounds)
    self.assertLessEqual(fewer.ledger.worst(), 1.0)

  def test_a_ledger_with_a_budget_is_kept_though_none_is_configured(self):
    ledger = plans.record_ledger(_RECORD, 4)
    plan = _record_plan(epsilon=math.inf, batch_size=99, ledger=ledger)
    self.assertGreater(plan.noise_multiplier, 0)
    self.assertLessEqual(plan.ledger.worst(), 3.0)

  def test_every_plan_sets_aside_what_its_batches_may_lack(self):
    ledger = plans.record_ledger(_RECORD, 4)
    self.assertEqual(ledger.set_aside, 0.0)
    first = _record_plan(ledger=ledger, noise_multiplier=9.0)
    np.testing.assert_allclose(first.ledger.set_aside, 2e-3 * _RECORD.delta)
    self.assertEqual(first.ledger.delta, _RECORD.delta)
    self.assertEqual(first.before, ledger)
    self.assertEqual(
      first.charged(1).set_aside, first.charged(first.rounds).set_aside
    )
    # Who goes on from there trains on batches that may lack room, again.
    more = _record_plan(ledger=first.ledger)
    np.testing.assert_allclose(more.ledger.set_aside, 4e-3 * _RECORD.delta)
    self.assertLessEqual(more.ledger.worst(), 3.0)

  def test_a_ledger_of_others_is_refused(self):
    with self.assertRaisesRegex(InputError, "unit='record' of 4 clients.*3 cl"):
      _record_plan(ledger=plans.record_ledger(_RECORD, 3))
    clients = ledgers.ledger(4, 3.0, 1e-3, unit='client')
    with self.assertRaisesRegex(InputError, "got unit='client' of 4"):
      _record_plan(ledger=clients)
    with self.assertRaisesRegex(InputError, "unit='client' of 5 clients"):
      plans.client_plan(_CLIENT, 5, rounds=1, ledger=clients)

  def test_a_budget_that_is_spent_stops_before_training(self):
    ledger = plans.record_ledger(_RECORD, 4)
    spent = ledger.charge('all', events.gaussian(1.38), [2])
    self.assertLess(spent.worst(), 3.0)
    open_end = dataclasses.replace(ledger, epsilon=math.inf)
    open_end = open_end.charge('means', events.non_private(), [1])
    for before, told in ((open_end, 'inf are spent'), (
      dataclasses.replace(spent, epsilon=2.0), 'are spent')):  # fmt: skip
      with self.assertRaisesRegex(BudgetSpentError, told):
        _record_plan(ledger=before)

  def test_what_does_not_fit_is_refused_before_training(self):
    config = dataclasses.replace(_RECORD, epsilon=50.0)
    ledger = plans.record_ledger(config, 4).charge(
      'too much already', events.gaussian(0.5), [2]
    )
    with self.assertRaisesRegex(InputError, 'epsilon'):
      _record_plan(ledger=ledger)


class ClientTest(parameterized.TestCase):
  def test_every_round_is_an_event_and_coins_amplify(self):
    plain = plans.client_plan(_CLIENT, 20, rounds=5)
    self.assertEqual(plain.event, events.gaussian(plain.noise_multiplier))
    self.assertEqual(plain.ledger.unit, 'client')
    self.assertEqual((plain.expected_cohort, plain.steps), (20.0, 0))
    drawn = plans.client_plan(_CLIENT, 20, rounds=5, sampling_rate=0.25)
    self.assertEqual(
      drawn.event, events.poisson_gaussian(drawn.noise_multiplier, 0.25, 1)
    )
    self.assertLess(drawn.noise_multiplier, 0.6 * plain.noise_multiplier)
    self.assertEqual(drawn.expected_cohort, 5.0)
    for plan in (plain, drawn):
      self.assertLessEqual(plan.charged(5).worst(), 3.0)
      with self.assertRaises(BudgetSpentError):
        plan.charged(6)

  def test_another_cohort_may_be_expected(self):
    plan = plans.client_plan(_CLIENT, 20, rounds=5, expected_cohort=4.5)
    self.assertEqual(plan.expected_cohort, 4.5)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'epsilon': 0.0}, 'epsilon=0.0'),
    ({'epsilon': math.nan}, 'epsilon=nan'),
    ({'epsilon': 1e4}, 'epsilon=10000.0'),
    ({'delta': 0.0}, 'delta=0.0'),
    ({'delta': 1e-300}, 'delta=1e-300'),
    ({'colluding': -1}, 'colluding=-1'),
    ({'noise_seed': -2}, 'noise_seed=-2'),
    ({'delta': 1.0}, 'delta=1.0'),
    ({'clip_norm': 0.0}, 'clip_norm=0.0'),
    ({'noise_multiplier': -1.0}, 'noise_multiplier=-1.0'),
    ({'noise_multiplier': 1.0, 'epsilon': math.inf}, 'noise_multiplier=1.0'),
    ({'noise_placement': 'server'}, "noise_placement='server'"),
    ({'accountant': 'moments'}, "accountant='moments'"),
    ({'clip_chunk': 0}, 'clip_chunk=0'),
  )
  def test_bad_fields_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      plans.PrivacyConfig(**fields)

  def test_a_weak_delta_is_named(self):
    self.assertEqual(plans.usual_delta(50), 0.002)
    self.assertEqual(plans.delta_warning(0.002, 50), '')
    said = plans.delta_warning(0.0021, 50, 'client')
    self.assertIn('With 50 clients a delta of 0.0021 promises little', said)
    self.assertIn('at most 0.002,', said)
    # One over ten times the records, where one over them was accepted once.
    self.assertIn('12799 records', plans.delta_warning(1e-5, 12_799))
    with self.assertRaisesRegex(InputError, 'num_units=0'):
      plans.usual_delta(0)

  def test_nothing_is_private_unless_asked_for(self):
    self.assertFalse(plans.PrivacyConfig().is_private)
    self.assertTrue(_CLIENT.is_private)

  @parameterized.parameters(
    ({'batch_size': 0}, 'batch_size=0'),
    ({'epochs': -1.0}, 'local_epochs=-1.0'),
    ({'rounds': 0}, 'rounds=0'),
  )
  def test_bad_schedules_are_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      _record_plan(**fields)


if __name__ == '__main__':
  absltest.main()

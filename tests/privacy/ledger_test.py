"""Everything that is released is charged, and a spent budget stops."""

import json
import math

from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import (
  accounting,
  events,
  ledger as ledgers,
  ledger_rows,
)

_STEP = events.poisson_gaussian(2.0, 0.1, 1)
_MOMENTS = events.gaussian(6.0)
_DELTA = 1e-5


def _cost(*released):
  return accounting.epsilon(released, _DELTA)


def _used():
  ledger = ledgers.ledger(4, 3.0, _DELTA)
  ledger = ledger.charge('training', _STEP.repeated(20))
  ledger = ledger.charge('training', _STEP.repeated(10), [1, 3])
  return ledger.charge('class moments', _MOMENTS, clients=[3])


class LedgerTest(parameterized.TestCase):
  def test_each_client_pays_for_what_was_released_of_it(self):
    ledger = _used()
    short, long = _STEP.repeated(20), _STEP.repeated(30)
    expected = [_cost(short), _cost(long), _cost(short), _cost(long, _MOMENTS)]
    np.testing.assert_allclose(ledger.spent(), expected)
    # Clients are disjoint: the whole costs what the costliest does.
    self.assertEqual(ledger.worst(), expected[3])
    np.testing.assert_allclose(ledger.remaining(), 3.0 - np.array(expected))
    self.assertTrue((ledger.spent(1e-3) < ledger.spent()).all())

  def test_left_out_moments_would_report_too_little(self):
    self.assertGreater(_used().spent()[3], _used().spent()[1] + 0.05)

  def test_like_releases_are_joined_and_labels_kept_apart(self):
    ledger = ledgers.ledger(1, 3.0, _DELTA)
    for _ in range(3):
      ledger = ledger.charge('training', _STEP.repeated(2))
    ledger = ledger.charge('validation', _STEP)
    self.assertEqual(
      ledger.histories[0],
      (
        ledgers.Entry('training', _STEP.repeated(6)),
        ledgers.Entry('validation', _STEP),
      ),
    )
    np.testing.assert_allclose(ledger.spent(), [_cost(_STEP.repeated(7))])

  def test_stops_when_the_budget_is_spent_and_not_before(self):
    ledger = ledgers.ledger(2, 1.0, _DELTA).charge('moments', _MOMENTS, [1])
    steps = ledger.remaining_steps(_STEP)
    self.assertGreater(steps, 1)
    # Client 0 alone could go on for longer.
    self.assertGreater(ledger.remaining_steps(_STEP, [0]), steps)
    full = ledger.charge('training', _STEP.repeated(steps))
    self.assertLessEqual(full.worst(), 1.0)
    self.assertTrue(full.would_exceed(_STEP))
    self.assertFalse(full.would_exceed(_STEP, [0]))
    self.assertEqual(full.remaining_steps(_STEP), 0)
    with self.assertRaisesRegex(
      ledgers.BudgetSpentError, "'training'.*epsilon=1.*client 1 .1 clients"
    ):
      full.charge('training', _STEP)
    # It was refused before anything was released: nothing is charged.
    self.assertEqual(full.histories[1][1].event.steps, steps)
    self.assertTrue(issubclass(ledgers.BudgetSpentError, InputError))

  def test_a_release_without_noise_exceeds_every_budget_but_infinity(self):
    ledger = ledgers.ledger(2, 100.0, _DELTA)
    with self.assertRaises(ledgers.BudgetSpentError):
      ledger.charge('means', events.non_private())
    open_end = ledgers.ledger(2, math.inf, _DELTA)
    open_end = open_end.charge('means', events.non_private(), [0])
    np.testing.assert_array_equal(open_end.spent(), [math.inf, 0])
    np.testing.assert_array_equal(open_end.remaining(), math.inf)
    self.assertIsNone(open_end.remaining_steps(_STEP))

  def test_the_accountant_is_given_what_is_not_set_aside(self):
    whole = ledgers.ledger(1, 3.0, _DELTA).charge('moments', _MOMENTS)
    part = whole.setting_aside(0.3 * _DELTA).setting_aside(0.2 * _DELTA)
    self.assertEqual(part.delta, _DELTA)
    np.testing.assert_allclose(part.accounted_delta, 0.5 * _DELTA)
    np.testing.assert_allclose(part.spent(), whole.spent(0.5 * _DELTA))
    self.assertGreater(part.worst(), whole.worst())
    with self.assertRaisesRegex(InputError, 'set_aside'):
      part.setting_aside(0.5 * _DELTA)

  def test_the_relation_is_said_in_words(self):
    for unit, public in (('record', 'of records of each client'),
                         ('client', 'of clients')):  # fmt: skip
      zeroed = ledgers.ledger(2, 3.0, _DELTA, unit=unit)
      self.assertEqual(zeroed.neighbouring, 'zero_out')
      self.assertIn(f"one {unit}'s contribution zeroed", zeroed.relation)
      self.assertIn(f'the number {public} is public', zeroed.relation)
      for name, word in (('add_or_remove_one', 'added or removed'),
                         ('replace_one', 'replaced by another')):  # fmt: skip
        other = ledgers.ledger(2, 3.0, _DELTA, unit=unit, neighbouring=name)
        self.assertIn(word, other.relation)

  def test_survives_being_written_and_read(self):
    finite = _used()
    endless = ledgers.ledger(
      2, math.inf, _DELTA, unit='client', accountant='rdp'
    ).charge('all', events.non_private())
    for ledger in (finite, endless, finite.setting_aside(1e-7)):
      text = ledger.to_json()
      self.assertEqual(ledgers.from_json(text), ledger)
    fields = json.loads(finite.to_json())
    self.assertLen(fields['histories'], 3)  # clients 0 and 2 share one
    self.assertEqual(fields['history_of'], [0, 1, 0, 2])

  def test_texts_that_are_no_ledger_are_refused(self):
    text = _used().to_json()
    for wrong in (
      '', '[]', '{}', text.replace('history_of', 'other'),
      text.replace('"steps": 20', '"steps": -20'),
      text.replace('"epsilon": "3.0"', '"epsilon": "three"'),
      text.replace('"unit": "record"', '"unit": "hospital"'),
    ):  # fmt: skip
      with self.assertRaises(InputError):
        ledgers.from_json(wrong)

  def test_the_table_says_all_of_it(self):
    table = ledger_rows.table(_used().charge('class moments', _MOMENTS, [0, 1]))
    rows = [
      [cell.strip() for cell in line.split('|')[1:-1]]
      for line in table.splitlines()
      if line.startswith('|')
    ]
    self.assertLen({len(row) for row in rows}, 1)
    self.assertIn('one record (delta=1e-05)', rows[0][-1])
    cost = f'{_cost(_STEP.repeated(20)):.4g}'
    self.assertIn(
      ['2', 'training', 'poisson gaussian', '20', '0.1', '2', cost], rows
    )
    self.assertEqual([row[0] for row in rows[2:]], ['0', '', '1, 3', '', '2'])
    self.assertIn('Budget: epsilon=3 at delta=1e-05; pld', table)
    self.assertIn("Neighbouring data: one record's contribution zeroed", table)
    kept = ledger_rows.table(_used().setting_aside(2e-8))
    self.assertIn('delta=1e-05; 2e-08 of it are kept', kept)
    self.assertIn('one record (delta=1e-05)', kept)
    fresh = ledger_rows.table(ledgers.ledger(5, math.inf, _DELTA))
    self.assertIn('| 0-4 | nothing |', fresh)

  @parameterized.parameters(
    (lambda: ledgers.ledger(0, 1.0, _DELTA), 'num_clients=0'),
    (lambda: ledgers.ledger(1, 0.0, _DELTA), 'epsilon=0.0'),
    (lambda: ledgers.ledger(1, 1.0, 0.0), 'delta=0.0'),
    (lambda: ledgers.ledger(1, 1.0, 1e-300), 'delta=1e-300'),
    (lambda: ledgers.ledger(1, 1e4, _DELTA), 'epsilon=10000.0'),
    (lambda: ledgers.ledger(1, 1.0, _DELTA, set_aside=_DELTA),
     'set_aside=1e-05'),
    (lambda: ledgers.ledger(1, 1.0, _DELTA, set_aside=-1e-9),
     'set_aside=-1e-09'),
    (lambda: ledgers.ledger(1, 1.0, _DELTA, unit='x'), "unit='x'"),
    (lambda: ledgers.ledger(1, 1.0, _DELTA, accountant='x'), "accountant='x'"),
    (lambda: ledgers.ledger(3, 1.0, _DELTA).charge('x', _STEP, [1, 3]),
     r'\[0, 3\), got \[3\]'),
    (lambda: ledgers.ledger(3, 1.0, _DELTA).would_exceed(_STEP, [-1]),
     r'got \[-1\]'),
  )  # fmt: skip
  def test_bad_arguments_are_refused(self, build, message):
    with self.assertRaisesRegex(InputError, message):
      build()


if __name__ == '__main__':
  absltest.main()

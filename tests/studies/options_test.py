"""Flags and checks that several programs share."""

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import config_records
from fedjax_gen.studies import options


def test_numbers_of_examples_are_kept_and_recorded():
  config = options.DataConfig(num_examples=200, num_test_examples=50)
  source = options.load_source(config, seed=0)
  assert (len(source.train.labels), len(source.test.labels)) == (200, 50)
  record = config_records.to_record(config)
  assert record['num_examples'] == 200 and record['num_test_examples'] == 50
  other = options.load_source(config, seed=1)
  assert not np.array_equal(source.train.inputs, other.train.inputs)


def test_records_from_before_these_flags_keep_all():
  record = config_records.to_record(options.DataConfig())
  del record['num_examples'], record['num_test_examples']
  config = config_records.from_record(options.DataConfig, record)
  assert (config.num_examples, config.num_test_examples) == (0, 0)


def test_those_measured_are_spread_over_every_fleet():
  rows = options.MeasuredConfig(4).rows([8, 3, 1])
  assert [r.tolist() for r in rows] == [[0, 2, 5], [0], [0]]
  for number in (0, 12, 99):  # all
    rows = options.MeasuredConfig(number).rows([8, 3, 1])
    assert [len(r) for r in rows] == [8, 3, 1]
  with pytest.raises(InputError, match='measured_clients=-1'):
    options.MeasuredConfig(-1)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ((), "kinds to be one of a, b, got kinds=''"),
    (('a', 'c'), "got kinds='c'"),
    (('a', 'b', 'a'), 'each of kinds once, got a,b,a'),
  ],
)
def test_names_are_known_and_given_once(given, message):
  options.each_once(('a', 'b'), kinds=('b', 'a'))
  with pytest.raises(InputError, match=message):
    options.each_once(('a', 'b'), kinds=given)


def test_one_name_in_two_spellings_is_given_twice():
  options.each_once(str.lower, kinds=('a', 'B'))
  with pytest.raises(InputError, match='each of kinds once, got a,A'):
    options.each_once(str.lower, kinds=('a', 'A'))


def test_the_same_examples_are_known_whatever_the_seed_and_the_scale():
  sources = [
    options.load_source(options.DataConfig(), seed=seed) for seed in (0, 1)
  ]
  first, second = sources
  assert not np.array_equal(first.train.inputs, second.train.inputs)
  assert first.fingerprint == second.fingerprint
  fewer = options.load_source(options.DataConfig(num_examples=200), seed=0)
  assert fewer.fingerprint != first.fingerprint

"""The flags that say which data: they reach the reader, and are recorded."""

import numpy as np

from experiments import options
from fedjax_gen.running import config_records


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

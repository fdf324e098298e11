import dataclasses
import json
import math

import pytest

from fedjax_gen import validate
from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import config_records


@dataclasses.dataclass(frozen=True)
class Config:
  alpha: float = 0.5
  widths: tuple[int, ...] = (4, 3)
  out: str = dataclasses.field(default='', metadata={'recorded': False})

  def __post_init__(self):
    validate.positive(alpha=self.alpha)


def test_a_configuration_comes_back_without_what_does_not_matter():
  record = json.loads(
    json.dumps(config_records.to_record(Config(2.0, (8,), out='here')))
  )
  assert config_records.from_record(Config, record) == Config(2.0, (8,))


def test_infinity_is_recorded_as_json_can_and_comes_back():
  @dataclasses.dataclass(frozen=True)
  class Budget:
    epsilon: float = 8.0
    widths: tuple[int, ...] = ()

  record = config_records.to_record(Budget(math.inf, (2,)))
  text = json.dumps(record, allow_nan=False)
  assert json.loads(text)['epsilon'] == 'inf'
  read = config_records.from_record(Budget, json.loads(text))
  assert read == Budget(math.inf, (2,))


def test_a_record_of_another_version_is_refused():
  with pytest.raises(InputError, match="got 'beta'"):
    config_records.from_record(Config, {'alpha': 1.0, 'beta': 2})
  with pytest.raises(InputError, match='alpha'):
    config_records.from_record(Config, {'alpha': -1.0})

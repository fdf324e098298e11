import json

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.running.stopping import DivergedError
from fedjax_gen.running.storage import disk, workdir as workdir_lib
from fedjax_gen.running.storage.workdir import Workdir

CONFIG = {'seed': 0, 'data': {'name': 'digits', 'alpha': 0.5}, 'widths': (4, 3)}


def _rounds(first, last):
  return [{'round': i, 'loss': 1 / i} for i in range(first, last + 1)]


def test_the_same_config_resumes_and_another_is_refused_untouched(tmp_path):
  path = tmp_path / 'new' / 'run'
  with Workdir(path, CONFIG):
    pass
  with Workdir(path, CONFIG):  # a tuple reads back as a list, and is the same
    pass
  before = (path / 'config.json').read_bytes()
  other = {'seed': 0, 'data': {'name': 'mnist', 'beta': 1}, 'widths': (4, 3)}
  with pytest.raises(InputError) as error:
    Workdir(path, other)
  assert [line for line in str(error.value).split('\n') if line[0] == ' '] == [
    '  data.name: "digits" there, "mnist" here',
    '  data.alpha: 0.5 there, absent here',
    '  data.beta: absent there, 1 here',
  ]
  assert (path / 'config.json').read_bytes() == before


def test_a_long_difference_is_cut(tmp_path):
  with Workdir(tmp_path / 'run', {f'field{i}': 0 for i in range(30)}):
    pass
  with pytest.raises(InputError, match='and 22 more') as error:
    Workdir(tmp_path / 'run', {f'field{i}': 1 for i in range(30)})
  assert str(error.value).count('\n') < 12


def test_a_directory_of_something_else_is_refused_untouched(tmp_path):
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(InputError, match='not a work directory'):
    Workdir(tmp_path, CONFIG)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']
  with pytest.raises(InputError, match='Not a directory'):
    Workdir(tmp_path / 'thesis.tex', CONFIG)


def test_a_start_killed_before_its_config_can_be_repeated(tmp_path):
  (tmp_path / '.lock').touch()
  (tmp_path / '.config-0123abcd.json').write_text('{"se')
  with Workdir(tmp_path, CONFIG):
    assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_a_directory_in_use_is_refused_until_it_is_closed(tmp_path):
  with (
    Workdir(tmp_path, CONFIG),
    pytest.raises(InputError, match='Another process'),
  ):
    Workdir(tmp_path, CONFIG)
  Workdir(tmp_path, CONFIG).close()


def test_after_a_rewind_each_round_stands_once(tmp_path):
  with Workdir(tmp_path, CONFIG) as workdir:
    workdir.log('central', _rounds(1, 3))
    workdir.log('federated', _rounds(1, 4))
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"method": "federated", "rou')  # torn by a kill
  with Workdir(tmp_path, CONFIG) as workdir:
    workdir.rewind('federated', 2)
    workdir.log('federated', _rounds(3, 5))
    assert [r['round'] for r in workdir.history('federated')] == [1, 2, 3, 4, 5]
    assert [r['round'] for r in workdir.history('central')] == [1, 2, 3]
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert len([json.loads(line) for line in lines]) == 8
  assert len(list((tmp_path / 'tensorboard/federated').iterdir())) == 2


def test_what_is_not_a_number_is_null_in_the_log_but_refused_in_results(
  tmp_path,
):
  with Workdir(tmp_path, CONFIG) as workdir:
    workdir.log('federated', [{'round': 1, 'loss': float('nan')}])
    assert workdir.history('federated')[0]['loss'] is None
    with pytest.raises(DivergedError, match='methods.federated.fid is nan'):
      workdir.write_summary({'methods': {'federated': {'fid': np.nan}}})
    with pytest.raises(DivergedError, match='central.fid is inf'):
      workdir.once('central', lambda: {'fid': np.float32('inf')})
  assert not (tmp_path / 'summary.json').exists()
  assert not (tmp_path / 'methods/central.json').exists()


def test_a_result_is_computed_once(tmp_path):
  calls = []

  def compute():
    calls.append(1)
    return {'fid': np.float32(0.5), 'epsilon': 3}

  for _ in range(2):
    with Workdir(tmp_path, CONFIG) as workdir:
      assert workdir.once('central', compute) == {'fid': 0.5, 'epsilon': 3}
  assert len(calls) == 1


def test_a_finished_run_is_known_by_its_summary(tmp_path):
  assert workdir_lib.finished_summary(tmp_path / 'run', CONFIG) is None
  assert not (tmp_path / 'run').exists()  # only read
  with Workdir(tmp_path / 'run', CONFIG) as workdir:
    assert workdir_lib.finished_summary(tmp_path / 'run', CONFIG) is None
    workdir.write_summary({'rounds': 3})
  assert workdir_lib.finished_summary(tmp_path / 'run', CONFIG) == {'rounds': 3}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'summary.json'
  disk.write_atomically(path, 'old')

  def full(unused):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.fsync', full)
  with pytest.raises(disk.DiskFullError, match='summary.json'):
    disk.write_atomically(path, 'new')
  assert path.read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['summary.json']


def test_other_data_under_the_same_name_are_refused(tmp_path):
  with Workdir(tmp_path / 'run', CONFIG) as workdir:
    workdir.pin(data='a', partition='b')
  with Workdir(tmp_path / 'run', CONFIG) as workdir:
    workdir.pin(data='a', partition='b')
    with pytest.raises(InputError, match='The data of the run .* changed'):
      workdir.pin(data='c', partition='b')

"""Tensors of PyTorch are read without running the pickle that names them."""

import pickle
import zipfile

import numpy as np
import pytest

from fedjax_gen.data.formats import torch_file
from fedjax_gen.errors import InputError
from tests import torch_files

_RNG = np.random.default_rng(0)
_ARRAYS = {
  'weight': _RNG.normal(size=(3, 2, 4)).astype(np.float32),
  'double': _RNG.normal(size=5),
  'half': _RNG.normal(size=(2, 2)).astype(np.float16),
  'long': np.array([[2**40], [-1]]),
  'int': np.array([1, -2], np.int32),
  'short': np.array([3, -4], np.int16),
  'char': np.array([5, -6], np.int8),
  'byte': np.array([7, 250], np.uint8),
  'bool': np.array([True, False]),
  'tracked': np.array(9),
  'empty': np.zeros((0, 3), np.float32),
}


def _write(path, form, state, storages):
  if form == 'zip':
    torch_files.write_zip(path, state, storages)
  else:
    path.write_bytes(torch_files.legacy(state, storages))
  return path


def _check(found, expected):
  assert list(found) == list(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype and found[name].flags.writeable


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_tensors_of_every_type_are_read_in_both_forms(tmp_path, form):
  path = _write(tmp_path / 'net.pth', form, *torch_files.parts(_ARRAYS))
  _check(torch_file.load(path), _ARRAYS)


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_files_of_pytorch_itself_are_read(tmp_path, form):
  torch = pytest.importorskip('torch', reason='PyTorch writes the files')
  network = torch.nn.Sequential(
    torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)
  )
  tensors = network.state_dict()  # an OrderedDict with an attribute
  # A view with steps and an offset, and one of the same storage.
  tensors['turned'] = torch.arange(12.0).reshape(3, 4).T[1:, ::2]
  tensors['shared'] = tensors['turned']
  path = tmp_path / 'net.pth'
  torch.save(tensors, path, _use_new_zipfile_serialization=form == 'zip')
  _check(torch_file.load(path), {k: v.numpy() for k, v in tensors.items()})


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_views_of_one_storage_are_arrays_of_their_own(tmp_path, form):
  numbers = np.arange(12, dtype=np.float32)
  shared = torch_files.storage('a', 12)
  state = torch_files.state_dict(
    {
      'turned': torch_files.tensor(shared, (4, 3), (1, 4)),
      'part': torch_files.tensor(shared, (2,), (5,), offset=6),
    }
  )
  found = torch_file.load(_write(tmp_path / 'f', form, state, {'a': numbers}))
  _check(found, {'turned': numbers.reshape(3, 4).T, 'part': numbers[[6, 11]]})
  found['part'][:] = 0
  assert found['turned'].sum() == numbers.sum()


class Malicious:
  """Its pickle opens, and so makes, a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, 'w')


@pytest.mark.parametrize('form', ['zip', 'legacy'])
@pytest.mark.parametrize('protocol', range(6))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, form, protocol):
  made = tmp_path / 'made'
  state = pickle.dumps({'weight': Malicious(made)}, protocol)
  path = _write(tmp_path / 'net.pth', form, state, {})
  with pytest.raises(InputError, match=r'net\.pth.*io\.open.*not run'):
    torch_file.load(path)
  assert not made.exists()
  with pickle.loads(state)['weight']:  # it would have been
    assert made.exists()


@pytest.mark.parametrize('place', range(5))
def test_no_pickle_of_an_old_file_is_run(tmp_path, place):
  made = tmp_path / 'made'
  pickles = [
    pickle.dumps(value, 2)
    for value in (torch_files.MAGIC, 1001, torch_files.machine(), {}, [])
  ]
  pickles[place] = pickle.dumps(Malicious(made), 2)
  (tmp_path / 'net.pth').write_bytes(b''.join(pickles))
  with pytest.raises(InputError, match='net.pth'):
    torch_file.load(tmp_path / 'net.pth')
  assert not made.exists()


def _of(reference, *args, **kwargs):
  return torch_files.state_dict(
    {'w': torch_files.tensor(reference, *args, **kwargs)}
  )


_FOUR = {'a': np.arange(4, dtype=np.float32)}
_A = torch_files.storage('a', 4)
BAD_STATES = {
  'beyond': (_of(_A, (5,)), "'w'.*leaves its 4 numbers"),
  'beyond by its offset': (_of(_A, (4,), offset=1), 'from number 1'),
  'beyond by its steps': (_of(_A, (2,), (4,)), 'steps .4.'),
  'repeated': (_of(_A, (10**12,), (0,)), 'leaves its 4 numbers'),
  'negative': (_of(_A, (-1,)), 'whole number >= 0'),
  'negative step': (_of(_A, (2,), (-1,), offset=3), 'whole number >= 0'),
  'fewer steps': (_of(_A, (2, 2), (1,)), "'w'.*whole tensor"),
  'axes': (_of(_A, (1,) * 99), "'w'.*whole tensor"),
  'no storage': (
    _of(torch_files.numbers(1), (1,)),
    "'w'.*whole tensor|4 numbers of storage 'a' that no tensor has",
  ),
  'no tensor': (
    torch_files.state_dict({'epoch': b'I3\n'}),
    "'epoch': expected a tensor, got int|that no tensor has",
  ),
  'a record': (
    torch_files.state_dict({'w': b'ctorch._utils\n_rebuild_tensor_v2\n)R'}),
    "'w'.*whole tensor|4 numbers of storage 'a' that no tensor has",
  ),
  'a list': (b'].', 'named tensors, got list|that no tensor has'),
  'a name': (b'}K\x01Ns.', 'a name: expected text, got int|that no tensor has'),
  'another type': (
    _of(torch_files.storage('a', 4, 'BFloat16'), (4,)),
    'torch.BFloat16Storage.*not run',
  ),
  'another size': (
    _of(torch_files.storage('a', 3), (3,)),
    '(16 bytes|4 numbers) of storage',
  ),
  'a view': (_of(torch_files.storage('a', 4, view=b'I1\n'), (4,)), 'view'),
  'another key': (
    _of(torch_files.storage('b', 4), (4,)),
    "no numbers of storage 'b'|'a' that",
  ),
  'two of a key': (
    torch_files.state_dict(
      {
        'w': torch_files.tensor(_A, (4,)),
        'v': torch_files.tensor(torch_files.storage('a', 4, 'Int'), (4,)),
      }
    ),
    "two storages under one key, 'a'",
  ),
  'a reference to nothing': (
    torch_files.state_dict({'w': b'I1\nQ'}),
    'none to a storage',
  ),
  'a function': (_of(b'cos\nsystem\n', (1,)), 'os.system.*not run'),
}


@pytest.mark.parametrize('form', ['zip', 'legacy'])
@pytest.mark.parametrize('case', BAD_STATES)
def test_a_bad_tensor_is_refused(tmp_path, form, case):
  state, message = BAD_STATES[case]
  with pytest.raises(InputError, match=message):
    torch_file.load(_write(tmp_path / 'f', form, state, _FOUR))


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_a_cut_file_is_refused_wherever_it_ends(tmp_path, form):
  path = _write(tmp_path / 'f', form, *torch_files.parts(_ARRAYS))
  whole = path.read_bytes()
  for end in range(0, len(whole) - 1, 7):
    path.write_bytes(whole[:end])
    with pytest.raises(InputError, match='f: '):
      torch_file.load(path)


def test_another_file_is_refused(tmp_path):
  state, storages = torch_files.parts(_ARRAYS)
  path = tmp_path / 'f'
  for data, message in (
    (b'\xff\xd8\xff\xe0 a picture', 'another kind of file'),
    (pickle.dumps({'a': 1}), 'another kind of file'),
    (torch_files.legacy(state, storages, version=7), 'got version 7'),
    (torch_files.legacy(state, storages, little_endian=False), 'low byte'),
  ):
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
      torch_file.load(path)
  torch_files.write_zip(path, state, storages, order=b'big')
  with pytest.raises(InputError, match='low byte'):
    torch_file.load(path)
  torch_files.write_zip(path, state, storages, packing=zipfile.ZIP_DEFLATED)
  with pytest.raises(InputError, match='compressed'):
    torch_file.load(path)
  np.savez(path.open('wb'), x=np.zeros(3))
  with pytest.raises(InputError, match=r'without data\.pkl'):
    torch_file.load(path)
  with pytest.raises(InputError, match='cannot be read: No such file'):
    torch_file.load(tmp_path / 'missing')

"""TensorFlow Datasets: clear refusals, and the images of the idx files.

The last test needs a folder in which TFDS prepared `mnist` (array_record),
named by FEDJAX_GEN_TFDS, and the idx files in FEDJAX_GEN_DATA.
"""

import importlib.util
import os
import time

import pytest

from fedjax_gen.data import sources
from fedjax_gen.data.formats import tfds
from fedjax_gen.errors import InputError

HAS_TFDS = all(
  importlib.util.find_spec(name)
  for name in ('tensorflow_datasets', 'array_record')
)
needs_tfds = pytest.mark.skipif(
  not HAS_TFDS, reason='needs the extra fedjax_gen[tfds]'
)


@pytest.fixture(autouse=True)
def _no_network_and_no_other_folder(monkeypatch, tmp_path):
  monkeypatch.setattr(tfds, '_network_reachable', lambda: False)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'default'))


@pytest.mark.skipif(HAS_TFDS, reason='the extra fedjax_gen[tfds] is installed')
@pytest.mark.parametrize('spec', ['cifar10', 'cifar100', 'tfds:svhn_cropped'])
def test_absent_extra_is_named_with_the_command(spec, monkeypatch):
  monkeypatch.delenv('FEDJAX_GEN_DATA', raising=False)
  with pytest.raises(InputError, match=r'pip install "fedjax_gen\[tfds\]"'):
    sources.load(spec)


@needs_tfds
@pytest.mark.parametrize('spec', ['cifar10', 'tfds:svhn_cropped'])
def test_no_network_is_one_quick_sentence_and_leaves_no_files(
  tmp_path, monkeypatch, spec
):
  monkeypatch.delenv('FEDJAX_GEN_DATA', raising=False)
  start = time.monotonic()
  with pytest.raises(
    InputError, match='network.*data_dir.*(local files|archive)'
  ) as e:
    sources.load(spec, data_dir=str(tmp_path / 'prepared'))
  assert '\n' not in str(e.value)
  assert time.monotonic() - start < 20
  assert not list(tmp_path.iterdir())


@needs_tfds
def test_unknown_name_gets_a_suggestion():
  with pytest.raises(InputError, match="'mnst'; did you mean mnist"):
    sources.load('tfds:mnst')


@needs_tfds
@pytest.mark.skipif(
  not (os.environ.get('FEDJAX_GEN_TFDS') and os.environ.get('FEDJAX_GEN_DATA')),
  reason='needs mnist prepared by TFDS in the folder FEDJAX_GEN_TFDS and its '
  'idx files in FEDJAX_GEN_DATA',
)
def test_images_equal_those_of_the_idx_files(monkeypatch):
  original = sources.load('mnist')
  monkeypatch.delenv('FEDJAX_GEN_DATA')
  prepared = sources.load('mnist', data_dir=os.environ['FEDJAX_GEN_TFDS'])
  assert prepared.class_names == original.class_names
  for part, other in (
    (original.train, prepared.train),
    (original.test, prepared.test),
  ):
    assert pairs(part) == pairs(other)


def pairs(part):
  """All (image, label) pairs in one order, as TFDS has shuffled them."""
  return sorted(
    (image.tobytes(), int(label))
    for image, label in zip(part.inputs, part.labels, strict=True)
  )

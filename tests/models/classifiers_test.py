"""Every architecture gives features of one size, and can be trained."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.models.classification import classifiers, extractors
from fedjax_gen.models.classification.classifiers import (
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec

_GREY = DataSpec((28, 28, 1), 10)


def _parameters(config, spec):
  [model] = build_classifiers(config, spec)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


class ClassifiersTest(parameterized.TestCase):
  @parameterized.product(
    name=sorted(extractors.EXTRACTORS), shape=[(8, 8, 1), (28, 28, 1)]
  )
  def test_features_have_one_size(self, name, shape):
    # Shapes alone: nothing is computed.
    config = ClassifierConfig((name,), 6, 0.05)
    [model] = build_classifiers(config, DataSpec(shape, 5))
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((3, *shape), jnp.uint8)
    features = jax.eval_shape(model.features, variables, images)
    self.assertEqual(features.shape, (3, 6))
    logits = jax.eval_shape(lambda v, x: model(v, x), variables, images)
    self.assertEqual(logits.shape, (3, 5))

  def test_sizes_are_those_of_the_sources(self):
    # FedAvgCNN of FedTGP's Table 5, CIFAR-100.
    config = ClassifierConfig(('cnn',), 512)
    found = _parameters(config, DataSpec((32, 32, 3), 100))
    self.assertEqual(found, 924_708)
    # ViT-Ti: 5.5 million in its twelve blocks and their norms.
    found = _parameters(ClassifierConfig(('vit_tiny',), 192), _GREY)
    self.assertBetween(found, 5_300_000, 5_500_000)

  def test_blocks_of_a_transformer_keep_their_inputs_alone(self):
    module = extractors.VisionTransformer(6, 3, 3, 2)
    images = jnp.ones((5, 8, 8, 1))
    variables = module.init(jax.random.key(0), images)
    # Under the name by which models were saved before.
    self.assertIn('ScanTransformerBlock_0', variables['params'])
    _, backward = jax.vjp(lambda v: module.apply(v, images), variables)
    stacks = [
      leaf.shape for leaf in jax.tree.leaves(backward) if leaf.shape[:1] == (3,)
    ]
    # Depth, batch, tokens, their size; what else is stacked are parameters.
    by_example = [shape for shape in stacks if shape[1:2] == (5,)]
    self.assertEqual(by_example, [(3, 5, 16, 6)])

  def test_bytes_and_signed_floats_are_the_same_image(self):
    [model] = build_classifiers(ClassifierConfig(('mlp',), 4, 0.01), _GREY)
    variables = model.init(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    signed = classifiers.to_signed(jnp.asarray(images))
    np.testing.assert_allclose(
      model.features(variables, images),
      model.features(variables, signed),
      atol=1e-6,
    )
    np.testing.assert_array_equal(classifiers.to_pixels(signed), images)

  def test_pooling_is_that_of_pytorch(self):
    torch = self._torch()
    for size, wanted in ((10, 4), (7, 7), (3, 8), (512, 100)):
      values = (
        np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
      )
      expected = torch.nn.AdaptiveAvgPool1d(wanted)(torch.from_numpy(values))
      found = values @ extractors.pooled(size, wanted)
      np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)

  def test_a_layer_may_be_trained_in_place_of_pooling(self):
    pooled = _parameters(ClassifierConfig(('mlp',), 6, 0.01), _GREY)
    dense = ClassifierConfig(('mlp',), 6, 0.01, 'dense')
    self.assertEqual(_parameters(dense, _GREY), pooled + 4 * 6 + 6)

  def test_mistakes_are_named(self):
    for field, value in (
      ('architectures', ()),
      ('architectures', ('alexnet',)),
      ('feature_size', 0),
      ('width', 0.0),
      ('projection', 'max'),
    ):
      with self.assertRaisesRegex(InputError, field):
        ClassifierConfig(**{field: value})
    with self.assertRaisesRegex(InputError, 'images'):
      build_classifiers(ClassifierConfig(), DataSpec((5,), 3))
    with self.assertRaisesRegex(InputError, 'two classes'):
      build_classifiers(ClassifierConfig(), DataSpec((8, 8, 1), 1))

  def _torch(self):
    try:
      import torch
    except ImportError:
      self.skipTest('PyTorch, the reference, is not installed.')
    return torch


if __name__ == '__main__':
  absltest.main()

from absl.testing import absltest
import chex
import numpy as np
from sklearn import linear_model

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.embeddings import linear_heads
from tests.evaluation.blobs import CLASSES, blobs


class TrainTest(absltest.TestCase):
  def test_converged_head_is_that_of_scikit_learn(self):
    labels = np.arange(90) % CLASSES
    inputs, decay = blobs(labels, noise=2.0), 0.01
    weights = 0.5 + np.arange(90) % 4
    config = linear_heads.HeadConfig(
      head_epochs=1500, head_learning_rate=0.02, head_weight_decay=decay
    )
    head = linear_heads.train_head(
      inputs, labels, CLASSES, config, sample_weight=weights
    )
    # The bias is decayed as well: a feature of ones in place of an intercept.
    reference = linear_model.LogisticRegression(
      C=1 / (decay * weights.sum()), fit_intercept=False, tol=1e-8
    ).fit(np.c_[inputs, np.ones(90)], labels, sample_weight=weights)
    np.testing.assert_allclose(
      np.r_[head.kernel, head.bias[None]], reference.coef_.T, atol=2e-3
    )
    np.testing.assert_allclose(
      linear_heads.probabilities(head, inputs),
      reference.predict_proba(np.c_[inputs, np.ones(90)]),
      atol=1e-3,
    )

  def test_heads_of_clients_are_heads_of_each_whatever_fills_them_up(self):
    labels = np.tile(np.arange(12) % CLASSES, [3, 1])
    inputs = np.stack(
      [blobs(of_client, seed) for seed, of_client in enumerate(labels)]
    )
    held = np.arange(12) < np.array([[12], [5], [0]])
    inputs[~held], labels[~held] = 1e3, 2
    stack = linear_heads.train_heads(
      inputs, labels, CLASSES, sample_weight=held
    )
    self.assertEqual(stack.kernel.shape, (3, 4, CLASSES))
    for client, size in ((0, 12), (1, 5)):
      alone = linear_heads.train_head(
        inputs[client, :size], labels[client, :size], CLASSES
      )
      chex.assert_trees_all_close(
        alone,
        linear_heads.Head(stack.kernel[client], stack.bias[client]),
        atol=1e-4,
      )
    self.assertGreater(np.ptp(stack.kernel[0] - stack.kernel[1]), 0.1)
    self.assertFalse(stack.kernel[2].any() or stack.bias[2].any())

  def test_unusable_arguments_are_refused_by_name(self):
    inputs, labels = blobs(np.zeros(4, int)), np.zeros(4, int)
    for call, message in (
      (
        lambda: linear_heads.train_head(inputs * np.nan, labels, 3),
        'inputs to be',
      ),
      (
        lambda: linear_heads.train_head(inputs, labels + 3, 3),
        r'labels in 0\.\.2',
      ),
      (
        lambda: linear_heads.train_head(inputs, labels[:3], 3),
        'labels of shape',
      ),
      (lambda: linear_heads.train_heads(inputs, labels, 3), r'\[N, n, F\]'),
      (
        lambda: linear_heads.train_head(
          inputs, labels, 3, sample_weight=-labels - 1
        ),
        'sample_weight',
      ),
      (
        lambda: linear_heads.train_head(inputs, labels, 3, sample_weight=[1.0]),
        'sample_weight of shape',
      ),
      (lambda: linear_heads.HeadConfig(head_epochs=0), 'head_epochs'),
      (
        lambda: linear_heads.HeadConfig(head_learning_rate=0.0),
        'head_learning_rate',
      ),
      (
        lambda: linear_heads.HeadConfig(head_weight_decay=-1.0),
        'head_weight_decay',
      ),
    ):
      with self.assertRaisesRegex(InputError, message):
        call()


if __name__ == '__main__':
  absltest.main()

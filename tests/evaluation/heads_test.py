from absl.testing import absltest, parameterized
import chex
import numpy as np
from sklearn import linear_model, metrics

from fedjax_gen.data.partition_value import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import heads

_CLASSES = 3
_CENTRES = 2.0 * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])


def _blobs(labels, seed=0, noise=0.5):
  """Embeddings around the centre of each label's class."""
  rng = np.random.default_rng(seed)
  values = _CENTRES[labels] + noise * rng.normal(size=[len(labels), 4])
  return values.astype(np.float32)


def _partition(*rows):
  """Client after client the rows given."""
  sizes = np.array([len(of_client) for of_client in rows], np.int32)
  order = np.concatenate([np.asarray(r, np.int32) for r in rows])
  return Partition(order, sizes, np.zeros(len(rows), np.int32), 'test')


def _clients():
  """Clients 0 to 3: all classes; class 0 only; no train; no test rows."""
  labels = np.arange(120, dtype=np.int32) % _CLASSES
  labels[30:60] = 0
  return heads.ClientRows(
    _blobs(labels),
    labels,
    _CLASSES,
    train=_partition(range(12), range(30, 48), [], range(90, 110)),
    validation=_partition(range(12, 18), range(48, 54), [], []),
    test=_partition(range(18, 30), range(54, 60), range(60, 90), []),
  )


class TrainTest(parameterized.TestCase):
  def test_converged_head_is_that_of_scikit_learn(self):
    labels = np.arange(90) % _CLASSES
    inputs, decay = _blobs(labels, noise=2.0), 0.01
    weights = 0.5 + np.arange(90) % 4
    config = heads.HeadConfig(
      head_epochs=1500, head_learning_rate=0.02, head_weight_decay=decay
    )
    head = heads.train_head(
      inputs, labels, _CLASSES, config, sample_weight=weights
    )
    # The bias is decayed as well: a feature of ones in place of an intercept.
    reference = linear_model.LogisticRegression(
      C=1 / (decay * weights.sum()), fit_intercept=False, tol=1e-8
    ).fit(np.c_[inputs, np.ones(90)], labels, sample_weight=weights)
    np.testing.assert_allclose(
      np.r_[head.kernel, head.bias[None]], reference.coef_.T, atol=2e-3
    )
    np.testing.assert_allclose(
      heads.probabilities(head, inputs),
      reference.predict_proba(np.c_[inputs, np.ones(90)]),
      atol=1e-3,
    )

  def test_heads_of_clients_are_heads_of_each_whatever_fills_them_up(self):
    labels = np.tile(np.arange(12) % _CLASSES, [3, 1])
    inputs = np.stack(
      [_blobs(of_client, seed) for seed, of_client in enumerate(labels)]
    )
    held = np.arange(12) < np.array([[12], [5], [0]])
    inputs[~held], labels[~held] = 1e3, 2
    stack = heads.train_heads(inputs, labels, _CLASSES, sample_weight=held)
    self.assertEqual(stack.kernel.shape, (3, 4, _CLASSES))
    for client, size in ((0, 12), (1, 5)):
      alone = heads.train_head(
        inputs[client, :size], labels[client, :size], _CLASSES
      )
      chex.assert_trees_all_close(
        alone, heads.Head(stack.kernel[client], stack.bias[client]), atol=1e-4
      )
    self.assertGreater(np.ptp(stack.kernel[0] - stack.kernel[1]), 0.1)
    self.assertFalse(stack.kernel[2].any() or stack.bias[2].any())

  def test_unusable_arguments_are_refused_by_name(self):
    inputs, labels = _blobs(np.zeros(4, int)), np.zeros(4, int)
    for call, message in (
      (lambda: heads.train_head(inputs * np.nan, labels, 3), 'inputs to be'),
      (lambda: heads.train_head(inputs, labels + 3, 3), r'labels in 0\.\.2'),
      (lambda: heads.train_head(inputs, labels[:3], 3), 'labels of shape'),
      (lambda: heads.train_heads(inputs, labels, 3), r'\[N, n, F\]'),
      (
        lambda: heads.train_head(inputs, labels, 3, sample_weight=-labels - 1),
        'sample_weight',
      ),
      (
        lambda: heads.train_head(inputs, labels, 3, sample_weight=[1.0]),
        'sample_weight of shape',
      ),
      (lambda: heads.HeadConfig(head_epochs=0), 'head_epochs'),
      (lambda: heads.HeadConfig(head_learning_rate=0.0), 'head_learning_rate'),
      (lambda: heads.HeadConfig(head_weight_decay=-1.0), 'head_weight_decay'),
    ):
      with self.assertRaisesRegex(InputError, message):
        call()


class ScoresTest(parameterized.TestCase):
  def test_scores_are_those_of_scikit_learn(self):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [20, 3, 9, 18])
    predicted = rng.dirichlet(np.ones(4), 50) + 0.3 * np.eye(4)[labels]
    predicted = np.round(predicted / 1.3, 1)  # with ties
    found = heads.scores(labels, predicted)
    best = predicted.argmax(axis=1)
    expected = {
      'accuracy': metrics.accuracy_score(labels, best),
      'balanced_accuracy': metrics.balanced_accuracy_score(labels, best),
      'auc': np.mean(
        [
          metrics.roc_auc_score(labels == label, predicted[:, label])
          for label in range(4)
        ]
      ),
    }
    self.assertEqual(list(found), list(heads.SCORES))
    chex.assert_trees_all_close(found, expected, rtol=1e-12)

  def test_classes_that_are_missing_are_left_out(self):
    labels = np.array([0, 0, 0, 2])
    predicted = np.array(
      [[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]]
    )
    found = heads.scores(labels, predicted)
    # Class 0: two of three above the other; class 2: all. None of class 1.
    expected = {
      'accuracy': 3 / 4,
      'balanced_accuracy': (2 / 3 + 1) / 2,
      'auc': (2 / 3 + 1) / 2,
    }
    chex.assert_trees_all_close(found, expected)
    self.assertNotIn('auc', heads.scores(np.zeros(4, int), predicted))

  def test_share_is_chosen_by_the_mean_over_clients(self):
    def sure(labels, confidence):
      return confidence * np.eye(2)[labels] + (1 - confidence) / 2

    # Ten rows of one client want the synthetic head, one row each of two
    # others the local one, which wins once it has more than half the weight.
    truth = [np.zeros(10, int), *np.ones([2, 1], int), np.zeros(0, int)]
    local = [sure(np.ones_like(labels), 0.8) for labels in truth]
    synthetic = [sure(np.zeros_like(labels), 0.8) for labels in truth]
    self.assertEqual(heads.choose_share(truth, local, synthetic), 0.6)
    self.assertEqual(
      heads.choose_share(truth[:1], local[:1], synthetic[:1]), 0.0
    )
    self.assertEqual(
      heads.choose_share(truth[:2], local[:2], synthetic[:2]), 0.0
    )
    with self.assertRaisesRegex(InputError, 'validation rows'):
      heads.choose_share(truth[3:], local[3:], synthetic[3:])

  def test_interpolation_weighs_the_local_head_by_the_share(self):
    local, synthetic = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    np.testing.assert_allclose(
      heads.interpolate(local, synthetic, 0.3), [[0.3, 0.7]]
    )
    with self.assertRaisesRegex(InputError, 'share'):
      heads.interpolate(local, synthetic, 1.1)


class EvaluateTest(parameterized.TestCase):
  def test_local_heads_learn_from_their_own_training_rows_only(self):
    clients = _clients()
    local = heads.fit_local(clients)
    rows = clients.train.rows(3)
    alone = heads.train_head(
      clients.inputs[rows], clients.labels[rows], _CLASSES
    )
    chex.assert_trees_all_close(
      alone, heads.Head(local.kernel[3], local.bias[3]), atol=1e-4
    )
    unlike = clients.inputs.copy()
    unlike[np.r_[12:30, 48:90]] = 7.0
    again = heads.fit_local(clients._replace(inputs=unlike))
    chex.assert_trees_all_equal(local, again)

  def test_good_synthetic_embeddings_help_whom_local_ones_do_not(self):
    clients = _clients()
    labels = np.arange(60) % _CLASSES
    local = heads.fit_local(clients)
    found = heads.evaluate(clients, local, _blobs(labels, seed=1), labels)
    np.testing.assert_array_equal(found.clients, [0, 1, 2])
    numbers = found.metrics
    self.assertGreater(numbers['synthetic_accuracy_worst'], 0.9)
    self.assertGreater(numbers['synthetic_auc'], 0.98)
    # Client 2 has no training rows and guesses class 0, a third of its rows.
    np.testing.assert_allclose(
      found.values['local_balanced_accuracy'][1:], [1, 1 / 3], atol=1e-6
    )
    self.assertAlmostEqual(numbers['local_accuracy_worst'], 1 / 3)
    np.testing.assert_allclose(
      numbers['local_accuracy_stddev'], found.values['local_accuracy'].std()
    )
    # All test rows: 4 + 6 + 10 of class 0 among 48 for client 2.
    self.assertAlmostEqual(numbers['local_global_accuracy_worst'], 20 / 48)
    self.assertAlmostEqual(
      numbers['local_global_balanced_accuracy_worst'], 1 / 3
    )
    self.assertGreater(numbers['interpolated_accuracy'], 0.9)
    # The AUC of client 1, whose test rows are of one class, is not defined.
    self.assertTrue(np.isnan(found.values['local_auc'][1]))
    self.assertTrue(np.isfinite(list(numbers.values())).all())
    self.assertGreater(numbers['synthetic_global_accuracy'], 0.9)
    self.assertGreater(numbers['interpolated_global_accuracy_worst'], 0.8)
    self.assertNotIn('synthetic_global_accuracy_stddev', numbers)
    self.assertEqual(
      numbers,
      heads.evaluate_clients(clients, _blobs(labels, seed=1), labels),
    )

  def test_misleading_synthetic_embeddings_are_given_no_share(self):
    clients = _clients()
    labels = np.arange(60) % _CLASSES
    wrong = (labels + 1) % _CLASSES
    numbers = heads.evaluate_clients(clients, _blobs(labels), wrong)
    self.assertLess(numbers['synthetic_accuracy'], 0.1)
    self.assertLess(numbers['synthetic_auc'], 0.4)
    self.assertGreater(numbers['interpolation_lambda'], 0.4)
    self.assertGreater(
      numbers['interpolated_accuracy'], numbers['synthetic_accuracy'] + 0.3
    )

  def test_parts_that_do_not_fit_are_refused(self):
    clients = _clients()
    labels = np.arange(6) % _CLASSES
    inputs = _blobs(labels)
    local = heads.Head(np.zeros([4, 4, 3]), np.zeros([4, 3]))
    empty = _partition([], [], [], [])

    def evaluated(head=local, **changes):
      heads.evaluate(clients._replace(**changes), head, inputs, labels)

    evaluated()
    for changes, message in (
      ({'test': _partition([1])}, 'equally many clients'),
      ({'test': _partition([5], [], [], [])}, 'test in no other part.*train'),
      ({'test': _partition([120], [], [], [])}, 'rows of test below 120'),
      ({'test': empty}, 'test rows of at least one'),
      ({'validation': empty}, 'validation rows of at least one'),
      ({'labels': clients.labels + 1}, r'labels in 0\.\.2'),
      ({'inputs': clients.inputs[:, :2]}, r'heads \[N, F, C\]|many features'),
      ({'head': heads.Head(*(leaf[0] for leaf in local))}, 'local heads'),
    ):
      with self.assertRaisesRegex(InputError, message):
        evaluated(**changes)
    with self.assertRaisesRegex(InputError, 'synthetic_inputs to be finite'):
      heads.evaluate(clients, local, inputs * np.inf, labels)


if __name__ == '__main__':
  absltest.main()

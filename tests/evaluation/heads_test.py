from absl.testing import absltest, parameterized
import chex
import numpy as np
from sklearn import metrics

from fedjax_gen.data.partition_value import Partition
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import heads
from tests.evaluation.blobs import CLASSES, blobs


def _partition(*rows):
  """Client after client the rows given."""
  sizes = np.array([len(of_client) for of_client in rows], np.int32)
  order = np.concatenate([np.asarray(r, np.int32) for r in rows])
  return Partition(order, sizes, np.zeros(len(rows), np.int32), 'test')


def _clients():
  """Clients 0 to 3: all classes; class 0 only; no train; no test rows."""
  labels = np.arange(120, dtype=np.int32) % CLASSES
  labels[30:60] = 0
  return heads.ClientRows(
    blobs(labels),
    labels,
    CLASSES,
    train=_partition(range(12), range(30, 48), [], range(90, 110)),
    validation=_partition(range(12, 18), range(48, 54), [], []),
    test=_partition(range(18, 30), range(54, 60), range(60, 90), []),
  )


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
      clients.inputs[rows], clients.labels[rows], CLASSES
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
    labels = np.arange(60) % CLASSES
    local = heads.fit_local(clients)
    found = heads.evaluate(clients, local, blobs(labels, seed=1), labels)
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

  def test_misleading_synthetic_embeddings_are_given_no_share(self):
    clients = _clients()
    labels = np.arange(60) % CLASSES
    wrong = (labels + 1) % CLASSES
    local = heads.fit_local(clients)
    numbers = heads.evaluate(clients, local, blobs(labels), wrong).metrics
    self.assertLess(numbers['synthetic_accuracy'], 0.1)
    self.assertLess(numbers['synthetic_auc'], 0.4)
    self.assertGreater(numbers['interpolation_lambda'], 0.4)
    self.assertGreater(
      numbers['interpolated_accuracy'], numbers['synthetic_accuracy'] + 0.3
    )

  def test_parts_that_do_not_fit_are_refused(self):
    clients = _clients()
    labels = np.arange(6) % CLASSES
    inputs = blobs(labels)
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

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import generalisation

# Three clients and three classes: the last class has no test example, the last
# client no data of its own.
_ASKED = np.array([10, 30, 0])
_COUNTS = np.array([[5, 0, 1], [2, 8, 0], [0, 0, 0]])
_CORRECT = np.array([[10, 6, 0], [5, 27, 0], [1, 1, 0]])


def _metrics(**changed):
  arguments = {'correct': _CORRECT, 'asked': _ASKED, 'counts': _COUNTS}
  return generalisation.generalisation_metrics(**(arguments | changed))


def test_metrics_are_those_counted_by_hand():
  found = _metrics(
    correct_local=[[3, 0, 1], [1, 1, 0], [0, 0, 0]],
    asked_local=[[3, 0, 1], [2, 2, 0], [0, 0, 0]],
    architectures=['cnn5', 'mlp', 'cnn5'],
  )
  of_clients = np.array([16, 32, 2]) / 40
  expected = {
    'accuracy': of_clients.mean(),
    'accuracy_stddev': of_clients.std(),
    'accuracy_worst': 2 / 40,
    'accuracy_cnn5': 18 / 80,
    'accuracy_mlp': 32 / 40,
    'balanced_accuracy': np.mean([(1 + 0.2) / 2, (0.5 + 0.9) / 2, 4 / 60]),
    # The second client misses only the class that nobody is asked about.
    'missing_class_accuracy': np.mean([6 / 30, 2 / 40]),
    'held_class_accuracy': np.mean([10 / 10, 32 / 40]),
    'local_accuracy': np.mean([1, 0.5]),
    'local_accuracy_stddev': 0.25,
    'local_accuracy_worst': 0.5,
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert isinstance(found[name], float)
    np.testing.assert_allclose(found[name], value, err_msg=name)


def test_missing_classes_are_pooled_within_a_client_not_averaged():
  found = _metrics(counts=[[0, 0, 1], [1, 1, 1], [1, 1, 1]])
  np.testing.assert_allclose(found['missing_class_accuracy'], 16 / 40)
  assert abs(found['missing_class_accuracy'] - (1 + 0.2) / 2) > 0.1


def test_what_no_client_has_is_left_out():
  everything = _metrics(counts=np.ones([3, 3]))
  assert 'missing_class_accuracy' not in everything
  nothing = _metrics(counts=np.zeros([3, 3]))
  assert 'held_class_accuracy' not in nothing
  zeros = np.zeros([3, 3])
  assert _metrics(correct_local=zeros, asked_local=zeros) == _metrics()


def test_counts_on_a_device_and_a_single_client_do_too():
  found = generalisation.generalisation_metrics(
    jnp.array([[3.0, 1.0]]), jnp.array([4, 4]), jnp.array([[1, 0]])
  )
  assert found['accuracy'] == found['accuracy_worst'] == 0.5
  assert found['accuracy_stddev'] == 0
  assert found['held_class_accuracy'] == 0.75


def test_bytes_are_those_until_the_target_is_first_reached():
  def reached(target, values=(None, 0.4, float('nan'), 0.7, 0.5)):
    return generalisation.bytes_to_target([0, 1, 2, 5, 6], values, 10.5, target)

  assert reached(0.4) == 10.5
  assert reached(0.45) == 52.5
  assert reached(0.7) == 52.5
  assert reached(0.71) is None
  assert reached(0.1, [0.1, 0, 0, 0, 0]) == 0.0
  assert generalisation.bytes_to_target([], [], 1, 0.5) is None


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'counts': np.ones(3)}, r'counts \[N, C\], got \[3\]'),
    ({'counts': np.ones([0, 3])}, r'counts \[N, C\], got \[0, 3\]'),
    ({'counts': -np.ones([3, 3])}, 'counts to be finite and >= 0'),
    ({'correct': np.full([3, 3], np.nan)}, 'correct to be finite'),
    ({'correct': np.ones([2, 3])}, r'correct to have the shape \[3, 3\]'),
    ({'asked': np.ones([2, 3])}, r'asked to have the shape \[3, 3\]'),
    ({'asked': [9, 30, 0]}, 'correct <= asked everywhere'),
    ({'correct': np.zeros([3, 3]), 'asked': np.zeros(3)}, 'a test example'),
    ({'asked_local': np.ones([3, 3])}, 'both correct_local and asked_local'),
    ({'architectures': ['mlp']}, 'architectures to be 3 names'),
    ({'architectures': ['mlp', 'worst', 'mlp']}, "other than 'worst'"),
  ],
)
def test_unusable_counts_are_refused_by_name(changed, message):
  with pytest.raises(InputError, match=message):
    _metrics(**changed)


@pytest.mark.parametrize(
  'rounds, accuracies, num_bytes, message',
  [
    ([1, 2], [0.5], 1, 'as many rounds as accuracies, got 2 and 1'),
    ([2, 1], [0.5, 0.6], 1, r'rounds to ascend, got \[2, 1\]'),
    ([1], [0.5], -1, 'bytes_per_round >= 0'),
  ],
)
def test_unusable_histories_are_refused(rounds, accuracies, num_bytes, message):
  with pytest.raises(InputError, match=message):
    generalisation.bytes_to_target(rounds, accuracies, num_bytes, 0.5)

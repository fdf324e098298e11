from absl.testing import absltest, parameterized
import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation.attacks import membership


def _population(num, seed):
  """Labels, and embeddings of which some are far out, and so untypical."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, num)
  scale = np.exp(rng.normal(size=[num, 1]))
  return labels, rng.normal(size=[num, 8]) * scale + 3.0 * labels[:, None]


_MEMBER_LABELS, _MEMBERS = _population(300, seed=0)
_OTHER_LABELS, _OTHERS = _population(300, seed=1)
_REFERENCE_LABELS, _REFERENCE = _population(300, seed=2)
_FRESH_LABELS, _FRESH = _population(300, seed=3)


class MembershipTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('plain', False, False),
    ('calibrated', True, False),
    ('within_classes', False, True),
    ('calibrated_within_classes', True, True),
  )
  def test_copies_are_told_and_fresh_draws_are_not(self, calibrated, labelled):
    def auc(generated, generated_labels):
      labels = membership.Labels(
        _MEMBER_LABELS, _OTHER_LABELS, generated_labels, _REFERENCE_LABELS
      )
      return membership.membership_auc(
        _MEMBERS,
        _OTHERS,
        generated,
        reference=_REFERENCE if calibrated else None,
        labels=labels if labelled else None,
      )

    order = np.random.default_rng(4).permutation(300)
    self.assertEqual(auc(_MEMBERS[order], _MEMBER_LABELS[order]), 1.0)
    half = np.concatenate([_MEMBERS[:150], _FRESH[:150]])
    half_labels = np.r_[_MEMBER_LABELS[:150], _FRESH_LABELS[:150]]
    self.assertBetween(auc(half, half_labels), 0.65, 0.85)
    self.assertBetween(auc(_FRESH, _FRESH_LABELS), 0.43, 0.57)
    self.assertEqual(auc(_OTHERS, _OTHER_LABELS), 0.0)

  def test_a_reference_finds_rough_copies_of_the_untypical(self):
    # What is far out lies far from all but its own copy: by distance alone it
    # looks less like a member than anything typical does.
    noise = np.random.default_rng(5).normal(size=_MEMBERS.shape)
    sizes = np.linalg.norm(_MEMBERS, axis=1, keepdims=True)
    rough = _MEMBERS + 0.15 * sizes * noise
    plain = membership.membership_auc(_MEMBERS, _OTHERS, rough)
    calibrated = membership.membership_auc(
      _MEMBERS, _OTHERS, rough, reference=_REFERENCE
    )
    self.assertGreater(calibrated, plain + 0.05)

  def test_scores_are_distances_and_logs_of_their_ratios(self):
    inputs = np.array([[0.0], [3.0], [9.0]])
    generated, reference = np.array([[1.0], [9.0]]), np.array([[6.0], [9.0]])
    np.testing.assert_allclose(
      membership.attack_scores(inputs, generated), [-1, -2, 0]
    )
    found = membership.attack_scores(inputs, generated, reference=reference)
    np.testing.assert_allclose(found, [np.log(6), np.log(3 / 2), 0], atol=1e-12)
    found = membership.attack_scores(inputs, generated, reference=reference[:1])
    self.assertEqual(found[2], np.inf)

  def test_with_labels_only_the_same_class_counts(self):
    inputs = np.array([[0.0], [0.0], [0.0]])
    found = membership.attack_scores(
      inputs,
      np.array([[1.0], [5.0]]),
      labels=np.array([0, 1, 2]),
      generated_labels=np.array([0, 1]),
    )
    np.testing.assert_array_equal(found, [-1, -5, -np.inf])
    # A class of which nothing was generated says nothing of its members.
    labels = membership.Labels(np.full(3, 2), np.full(3, 2), np.array([0, 1]))
    auc = membership.membership_auc(
      inputs, inputs + 1, np.array([[0.0], [0.0]]), labels=labels
    )
    self.assertEqual(auc, 0.5)

  def test_unusable_arguments_are_refused_by_name(self):
    labels = membership.Labels(
      _MEMBER_LABELS, _OTHER_LABELS, _FRESH_LABELS, np.zeros(300, int)
    )

    def auc(labels=labels, **changes):
      arguments = {
        'members': _MEMBERS,
        'non_members': _OTHERS,
        'generated': _FRESH,
        'reference': _REFERENCE,
      }
      membership.membership_auc(**{**arguments, **changes}, labels=labels)

    for changes, message in (
      ({}, 'reference_labels with every class, got none of 1'),
      ({'generated': _FRESH * np.nan}, 'generated to be finite'),
      ({'non_members': _OTHERS[:, :3]}, 'equally many features'),
      ({'labels': labels._replace(members=[0])}, 'members to be 300'),
      (
        {'labels': labels._replace(reference=None)},
        'reference_labels to be 300',
      ),
    ):
      with self.assertRaisesRegex(InputError, message):
        auc(**changes)


if __name__ == '__main__':
  absltest.main()

import numpy as np
import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import utility
from fedjax_gen.evaluation.networks import features, judges

_RECIPE = judges.Recipe(num_steps=300)


def test_training_on_real_digits_is_a_high_upper_bound(digits):
  accuracy = utility.tstr_accuracy(*digits, 10, recipe=_RECIPE)
  assert accuracy > 0.95
  assert accuracy == utility.tstr_accuracy(*digits, 10, recipe=_RECIPE)


def test_wrong_labels_are_worth_nothing_and_missing_classes_cost_theirs(digits):
  shifted = digits._replace(train_labels=(digits.train_labels + 1) % 10)
  assert utility.tstr_accuracy(*shifted, 10, recipe=_RECIPE) < 0.05
  kept = digits.train_labels < 5
  half = digits._replace(
    train_inputs=digits.train_inputs[kept],
    train_labels=digits.train_labels[kept],
  )
  accuracy = utility.tstr_accuracy(*half, 10, recipe=_RECIPE)
  share = np.mean(digits.test_labels < 5)
  assert share - 0.05 < accuracy <= share


def test_label_agreement_counts_images_that_look_as_requested():
  def by_brightness(inputs):
    return np.eye(2)[(inputs.mean(axis=(1, 2, 3)) > 127).astype(int)]

  fake = features.FeatureExtractor('fake', by_brightness, by_brightness, '')
  inputs = np.zeros([4, 2, 2, 1], np.uint8)
  inputs[2:] = 255
  agreement = utility.label_agreement(fake, inputs, np.array([0, 1, 1, 1]))
  assert agreement == 0.75
  with pytest.raises(InputError, match=r'requested_labels in 0\.\.1'):
    utility.label_agreement(fake, inputs, np.array([0, 1, 2, 1]))
  blind = fake._replace(probabilities=None)
  with pytest.raises(InputError, match="extractor='fake', which has none"):
    utility.label_agreement(blind, inputs, np.array([0, 1, 1, 1]))

"""Class-mean images: what the server comes to know, and what clients learn."""

import functools

import jax
import numpy as np

from fedjax_gen.algorithms.classifiers import class_images, fedavg_classifiers
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.finetuning import Finetuning
from fedjax_gen.models.classification.classifiers import to_signed
from tests.algorithms import zoo


@functools.cache
def _method(steps=4, noise=0.0):
  return class_images.class_images(
    class_images.Config(images_noise=noise),
    zoo.TRAINING,
    zoo.models(),
    zoo.NUM_CLIENTS,
    zoo.SPEC.shape,
    Finetuning(steps, learning_rate=zoo.TRAINING.learning_rate),
  )


def test_the_server_knows_the_mean_image_of_each_class_of_all_clients():
  state, _ = zoo.trained(_method(), 1)
  totals, counts = np.zeros((10, 64)), np.zeros(10)
  for fleet in zoo.fleets():
    for client in range(fleet.num_clients):
      data = fleet.client(client)
      rows = np.asarray(fleet.order)[
        int(data.offset) : int(data.offset) + int(data.size)
      ]
      labels = np.asarray(fleet.labels)[rows]
      images = np.asarray(to_signed(fleet.inputs[rows])).reshape(-1, 64)
      np.add.at(totals, labels, images)
      np.add.at(counts, labels, 1)
  known = counts > 0
  np.testing.assert_array_equal(state.server.known, known)
  np.testing.assert_allclose(
    state.server.means[known], totals[known] / counts[known, None], atol=1e-5
  )


def test_before_the_first_round_there_is_nothing_to_learn():
  first, _ = zoo.trained(_method(), 1)
  alone, _ = zoo.trained(personal.local_only(zoo.TRAINING, zoo.models()), 1)
  for ours, theirs in zip(first.fleets, alone.fleets, strict=True):
    jax.tree.map(
      np.testing.assert_array_equal, ours.variables, theirs.variables
    )


def test_noise_changes_what_is_learned_and_no_steps_learn_nothing():
  def classifiers(method):
    return zoo.trained(method, 2)[0].fleets[0].variables['classifier']

  alone = classifiers(personal.local_only(zoo.TRAINING, zoo.models()))
  untouched, plain, noisy = (
    classifiers(method) for method in (_method(0), _method(), _method(4, 0.3))
  )
  jax.tree.map(np.testing.assert_array_equal, untouched, alone)
  for first, second in ((plain, alone), (noisy, plain)):
    moved = jax.tree.map(lambda a, b: (a != b).any(), first, second)
    assert any(jax.tree.leaves(moved))


def test_one_small_classifier_is_the_same_for_all_clients():
  [small] = zoo.models('mlp')
  method = fedavg_classifiers.fedavg_small(zoo.TRAINING, small, 2)
  for deployed in zoo.deployed(method):
    for leaf in jax.tree.leaves(deployed['shared']):
      np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))

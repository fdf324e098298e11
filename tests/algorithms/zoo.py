"""Tiny classifiers on real digits in two fleets, for methods that need them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import Batch
from fedjax_gen.federated import rounds
from fedjax_gen.federated.own_models import deployment, personal
from fedjax_gen.models.classification.classifiers import (
  Classifier,
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from tests.algorithms import digits

CONFIG = ClassifierConfig(('mlp', 'mlp'), feature_size=4, width=0.01)
SPEC = DataSpec((8, 8, 1), 10)
TRAINING = personal.Config(batch_size=4, learning_rate=0.1)
VTC = build_vtc(VtcConfig(vtc_channels=(8,)), 4, SPEC)
KEY = jax.random.key(1)


@functools.cache
def models(*architectures):
  """Classifiers of 4 features, of the architectures or two alike."""
  names = architectures or CONFIG.architectures
  return build_classifiers(
    ClassifierConfig(names, CONFIG.feature_size, CONFIG.width), SPEC
  )


NUM_CLIENTS = (3, 3)
SIZES = np.array([[2, 4, 6], [3, 5, 4]])


@functools.cache
def fleets():
  """Two fleets of three clients, of unequal `SIZES`."""
  sizes = SIZES.T.ravel().astype(np.int32)
  everyone = dataclasses.replace(
    digits.clients(6),
    sizes=jnp.asarray(sizes),
    offsets=jnp.asarray(np.cumsum(sizes) - sizes),
    min_size=int(sizes.min()),
    max_size=int(sizes.max()),
  )
  return tuple(everyone.select(np.arange(start, 6, 2)) for start in range(2))


@functools.cache
def _runner(algorithm):
  return rounds.round_runner(algorithm)


@functools.cache
def _start(algorithm):
  state = rounds.init_state(algorithm, fleets(), jax.random.key(0))
  return jax.device_get(state)


def start(method):
  """The state before the first round."""
  return _start(method.algorithm)


@functools.cache
def _trained(algorithm, num_rounds):
  state = jax.tree.map(jnp.array, _start(algorithm))
  return jax.device_get(_runner(algorithm)(state, fleets(), KEY, num_rounds))


def trained(method, num_rounds=2):
  """State and metrics after some rounds, compiled and run once."""
  return _trained(method.algorithm, num_rounds)


def more(method, state):
  """The state one round later; the one given stays."""
  copy = jax.tree.map(jnp.array, state)
  run = _runner(method.algorithm)
  return jax.device_get(run(copy, fleets(), KEY, 1)[0])


@functools.cache
def alone(training=TRAINING):
  """Classifiers of clients that trained alone for two rounds, by fleet."""
  state, _ = trained(personal.local_only(training, models()))
  return tuple(fleet.variables['classifier'] for fleet in state.fleets)


def deployed(method, num_rounds=2):
  """What clients predict with after some rounds, by fleet."""
  state, _ = trained(method, num_rounds)
  return jax.device_get(deployment.deployer(method)(state, fleets(), KEY))


def joined(parts):
  """Trees of two fleets as one, leaves `[6, ...]`."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def weighted(tree, weights):
  """Means of leaves over their first axis."""
  return jax.tree.map(
    functools.partial(np.average, axis=0, weights=np.ravel(weights)), tree
  )


def linear_model():
  """A classifier whose features are its inputs, of size 3, in two classes."""
  return Classifier(
    init=lambda key: linear(0),
    features=lambda variables, inputs: inputs,
    logits=lambda head, features: features @ head,
    name='linear',
    feature_size=3,
    num_classes=2,
  )


def linear(seed):
  """Variables of `linear_model`."""
  return {'head': jax.random.normal(jax.random.key(seed), (3, 2))}


def batch(labels, padding=0):
  """A batch of `linear_model`; rows of padding hold large numbers."""
  draws = jax.random.normal(jax.random.key(7), (len(labels), 3))
  return Batch(
    jnp.concatenate([draws, jnp.full((padding, 3), 1e3)]),
    jnp.array([*labels, *[0] * padding]),
    jnp.arange(len(labels) + padding) < len(labels),
  )

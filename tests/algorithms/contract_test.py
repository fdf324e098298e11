"""What every algorithm owes the engine. A new algorithm adds a row."""

import dataclasses
import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.algorithms import (
  ccvr,
  class_images,
  dp_cgan,
  fedavg_classifiers,
  feddistill,
  fedgan,
  fedgen,
  fedgh,
  fedhypevae,
  fedkd,
  fedproto,
  fedtgp,
  fedvae,
  fedvtc,
  fissionvae,
  fml,
  lg_fedavg,
  linear_head,
)
from fedjax_gen.federated import mapping, rounds, sampling
from fedjax_gen.federated.finetuning import Finetuning
from fedjax_gen.models.gan import GanConfig, build_gan
from fedjax_gen.models.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.privacy import plan as plans
from tests.algorithms import digits, zoo
from tests.federated import toys

_CONFIG = fedvae.Config(local_epochs=2, batch_size=4, learning_rate=1e-2)
_GAN = GanConfig(gan_latent_size=2, gan_channels=(4,))
_KEY = jax.random.key(1)


def _fissionvae(*decoders, learnable=False, **fields):
  """FissionVAE with L and D, the groups' decoders as given, three clients."""
  config = fissionvae.Config(
    local_epochs=2, batch_size=4, learning_rate=1e-2, prior_learnable=learnable
  )
  spec = DataSpec((8, 8, 1), 10)
  by_name = {
    name: build_vae(
      VaeConfig('mlp', name, 2, channels=(4,), hidden_size=8, **fields), spec
    )
    for name in decoders
  }
  fission = fissionvae.fissionvae(
    config, [by_name[name] for name in decoders], fissionvae.Sharing(True, True)
  )
  groups = jnp.array([0, 1, 0, 1, 0, 1][: 3 * len(fission.fleets)])
  data = dataclasses.replace(digits.clients(len(groups)), groups=groups)
  return fission.algorithm, fissionvae.fleet_datasets(fission, data)


_EMBEDDINGS = DataSpec((3,), 2)
_SIZES = (6, 6, 6)
_CGAN = dp_cgan.CganConfig(gan_latent_size=2, gan_hidden_sizes=(4,))


def _embeddings():
  """Three clients of two steps a pass, and the plan that says so."""
  plan = plans.record_plan(
    plans.PrivacyConfig('record', math.inf),
    np.array(_SIZES),
    batch_size=3,
    epochs=1.0,
    rounds=2,
  )
  return [toys.dataset(_SIZES)], plan._replace(noise_multiplier=0.1)


def _fedhypevae(*, codes_at_server):
  """FedHypeVAE by passes of clients, or with its codes at the server."""
  data, plan = _embeddings()
  config = fedhypevae.Config(
    local_mode='fedsgd' if codes_at_server else 'epochs',
    mmd_weight=0.0,
    learning_rate=1e-2,
  )
  model = build_hyper_vae(
    HyperVaeConfig(1, (), code_size=2, hyper_size=2, prior='standard'),
    _EMBEDDINGS,
  )
  if codes_at_server:
    algorithm = fedhypevae.with_server_codes(config, model, plan, 3, _KEY)
  else:
    algorithm = fedhypevae.fedhypevae(config, model, 'none', plan)
  return algorithm, data


def _dp_cgan():
  data, plan = _embeddings()
  gan = dp_cgan.build_cgan(_CGAN, _EMBEDDINGS)
  return dp_cgan.dp_cgan(_CGAN, gan, plan, is_private=False), data


def _linear_head():
  data, plan = _embeddings()
  training = linear_head.LinearConfig().training(3, proximal=True)
  return linear_head.linear_head(training, _EMBEDDINGS, plan), data


def _personal(build, *arguments, num_fleets=1):
  """A method of clients with classifiers of their own."""
  method = build(
    zoo.TRAINING,
    zoo.models()[:num_fleets],
    zoo.NUM_CLIENTS[:num_fleets],
    *arguments,
  )
  return method.algorithm, list(zoo.fleets()[:num_fleets])


def _fedavg_small():
  [small] = zoo.models('mlp')
  method = fedavg_classifiers.fedavg_small(zoo.TRAINING, small, 1)
  return method.algorithm, list(zoo.fleets()[:1])


# By name: the algorithm, and the clients of each of its fleets.
ALGORITHMS = {
  'ccvr': lambda: _personal(functools.partial(ccvr.ccvr, ccvr.Config())),
  'class_images': lambda: _personal(
    functools.partial(class_images.class_images, class_images.Config()),
    (8, 8, 1),
    Finetuning(2),
  ),
  'dp_cgan': _dp_cgan,
  'fedavg_by_architecture': lambda: _personal(
    fedavg_classifiers.fedavg_by_architecture
  ),
  'fedavg_small': _fedavg_small,
  'feddistill': lambda: _personal(
    functools.partial(feddistill.feddistill, feddistill.Config())
  ),
  'fedgan': lambda: (
    fedgan.fedgan(_CONFIG, _GAN, build_gan(_GAN, DataSpec((8, 8, 1), 10))),
    [digits.clients(3)],
  ),
  'fedgen': lambda: _personal(
    functools.partial(
      fedgen.fedgen,
      fedgen.Config(fedgen_hidden_size=4, fedgen_server_steps=2),
    ),
    num_fleets=2,
  ),
  'fedgh': lambda: _personal(functools.partial(fedgh.fedgh, fedgh.Config())),
  'fedhypevae': lambda: _fedhypevae(codes_at_server=False),
  'fedhypevae_server_codes': lambda: _fedhypevae(codes_at_server=True),
  'fedkd': lambda: _personal(
    functools.partial(fedkd.fedkd, fedkd.Config()), *zoo.models('mlp'), 2
  ),
  'fedproto': lambda: _personal(
    functools.partial(fedproto.fedproto, fedproto.Config())
  ),
  'fedtgp': lambda: _personal(
    functools.partial(fedtgp.fedtgp, fedtgp.Config(fedtgp_server_epochs=2))
  ),
  'fedvae': lambda: (
    fedvae.fedvae(_CONFIG, digits.small_vae()),
    [digits.clients(3)],
  ),
  'fedvae_batch_norm': lambda: (
    fedvae.fedvae(_CONFIG, digits.small_vae('batch')),
    [digits.clients(3)],
  ),
  'fedvae_prox_adam_reset': lambda: (
    fedvae.fedvae(
      dataclasses.replace(
        _CONFIG,
        proximal=0.1,
        server_optimizer='fedadam',
        server_learning_rate=0.01,
        keep_optimizer_state=False,
      ),
      digits.small_vae(),
    ),
    [digits.clients(3)],
  ),
  'fedvtc': lambda: _personal(
    functools.partial(fedvtc.fedvtc, fedvtc.Config(synthetic_per_class=1)),
    zoo.VTC,
  ),
  'fissionvae': lambda: _fissionvae('mlp', 'mlp'),
  'fissionvae_learnable_hierarchy': lambda: _fissionvae(
    'mlp', 'mlp', learnable=True, hierarchy='z1_top'
  ),
  'fissionvae_two_decoders': lambda: _fissionvae('conv', 'mlp'),
  'fml': lambda: _personal(
    functools.partial(fml.fml, fml.Config()), *zoo.models('mlp')
  ),
  'lg_fedavg': lambda: _personal(
    functools.partial(lg_fedavg.lg_fedavg, lg_fedavg.Config()), num_fleets=2
  ),
  'linear_head': _linear_head,
  'local_only': lambda: (
    fedvae.local_only(_CONFIG, digits.small_vae()),
    [digits.clients(3)],
  ),
}


def _all_but_the_last(key, data):
  cohort = sampling.everyone()(key, data)
  return cohort._replace(present=cohort.row < data.num_clients - 1)


@functools.cache
def _start(name):
  """The algorithm, its clients and the state they start from."""
  algorithm, data = ALGORITHMS[name]()
  return algorithm, data, rounds.init_state(algorithm, data, jax.random.key(0))


def _runner(algorithm, chosen=mapping.Mapping()):
  """The runner of an algorithm whose last clients fail in every round."""
  samplers = [_all_but_the_last] * len(algorithm.fleets)
  return rounds.round_runner(algorithm, samplers=samplers, mapping=chosen)


@functools.cache
def _run(name, chosen=mapping.Mapping()):
  """State and metrics after two rounds of one call."""
  algorithm, data, state = _start(name)
  state = jax.tree.map(jnp.copy, state)  # the runner consumes it
  return jax.device_get(_runner(algorithm, chosen)(state, data, _KEY, 2))


@functools.cache
def _single_rounds(name):
  """State and metrics after each of three calls, and the last state's types.

  Raises:
    AssertionError: an update was traced again after the first call.
  """
  algorithm, data, state = _start(name)
  state = jax.tree.map(jnp.copy, state)
  chex.clear_trace_counter()  # it counts by name
  fleets = tuple(
    # For the shapes of the message and of the sums, and to compile; never
    # again.
    fleet._replace(update=chex.assert_max_traces(fleet.update, n=4))
    for fleet in algorithm.fleets
  )
  run = _runner(algorithm._replace(fleets=fleets))
  results = []
  for _ in range(3):
    state, metrics = run(state, data, _KEY, 1)
    results.append(jax.device_get((state, metrics)))
  return results, jax.tree.map(jax.typeof, state)


class ContractTest(parameterized.TestCase):
  # All layouts are tried on small sums in mapping_test; here a mapped block,
  # which differs most from one client after the other, and for some blocks of
  # one on two devices.
  @parameterized.parameters(
    *[(name, 'all', 1) for name in ALGORITHMS],
    ('fedvae_batch_norm', 1, 2),
    ('fissionvae_two_decoders', 1, 2),
    ('fedhypevae', 1, 2),
  )
  def test_every_mapping_gives_the_same_numbers(
    self, name, block_size, devices
  ):
    mesh = mapping.clients_mesh(devices)
    chex.assert_trees_all_close(
      _run(name),
      _run(name, mapping.Mapping(block_size, mesh)),
      rtol=1e-3,
      atol=1e-3,
    )

  # One with statistics and one whose private states are models.
  @parameterized.parameters('fedvae_batch_norm', 'local_only')
  def test_reproducible_bits_do_not_depend_on_devices(self, name):
    first, *others = (
      _run(name, mapping.Mapping(1, mesh, reproducible=True))
      for mesh in [None, mapping.clients_mesh(2)]
    )
    for other in others:
      chex.assert_trees_all_equal(first, other)

  @parameterized.parameters(*ALGORITHMS)
  def test_two_calls_of_a_round_are_one_of_two(self, name):
    ((_, first), (state, second), _), _ = _single_rounds(name)
    metrics = jax.tree.map(lambda *a: np.concatenate(a), first, second)
    chex.assert_trees_all_equal(_run(name), (state, metrics))

  @parameterized.parameters(*ALGORITHMS)
  def test_state_keeps_its_structure_and_one_program_serves(self, name):
    *_, before = _start(name)
    (*_, (state, metrics)), after = _single_rounds(name)
    self.assertEqual(jax.tree.map(jax.typeof, before), after)
    chex.assert_tree_all_finite((jax.tree.leaves(state.server), metrics))

  @parameterized.parameters(*ALGORITHMS)
  def test_a_client_that_is_absent_keeps_its_state(self, name):
    before = jax.device_get(_start(name)[-1])
    after, _ = _run(name)
    for fleet, trained in zip(before.fleets, after.fleets, strict=True):
      chex.assert_trees_all_equal(
        *(jax.tree.map(lambda a: a[-1], tree) for tree in (fleet, trained))
      )
      moved = jax.tree.map(lambda a, b: (a[0] != b[0]).any(), fleet, trained)
      self.assertEqual(
        any(jax.tree.leaves(moved)), bool(jax.tree.leaves(moved))
      )


if __name__ == '__main__':
  absltest.main()

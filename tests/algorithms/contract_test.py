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
  averaged_generator,
  dp_cgan,
  fedgan,
  fedhypevae,
  fedvae,
  fedvtc,
  fissionvae,
  linear_head,
)
from fedjax_gen.algorithms.classifiers import (
  ccvr,
  class_images,
  fedavg_classifiers,
  feddistill,
  fedgen,
  fedgh,
  fedkd,
  fedproto,
  fedtgp,
  fml,
  lg_fedavg,
)
from fedjax_gen.federated import mapping, reference, rounds, sampling
from fedjax_gen.federated.own_models.finetuning import Finetuning
from fedjax_gen.models import generators
from fedjax_gen.models.flows.flow import FlowConfig
from fedjax_gen.models.flows.latent_flow import LatentFlowConfig
from fedjax_gen.models.gan import GanConfig, build_gan
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.privacy import plan as plans
from tests.algorithms import digits, zoo
from tests.federated import toys

_CONFIG = fedvae.Config(local_epochs=2, batch_size=4, learning_rate=1e-2)
_GAN = GanConfig(gan_latent_size=2, gan_channels=(4,))
_KEY = jax.random.key(1)
_ONE_BY_ONE = mapping.Mapping()


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


def _latent_flow(build=averaged_generator.federated):
  """A round of the autoencoder, then the flow; averaged by the server too."""
  generator = generators.build(
    'latent_flow',
    [
      VaeConfig('mlp', latent_size=2, hidden_size=4),
      FlowConfig(flow_width=4, flow_blocks=1),
      LatentFlowConfig(autoencoder_rounds=1),
    ],
    _EMBEDDINGS,
  )
  config = dataclasses.replace(_CONFIG, server_average=0.9)
  return build(config, generator), [toys.dataset(_SIZES)]


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
  'latent_flow': _latent_flow,
  'latent_flow_local': lambda: _latent_flow(averaged_generator.local_only),
  'linear_head': _linear_head,
  'local_only': lambda: (
    fedvae.local_only(_CONFIG, digits.small_vae()),
    [digits.clients(3)],
  ),
}


def _all_but_the_last(key, data):
  """Of those who hold something."""
  cohort = sampling.everyone()(key, data)
  present = (cohort.row < data.num_clients - 1) & (data.sizes > 0)
  return cohort._replace(present=present)


def _as_floats(data):
  """The same with examples that could be NaN."""
  if data.inputs.dtype == jnp.uint8:
    return dataclasses.replace(data, inputs=data.inputs / np.float32(255))
  return data


@functools.cache
def _start(name):
  """The algorithm, its clients and the state they start from."""
  algorithm, data = ALGORITHMS[name]()
  data = [_as_floats(fleet) for fleet in data]
  return algorithm, data, rounds.init_state(algorithm, data, jax.random.key(0))


def _with_absences(build, algorithm, **layout):
  """Rounds of an algorithm in which the last clients fail."""
  samplers = [_all_but_the_last] * len(algorithm.fleets)
  return build(algorithm, samplers=samplers, **layout)


@functools.cache
def _runner(name, chosen):
  """Rounds, and a list that grows when the work of a client is traced."""
  algorithm, *_ = _start(name)
  traces = []

  def counted(update):
    def traced(*arguments):
      traces.append(1)
      return update(*arguments)

    return traced

  fleets = tuple(f._replace(update=counted(f.update)) for f in algorithm.fleets)
  algorithm = algorithm._replace(fleets=fleets)
  return _with_absences(rounds.round_runner, algorithm, mapping=chosen), traces


def _two_rounds(run, state, data):
  copy = jax.tree.map(jnp.copy, state)  # it is consumed
  return jax.device_get(run(copy, data, _KEY, 2))


@functools.cache
def _run(name, chosen):
  """State and metrics after two rounds of one call."""
  _, data, state = _start(name)
  return _two_rounds(_runner(name, chosen)[0], state, data)


@functools.cache
def _loop(name):
  return _with_absences(reference.round_loop, _start(name)[0])


def _examples(data, client):
  """Rows of the examples of one client."""
  start = int(data.offsets[client])
  return np.asarray(data.order)[start : start + int(data.sizes[client])]


def _poisoned(data, rows):
  """The same data with rows that are not good for anything."""
  labels, inputs = np.array(data.labels), np.array(data.inputs)
  inputs[rows] = np.nan
  labels[rows] = (labels[rows] + 1) % 2
  return dataclasses.replace(
    data, inputs=jnp.asarray(inputs), labels=jnp.asarray(labels)
  )


def _all_nan_but(is_own, clients):
  """States `[N, ...]` of clients, of which only some are numbers."""

  def poison(leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      return leaf
    leaf = np.array(leaf)
    leaf[~is_own] = np.nan
    return jnp.asarray(leaf)

  return jax.tree.map(poison, clients)


def _alone(run, data, state, fleet, *, others_are_nan):
  """A round of the first client of a fleet, and what it left there.

  Args:
    run: rounds of the cohorts of `_all_but_the_last`.
    data: of each fleet; fleets may share their examples.
    state: before the round.
    fleet: whose first client.
    others_are_nan: whether nobody else has a good example or a good state.
  """
  own = _examples(data[fleet], 0)
  datasets, fleets = [], []
  for number, (part, kept) in enumerate(zip(data, state.fleets, strict=True)):
    is_own = (np.arange(part.num_clients) == 0) & (number == fleet)
    if others_are_nan:
      part = _poisoned(part, np.setdiff1d(np.arange(len(part.labels)), own))
      kept = _all_nan_but(is_own, kept)
    sizes = jnp.asarray(np.where(is_own, part.sizes, 0))
    datasets.append(dataclasses.replace(part, sizes=sizes))
    fleets.append(kept)
  state = jax.tree.map(jnp.copy, state._replace(fleets=tuple(fleets)))
  after, metrics = jax.device_get(run(state, datasets, _KEY, 1))
  kept = jax.tree.map(lambda leaf: leaf[0], after.fleets[fleet])
  return after.server, kept, metrics


@functools.cache
def _single_rounds(name):
  """State and metrics after each of three calls, and the last state's types."""
  _run(name, _ONE_BY_ONE)  # compiles the program, for more rounds than one
  _, data, state = _start(name)
  run, traces = _runner(name, _ONE_BY_ONE)
  before = len(traces)
  state = jax.tree.map(jnp.copy, state)
  results = []
  for _ in range(3):
    state, metrics = run(state, data, _KEY, 1)
    results.append(jax.device_get((state, metrics)))
  assert len(traces) == before > 0
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
      _run(name, _ONE_BY_ONE),
      _run(name, mapping.Mapping(block_size, mesh)),
      rtol=1e-3,
      atol=1e-3,
    )

  @parameterized.parameters(*ALGORITHMS)
  def test_a_plain_loop_over_clients_gives_the_same_numbers(self, name):
    _, data, state = _start(name)
    chex.assert_trees_all_close(
      _run(name, _ONE_BY_ONE),
      _two_rounds(_loop(name), state, data),
      rtol=1e-4,
      atol=1e-4,
    )

  @parameterized.parameters(*ALGORITHMS)
  def test_the_examples_of_an_absent_client_are_never_read(self, name):
    _, data, state = _start(name)
    poisoned = [
      _poisoned(fleet, _examples(fleet, fleet.num_clients - 1))
      for fleet in data
    ]
    chex.assert_trees_all_equal(
      _run(name, _ONE_BY_ONE),
      _two_rounds(_runner(name, _ONE_BY_ONE)[0], state, poisoned),
    )

  @parameterized.parameters(*ALGORITHMS)
  def test_what_a_client_sends_does_not_depend_on_others(self, name):
    algorithm, data, state = _start(name)
    for fleet in range(len(algorithm.fleets)):
      chex.assert_trees_all_equal(
        *(
          _alone(_loop(name), data, state, fleet, others_are_nan=are_nan)
          for are_nan in (False, True)
        )
      )

  def test_a_client_that_reads_the_data_of_others_is_found(self):
    honest = toys.mean_estimation()
    [client] = honest.fleets

    def update(view, kept, data, keys):
      message, kept, metrics = client.update(view, kept, data, keys)
      return {'w': message['w'] + data.inputs.mean(axis=0)}, kept, metrics

    curious = honest._replace(fleets=(client._replace(update=update),))
    data = [toys.dataset(_SIZES)]
    for algorithm, is_found in ((honest, False), (curious, True)):
      state = rounds.init_state(algorithm, data, _KEY)
      run = _with_absences(reference.round_loop, algorithm)
      server, *_ = _alone(run, data, state, 0, others_are_nan=True)
      self.assertEqual(bool(np.isnan(server.variables['w']).any()), is_found)

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
    chex.assert_trees_all_equal(_run(name, _ONE_BY_ONE), (state, metrics))

  @parameterized.parameters(*ALGORITHMS)
  def test_state_keeps_its_structure_and_one_program_serves(self, name):
    *_, before = _start(name)
    (*_, (state, metrics)), after = _single_rounds(name)
    self.assertEqual(jax.tree.map(jax.typeof, before), after)
    chex.assert_tree_all_finite((jax.tree.leaves(state.server), metrics))

  @parameterized.parameters(*ALGORITHMS)
  def test_a_client_that_is_absent_keeps_its_state(self, name):
    before = jax.device_get(_start(name)[-1])
    after, _ = _run(name, _ONE_BY_ONE)
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

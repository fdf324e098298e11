"""One round of FedVTC with clients of several architectures: time and memory.

python -m benchmarks.fedvtc_round --clients=30 --out=fedvtc_round.json

Time: clients of one architecture are one mapped program of the compiled round.
The same work is done by a Python loop over clients, which calls one compiled
step for each, an architecture having its own. Both do the same to the bits of
the random numbers; the runs alternate, and the ratio is that of their medians.

Memory: temporary bytes of compiled programs by the compiler's own analysis, of
one client of each architecture, for what FedVTC does and for what it might:

  classifier   passes that train the classifier
  generator    passes that train the generator, the classifier frozen
  alternating  both in one program, one after the other, as FedVTC has it, and
               the statistics between them
  joint        passes of which each step trains both at once, by the sum of
               both losses

Nothing of that part is run. The images are noise, which costs as much as
others.
"""

import argparse
from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from fedjax_gen import trees
from fedjax_gen.algorithms import fedvtc
from fedjax_gen.data import partition
from fedjax_gen.data.federated import (
  ClientData,
  FederatedDataset,
  federated_dataset,
)
from fedjax_gen.federated import local, reference, rounds
from fedjax_gen.federated.algorithm import Algorithm, ClientInfo
from fedjax_gen.federated.execution import cohorts, memory as memory_lib
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.statistics import class_gaussians
from fedjax_gen.federated.statistics.class_sums import ClassSums
from fedjax_gen.models.classification.classifiers import (
  Classifier,
  ClassifierConfig,
  build_classifiers,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.models.vtc import Vtc, VtcConfig, build_vtc
from fedjax_gen.running.compile_clock import CompileClock
from fedjax_gen.types import Key, Tree

CLASSES = 10
_SEED = 1  # of rounds; a key would start JAX


class Setting(NamedTuple):
  """What is measured.

  Attributes:
    config: of FedVTC.
    training: of the classifiers.
    models: one for each architecture.
    vtc: the generator.
    datasets: the clients of each architecture.
  """

  config: fedvtc.Config
  training: personal.Config
  models: tuple[Classifier, ...]
  vtc: Vtc
  datasets: list[FederatedDataset]

  def algorithm(self) -> Algorithm:
    """FedVTC of all clients."""
    numbers = [data.num_clients for data in self.datasets]
    return fedvtc.fedvtc(
      self.config, self.training, self.models, numbers, self.vtc
    ).algorithm


def main(argv: list[str] | None = None) -> None:
  """Measures, prints and writes a JSON object."""
  flags = _flags(argv)
  setting = _setting(flags)
  result = {
    'flags': vars(flags),
    'jax': jax.__version__,
    'device': jax.devices()[0].device_kind,
    'cpus': os.cpu_count(),
    'load_average': os.getloadavg()[0],
  }
  if flags.repeats:
    result |= _time(setting, flags)
  result['temporary_bytes'] = {
    model.name: memory(setting, number)
    for number, model in enumerate(setting.models)
  }
  text = json.dumps(result, indent=2)
  print(text)
  if flags.out:
    pathlib.Path(flags.out).write_text(text + '\n', encoding='utf-8')


def memory(setting: Setting, number: int) -> dict[str, float]:
  """Temporary bytes of the programs of one client, by their names above.

  And what both ways of training both take, as multiples of the larger of the
  two that train one.

  Args:
    setting: what is measured.
    number: of the architecture.
  """
  client, arguments = _client(setting, number)
  joint, joint_state = _joint_program(client, arguments)
  needed = {
    'classifier': _temporary_bytes(_classifier_program(client), arguments),
    'generator': _temporary_bytes(_generator_program(client), arguments),
    'alternating': _temporary_bytes(_alternating_program(client), arguments),
    'joint': _temporary_bytes(joint, arguments, joint_state),
  }
  larger = max(needed['classifier'], needed['generator'])
  return needed | {
    f'{name}_over_larger': needed[name] / larger
    for name in ('alternating', 'joint')
  }


def _time(setting: Setting, flags: argparse.Namespace) -> dict[str, Any]:
  """Seconds of rounds, and of the loop that does the same."""
  algorithm, datasets = setting.algorithm(), setting.datasets
  state = rounds.init_state(algorithm, datasets, jax.random.key(0))
  run = rounds.round_runner(algorithm, mapping=Mapping(flags.block_size))
  result: dict[str, Any] = {}
  loop = reference.round_loop(algorithm)
  loop_state = jax.tree.map(jnp.copy, state)

  def ours():
    nonlocal state
    state, _ = run(state, datasets, jax.random.key(_SEED), 1)
    return state

  def theirs():
    nonlocal loop_state
    loop_state, _ = loop(loop_state, datasets, jax.random.key(_SEED), 1)
    return loop_state

  for name, call in (('round', ours), ('loop', theirs)):
    with CompileClock() as clock:
      timing.timed(call)
    result[f'{name}_compile_seconds'] = clock.seconds
  result['round_temporary_bytes'] = run.temporary_bytes(
    state, datasets, jax.random.key(_SEED), 1
  )
  result['largest_difference'] = timing.largest_difference(
    *(
      (found.server, [fleet.own.variables for fleet in found.fleets])
      for found in (state, loop_state)
    )
  )
  times: dict[str, list] = {'round': [], 'loop': []}
  for _ in range(flags.repeats):
    times['round'].append(timing.timed(ours))
    times['loop'].append(timing.timed(theirs))
  for name, measured in times.items():
    result[name] = timing.summary(measured)
  for kind in ('seconds', 'cpu_seconds'):
    result[f'loop_over_round_{kind}'] = (
      result['loop'][f'median_{kind}'] / result['round'][f'median_{kind}']
    )
  return result


class _Arguments(NamedTuple):
  """What the programs of one client are given; shapes in place of arrays.

  Attributes:
    view: what comes down.
    kept: what the client keeps.
    everyone: the clients of its fleet, of whom it is the first.
    sums: of its features.
    key: of its round.
  """

  view: Tree
  kept: fedvtc.VtcClient
  everyone: FederatedDataset
  sums: ClassSums
  key: Key

  @property
  def data(self) -> ClientData:
    """The client's images."""
    return self.everyone.client(jnp.int32(0))


def _client(setting: Setting, number: int) -> tuple[fedvtc.Client, _Arguments]:
  """A client of an architecture, and the shapes of what it has."""
  model, everyone = setting.models[number], setting.datasets[number]
  # Fine-tuning is a third phase, which the comparison leaves out.
  config = dataclasses.replace(setting.config, synthetic_per_class=0)
  client = fedvtc.Client(
    config, fedvtc.DEFAULT_RULES, fedvtc.DEFAULT_LOSSES, setting.training,
    model, setting.vtc,
  )  # fmt: skip
  server = setting.algorithm().server

  def have(key):
    info: ClientInfo = trees.take(cohorts.everyones_infos(everyone), 0)
    program = client.program()
    kept = program.init(key, info)
    data = everyone.client(info.row)
    sums = personal.feature_sums(
      model, kept.own.variables['classifier'], data, client.training.batch_size
    )
    return _Arguments(
      program.view(server.init(key), info), kept, everyone, sums, key
    )

  return client, jax.eval_shape(have, jax.random.key(_SEED))


def _classifier_program(client: fedvtc.Client) -> Callable[[_Arguments], Tree]:
  def run(a):
    return client.training.trainer().run(
      client.classifier_loss(a.view['gaussians']),
      a.kept.own.variables,
      a.kept.own.optimizer_state,
      a.data,
      a.key,
    )

  return run


def _generator_program(client: fedvtc.Client) -> Callable[[_Arguments], Tree]:
  def run(a):
    return client.train_generator(
      a.view,
      a.kept.own.variables['classifier'],
      fedvtc.generator_of(a.view, a.kept),
      a.kept.generator_state,
      a.sums,
      a.data,
      a.key,
    )

  return run


def _alternating_program(
  client: fedvtc.Client,
) -> Callable[[_Arguments], Tree]:
  update = client.program().update
  return lambda a: update(a.view, a.kept, a.data, a.key)


def _joint_program(
  client: fedvtc.Client, arguments: _Arguments
) -> tuple[Callable[[_Arguments, Tree], Tree], Tree]:
  """As many passes as the classifier's, and the shapes of their optimizer.

  The generator's loss moves the classifier too: nothing is frozen.
  """
  training = client.training
  optimizer = optax.partition(
    {
      'classifier': training.descent(),
      'generator': client.generator_optimizer(),
    },
    {'classifier': 'classifier', 'generator': 'generator'},
  )

  def start(a):
    stddev = class_gaussians.of_client(a.sums).stddev[0]
    return {
      'classifier': a.kept.own.variables['classifier'],
      'generator': client.with_stddev(
        fedvtc.generator_of(a.view, a.kept), stddev
      ),
    }

  def run(a, state):
    gaussians, own = a.view['gaussians'], class_gaussians.of_client(a.sums)
    of_classifier = client.classifier_loss(gaussians)

    def loss_fn(variables, batch, key):
      of_generator = client.generator_loss(
        gaussians, own, variables['classifier']
      )
      loss, (_, metrics) = of_classifier(variables, batch, key)
      more, (_, others) = of_generator(variables['generator'], batch, key)
      return loss + more, (variables, metrics | others)

    return local.train(
      loss_fn,
      optimizer,
      local.local_work(training.local_epochs, training.batch_size),
      start(a),
      state,
      a.data,
      a.key,
    )

  return run, jax.eval_shape(lambda a: optimizer.init(start(a)), arguments)


def _temporary_bytes(program: Callable[..., Tree], *arguments: Tree) -> int:
  """By the compiler's analysis; nothing is run."""
  return memory_lib.needed_bytes(jax.jit(program).lower(*arguments))


def build_setting(argv: list[str]) -> Setting:
  """What flags of this program ask for."""
  return _setting(_flags(argv))


def _setting(flags: argparse.Namespace) -> Setting:
  """Noise for images, and models of the sizes that are asked for."""
  spec = DataSpec((flags.image_size, flags.image_size, flags.channels), CLASSES)
  architectures = tuple(flags.architectures.split(','))
  models = build_classifiers(
    ClassifierConfig(architectures, flags.feature_size, flags.width), spec
  )
  data = _noise(spec, flags.clients, flags.records)
  numbers = np.arange(flags.clients)
  return Setting(
    fedvtc.Config(synthetic_per_class=flags.synthetic_per_class),
    personal.Config(batch_size=flags.batch),
    models,
    build_vtc(VtcConfig(vtc_width=flags.vtc_width), flags.feature_size, spec),
    [
      data.select(numbers[start :: len(models)]) for start in range(len(models))
    ],
  )


def _noise(spec: DataSpec, clients: int, records: int) -> FederatedDataset:
  count = clients * records
  inputs = np.random.default_rng(0).integers(
    0, 256, (count, *spec.shape), np.uint8
  )
  labels = np.arange(count, dtype=np.int32) % spec.num_classes
  return federated_dataset(
    inputs, labels, partition.iid(count, clients, seed=0)
  )


def _flags(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--clients', type=int, default=30, help='of all')
  parser.add_argument('--records', type=int, default=64, help='of a client')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument(
    '--architectures',
    default='cnn5,resnet6,mlp',
    help='of the clients in turn, separated by commas',
  )
  parser.add_argument('--image_size', type=int, default=28)
  parser.add_argument('--channels', type=int, default=1)
  parser.add_argument('--feature_size', type=int, default=512)
  parser.add_argument('--width', type=float, default=1.0)
  parser.add_argument('--vtc_width', type=float, default=1.0)
  parser.add_argument(
    '--synthetic_per_class',
    type=int,
    default=20,
    help='of fine-tuning; without effect on the memory of one client',
  )
  parser.add_argument(
    '--block_size',
    type=lambda text: int(text) if text.isdigit() else text,
    default='auto',
    help="clients computed at once, or 'auto' or 'all'",
  )
  parser.add_argument(
    '--repeats', type=int, default=3, help='of rounds; 0 for memory alone'
  )
  parser.add_argument('--out', help='JSON file to write')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main()

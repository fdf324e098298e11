"""Trains VAEs over groups of clients whose images are of different kinds.

The variants of FissionVAE are one model with other parts shared: L gives each
group a prior, D a decoder, H puts a second level of latents, het gives the
groups decoders of different architectures. Beside them, on the same data, the
models they are compared with.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  common,
  fission_discovery,
  fission_methods,
  fission_report,
  fission_tables,
  options,
  private_run,
)
from fedjax_gen import validate
from fedjax_gen.algorithms import (
  discovery as discovery_lib,
  fissionvae as fission_lib,
)
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_models, groups as groups_lib, vaes
from fedjax_gen.federated import (
  rounds,
)
from fedjax_gen.federation import (
  FederationConfig,
  build_federation,
)
from fedjax_gen.models import decoders
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec, VaeConfig
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.running import (
  federated_step,
  leaves,
  training,
)
from fedjax_gen.running.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared.

  Raises:
    InputError: a method is unknown or named twice.
  """

  methods: tuple[str, ...] = dataclasses.field(
    default=('FedVAE', 'L', 'D', 'L+D'),
    metadata={
      'help': 'FedVAE; any of H (two levels of latents), L (priors of groups), '
      'D (decoders of groups) and het (of different architectures) joined by '
      '+, as H+L+D; and the baselines group_vaes (a FedVAE of each group), '
      'local, central (one VAE on all data) and fedgan.'
    },
  )
  families: tuple[str, ...] = dataclasses.field(
    default=('conv', 'resize', 'residual', 'mlp'),
    metadata={
      'help': 'Decoders of the groups in methods with het, in turn: '
      + ', '.join(decoders.DECODERS)
    },
  )
  central_epochs: float = dataclasses.field(
    default=0.0,
    metadata={
      'help': 'Passes of central training over all data in the whole run; 0 '
      'for as many steps as one client makes.'
    },
  )

  def __post_init__(self):
    validate.non_negative(central_epochs=self.central_epochs)
    for family in self.families or ('',):
      validate.one_of(decoders.DECODERS, families=family)
    options.each_once(fission_methods.canonical, methods=self.methods)


EXPERIMENT = common.Experiment(
  name='fissionvae',
  sentence='Trains VAEs over groups of clients with different kinds of images '
  '(FissionVAE).',
  examples=(
    ('', 'Digits and drawn shapes: FedVAE beside L, D and L+D.'),
    (
      '--data=groups:my_images --image_size=32 '
      '--methods=FedVAE,L+D,H+L+D,L+D+het,fedgan',
      'Your own images, a folder for each kind.',
    ),
    (
      '--groups=discovered --num_clients=20',
      'Nobody says who belongs together: the groups are found.',
    ),
    (
      '--privacy=client --epsilon=8 --clients_per_group=500 '
      '--sampling=poisson --participation=0.1',
      'Differential privacy of every client.',
    ),
  ),
  configs={
    'run': common.RunConfig(
      rounds=30, rounds_per_step=5, eval_every=5, checkpoint_every=10
    ),
    'data': options.DataConfig(data='digits_and_shapes'),
    'federation': FederationConfig(partition='groups'),
    'vae': VaeConfig(conditional=False, hierarchy='z1_top'),
    'fissionvae': fission_lib.Config(),
    'privacy': PrivacyConfig(),
    'discovery': discovery_lib.DiscoveryConfig(),
    'gan': GanConfig(),
    'comparison': ComparisonConfig(),
    'evaluation': vaes.EvaluationConfig(importance_samples=0),
  },
)


def main(
  session,
  *,
  run,
  data,
  federation,
  vae,
  fissionvae,
  privacy,
  discovery,
  gan,
  comparison,
  evaluation,
) -> None:
  """Trains, measures and draws; see `common.run`."""
  source = options.load_source(data, seed=run.seed)
  _check_groups(source)
  built = build_federation(federation, source, seed=run.seed)
  is_given = discovery.groups == 'given'
  if privacy.is_private and not is_given:
    raise InputError(
      "Expected groups='given' where there is privacy, got "
      f'groups={discovery.groups!r}: to be put in a group every client would '
      'send a statistic of its data without noise.'
    )
  client_groups = fission_discovery.client_groups(
    built.partition,
    groups_lib.groups_of(source, 'train'),
    may_mix=not is_given,
  )
  built = built._replace(
    data=dataclasses.replace(built.data, groups=jnp.asarray(client_groups))
  )
  num_groups = len(source.group_names)
  protection = private_run.protect(
    privacy,
    federation,
    built.data,
    batch_size=fissionvae.batch_size,
    epochs=fissionvae.local_epochs,
    rounds=run.rounds,
  )
  setting = fission_methods.Setting(
    source,
    DataSpec(source.input_shape, source.num_classes),
    built,
    num_groups,
    range(num_groups),
    {
      'run': run, 'federation': federation, 'vae': vae, 'gan': gan,
      'fissionvae': fissionvae, 'comparison': comparison,
      'evaluation': evaluation,
    },
    run.seed,
    None if protection is None else protection.plan,
  )  # fmt: skip
  if is_given:
    _check_clients(source, client_groups)
  names = fission_methods.ordered(comparison.methods)
  # Before anything is written: mistakes show here.
  methods = fission_methods.build_methods(
    names,
    setting if is_given else fission_discovery.rehearsal(discovery, setting),
  )
  build_extractor = vaes.extractor_builder(
    evaluation.extractor, source, seed=run.seed
  )
  with session.open_workdir() as workdir:
    train = functools.partial(_train, session=session, workdir=workdir)
    workdir.pin(
      data=leaves.params_digest((source.train, source.test)),
      partition=leaves.params_digest(
        (built.partition.order, built.partition.sizes)
      ),
    )
    for note in source.notes:
      session.say(f'Data: {note}')
    if protection is not None:
      session.say(protection.sentence())
    session.say('Preparing the measures.')
    extractor = build_extractor()
    reference = None
    if extractor is not None:
      reference = groups_lib.group_reference(
        source,
        groups_lib.GroupExtractors(
          extractor, groups_lib.group_classifier(source, seed=run.seed)
        ),
      )
    found = None
    if not is_given:
      setting, found = fission_discovery.discover(
        discovery, setting, train, workdir
      )
      session.say(
        f'Discovered {found.num_groups} groups; {found.accuracy:.0%} of the '
        'clients are in their own.'
      )
      methods = fission_methods.build_methods(names, setting)
    results = {
      name: train(name, method, setting, reference, setting.num_rounds)
      for name, method in methods.items()
    }
    session.part()
    trained = {
      name: method.variables(results[name].state)
      for name, method in methods.items()
    }
    for name, method in methods.items():
      method.save(workdir.path, name, trained[name])
    session.say('Measuring against held-out data.')
    generators = {
      name: method.generators(results[name].state)
      for name, method in methods.items()
    }
    metrics = {
      name: workdir.once(
        name,
        functools.partial(
          group_models.evaluate, made, source, reference, evaluation,
          seed=run.seed,
        ),
      )
      for name, made in generators.items()
    }  # fmt: skip
    protected = [n for n in methods if n not in fission_methods.UNPROTECTED]
    if protection is not None:
      protection.write(workdir.path)
      for name in protected:
        metrics[name] = metrics[name] | protection.metrics()
    if reference is not None:
      metrics['real_data'] = workdir.once(
        'real_data',
        functools.partial(
          groups_lib.evaluate_real_groups, reference, evaluation.num_samples,
          seed=run.seed,
        ),
      )  # fmt: skip
    session.say('Drawing.')
    facts = fission_tables.Facts(
      experiment='fissionvae',
      source=source,
      partition=built.partition,
      reference=reference,
      metrics=metrics,
      results=results,
      traffic={name: method.traffic for name, method in methods.items()},
      generators={name: made[0] for name, made in generators.items()},
      discovery=found,
      config=session.config,
      protection=protection,
      protected=protected,
    )
    fission_report.write(workdir.path, facts)
    fission_tables.show(facts)
    # Last: a summary marks the run as finished.
    workdir.write_summary(
      fission_report.summary(facts, leaves.params_digest(trained))
    )


def _check_groups(source: DataSource) -> None:
  """Raises InputError unless there are images of every group in both splits."""
  if source.train.groups is None or not source.is_image:
    raise InputError(
      'Expected images with groups (kinds of images): groups:PATH, '
      'digits_and_shapes, mixed_mnist or charm_proxy; got '
      f'data={source.name!r}.'
    )
  for split, part in (('training', source.train), ('held-out', source.test)):
    for group, name in enumerate(source.group_names):
      if part.groups is None or not (part.groups == group).any():
        raise InputError(
          f'Expected {split} images of every group of {source.name}, got none '
          f'of {name!r}; test_fraction says how many are held out where the '
          'data have no test split.'
        )


def _check_clients(source: DataSource, client_groups: np.ndarray) -> None:
  """Raises InputError unless every group has a client."""
  for group, name in enumerate(source.group_names):
    if group not in client_groups:
      raise InputError(
        f'Expected clients of every group of {source.name}, got a partition '
        f'with none of {name!r}.'
      )


def _train(
  name: str,
  method: fission_methods.Method,
  setting: fission_methods.Setting,
  reference: groups_lib.GroupReference | None,
  num_rounds: int,
  *,
  session: common.Session,
  workdir: Workdir,
) -> training.TrainResult:
  """Trains one method, measuring as it goes."""
  run = setting.configs['run']
  init_key, run_key = jax.random.split(jax.random.key(run.seed))
  data = rounds.place(list(method.datasets), method.mapping)
  runner = rounds.round_runner(
    method.algorithm, samplers=method.samplers, mapping=method.mapping
  )
  return training.train(
    method=name,
    init=lambda: rounds.init_state(
      method.algorithm, data, init_key, method.mapping
    ),
    step=federated_step.federated_step(runner, method.traffic, data, run_key),
    schedule=training.Schedule(
      num_rounds,
      run.rounds_per_step,
      run.eval_every,
      run.checkpoint_every,
    ),
    workdir=workdir,
    progress=session.progress,
    evaluate=lambda state: group_models.follow(
      method.generators(state),
      setting.source,
      reference,
      num_samples=_CURVE_SAMPLES,
      max_examples=_CURVE_EXAMPLES,
      seed=run.seed,
    ),
    trained=method.variables,
    stop=session.stop,
  )


# Enough for a curve; the final numbers are made with all there is.
_CURVE_SAMPLES, _CURVE_EXAMPLES = 500, 500


if __name__ == '__main__':
  common.run(EXPERIMENT, main)

"""Trains a VAE over clients that keep their images, and looks at it hard.

Beside the federated model it trains the two it is compared with, on the same
data and with the same number of local steps: one model on all data (central),
and every client on its own (local).
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from experiments import audits, common, options, private_run, vae_report
from fedjax_gen import trees, validate
from fedjax_gen.algorithms import fedvae as fedvae_lib
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import gallery, samples, vaes
from fedjax_gen.federated import rounds, sampling
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federation import (
  Federation,
  FederationConfig,
  build_federation,
)
from fedjax_gen.models.vae import DataSpec, Vae, VaeConfig, build_vae
from fedjax_gen.privacy.plan import Plan, PrivacyConfig
from fedjax_gen.running import (
  engine as engine_lib,
  federated_step,
  leaves,
  saving,
  training,
)
from fedjax_gen.running.workdir import Workdir
from fedjax_gen.types import Variables

METHODS = ('federated', 'central', 'local')
# Of a model that is never sent there is nothing to protect, and central
# training is what the others are compared with.
_PROTECTED = ('federated',)


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What is compared."""

  methods: tuple[str, ...] = dataclasses.field(
    default=METHODS,
    metadata={
      'help': 'Any of federated, central (one model, all data, as many steps '
      'as one client makes) and local (each client alone).'
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
    options.each_once(METHODS, methods=self.methods)


EXPERIMENT = common.Experiment(
  name='fedvae',
  sentence='Trains one VAE over clients that keep their images (FedVAE).',
  examples=(
    ('', 'Handwritten digits, 10 clients, beside central and local training.'),
    (
      '--data=clients:my_images --image_size=32 --partition=natural '
      '--num_clients=0',
      'Your own images, a folder for each client.',
    ),
    (
      '--privacy=record --epsilon=8 --methods=federated --channels=8,16',
      'Differential privacy of every single image.',
    ),
    (
      '--num_clients=1000 --sampling=uniform --cohort_size=20 '
      '--population_on_host=true --methods=federated --batch_size=4',
      'Many clients, of whom those of a round are in memory.',
    ),
    ('--preset=paper_mnist', 'The published model and schedule on MNIST.'),
  ),
  configs={
    'run': common.RunConfig(
      rounds=50, rounds_per_step=10, eval_every=10, checkpoint_every=10
    ),
    'data': options.DataConfig(),
    'federation': FederationConfig(),
    'population': options.PopulationConfig(),
    'vae': VaeConfig(),
    'fedvae': fedvae_lib.Config(),
    'privacy': PrivacyConfig(),
    'audit': audits.AuditConfig(),
    'comparison': ComparisonConfig(),
    'evaluation': vaes.EvaluationConfig(),
  },
)


class Method(NamedTuple):
  """One of the trainings that are compared.

  Attributes:
    algorithm: what runs.
    data: on whom.
    sampler: who takes part.
    mapping: how clients are laid over time and devices.
    models: the trained variables to measure, from the final state.
    is_one_place: whether the data are in one place, so that nothing travels.
  """

  algorithm: Algorithm
  data: FederatedDataset
  sampler: sampling.Sampler
  mapping: Mapping
  models: Callable[[FederatedState], Sequence[Variables]]
  is_one_place: bool = False


def build_methods(
  names: Sequence[str],
  config: fedvae_lib.Config,
  vae: Vae,
  federation: Federation,
  *,
  central_epochs: float,
  num_local_models: int,
  plan: Plan | None = None,
) -> dict[str, Method]:
  """The trainings by name, central and local beside the federated one.

  A plan of differential privacy is the federated one's.
  """
  data = federation.data
  few = data.select(np.arange(min(num_local_models, data.num_clients)))

  def from_server(state):
    return [state.server.variables]

  def from_clients(state):
    variables, _ = state.fleets[0]
    return [trees.take(variables, i) for i in range(few.num_clients)]

  methods = {
    'federated': lambda: Method(
      fedvae_lib.fedvae(config, vae, plan),
      data,
      federation.sampler,
      federation.mapping,
      from_server,
    ),
    'central': lambda: Method(
      fedvae_lib.central(
        config, vae, np.asarray(data.sizes), epochs=central_epochs
      ),
      data.merged().on_device(),
      sampling.everyone(),
      Mapping(),
      from_server,
      is_one_place=True,
    ),
    'local': lambda: Method(
      fedvae_lib.local_only(config, vae),
      few.on_device(),
      sampling.everyone(),
      federation.mapping,
      from_clients,
    ),
  }
  # In one order, whatever the user's: the first is the report's subject.
  return {name: build() for name, build in methods.items() if name in names}


def main(
  session,
  *,
  run,
  data,
  federation,
  population,
  vae,
  fedvae,
  privacy,
  audit,
  comparison,
  evaluation,
) -> None:
  """Trains, measures and draws; see `common.run`."""
  population.check(session.processes.count)
  source = options.load_source(data, seed=run.seed)
  built = build_federation(
    federation, source, seed=run.seed, on_host=population.population_on_host
  )
  model = build_vae(vae, DataSpec(source.input_shape, source.num_classes))
  protection = private_run.protect(
    privacy,
    federation,
    built.data,
    batch_size=fedvae.batch_size,
    epochs=fedvae.local_epochs,
    rounds=run.rounds,
  )
  if protection is not None:  # the budget may end before
    run = dataclasses.replace(run, rounds=protection.plan.rounds)
  methods = build_methods(
    comparison.methods,
    fedvae,
    model,
    built,
    central_epochs=comparison.central_epochs / run.rounds,
    num_local_models=evaluation.num_local_models,
    plan=None if protection is None else protection.plan,
  )
  to_audit = {}
  if protection is not None and privacy.privacy == 'record':
    to_audit = dict.fromkeys(methods.keys() & _PROTECTED, protection)
  audits.check(audit, list(to_audit.values()), built.data)
  build_extractor = vaes.extractor_builder(
    evaluation.extractor, source, seed=run.seed
  )
  traffic = {
    name: federated_step.dry_run(name, method.algorithm, [method.data])
    for name, method in methods.items()
  }
  for name, method in methods.items():
    if method.is_one_place:
      traffic[name] = (rounds.Traffic(0, 0),)
  with session.open_workdir() as workdir:
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
    results = {
      name: _train(
        name, method, traffic[name], model, source, run, session, workdir
      )
      for name, method in methods.items()
    }
    models = {
      name: method.models(results[name].state)
      for name, method in methods.items()
    }
    for name, trained in models.items():
      if workdir.is_writer:
        saving.save_model(workdir.path, name, vae, source, trained[0])
    audited = {
      name: audits.audit(
        name,
        functools.partial(fedvae_lib.fedvae, fedvae, model),
        subject, built.data.on_device(), source.num_classes, audit,
        run=run, federation=federation, session=session, workdir=workdir,
      )
      for name, subject in to_audit.items() if audit.audit_canaries
    }  # fmt: skip
    session.part()
    session.say('Measuring against held-out data.')
    extractor = build_extractor()
    if extractor is None:
      session.say(
        'FID and its kin are left out: they need images, '
        f'{samples.MIN_SAMPLES} held-out ones at least.'
      )
    metrics = {
      name: workdir.once(
        name,
        functools.partial(
          vaes.evaluate_vaes, model, trained, source, extractor, evaluation,
          seed=run.seed,
        ),
      )
      for name, trained in models.items()
    }  # fmt: skip
    if protection is not None:
      protection.write(workdir.path)
      for name in methods.keys() & _PROTECTED:
        metrics[name] = (
          metrics[name] | protection.metrics() | audited.get(name, {})
        )
    if extractor is not None:
      metrics['real_data'] = workdir.once(
        'real_data',
        functools.partial(
          vaes.evaluate_real, source, extractor, evaluation, seed=run.seed
        ),
      )
    session.say('Drawing.')
    drawn = gallery.draw_all(
      model,
      {name: trained[0] for name, trained in models.items()},
      source,
      workdir.path / 'samples',
      seed=run.seed,
    )
    facts = vae_report.Facts(
      experiment='fedvae',
      source=source,
      partition=built.partition,
      extractor=extractor,
      metrics=metrics,
      results=results,
      traffic={name: fleets[0] for name, fleets in traffic.items()},
      drawn=drawn,
      config=session.config,
      protection=protection,
      protected=_PROTECTED,
    )
    vae_report.write(workdir.path, facts)
    vae_report.show(metrics)
    # Last: a summary marks the run as finished.
    workdir.write_summary(
      vae_report.summary(facts, leaves.params_digest(models))
    )


def _train(
  name: str,
  method: Method,
  traffic: Sequence[rounds.Traffic],
  vae: Vae,
  source: DataSource,
  run: common.RunConfig,
  session: common.Session,
  workdir: Workdir,
) -> training.TrainResult:
  """Trains one method, evaluating and drawing as it goes."""
  engine = engine_lib.engine(
    method.algorithm,
    [method.data],
    jax.random.key(run.seed),
    traffic=traffic,
    samplers=[method.sampler],
    mapping=method.mapping,
    folder=workdir.population_path(name),
  )
  folder = workdir.path / 'samples'

  def evaluate(round_and_models):
    number, trained = round_and_models
    if source.is_image:
      number = int(number)
      gallery.draw_samples(
        vae,
        trained[0],
        source,
        folder / f'{name}_round_{number:04d}.png',
        title=f'{name} after {number} rounds',
        seed=run.seed,
      )
    bounds = [
      vaes.held_out_bounds(vae, variables, source, seed=run.seed)
      for variables in trained
    ]
    return {
      metric: float(np.mean([b[metric] for b in bounds]))
      for metric in bounds[0]
    }

  return training.train(
    method=name,
    **engine.for_training(),
    schedule=training.Schedule(
      run.rounds, run.rounds_per_step, run.eval_every, run.checkpoint_every
    ),
    workdir=workdir,
    progress=session.progress,
    evaluate=evaluate,
    evaluated=lambda state: (state.round, method.models(state)),
    best_metric='test_elbo',
    trained=method.models,
    stop=session.stop,
  )


if __name__ == '__main__':
  common.run(EXPERIMENT, main)

"""The methods that FissionVAE's study compares, by name.

A variant is FedVAE with letters: L gives each group a prior, D a decoder, H
adds a second level of latents, het gives the groups decoders of different
architectures. All other methods are baselines.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen import trees
from fedjax_gen.algorithms import (
  fedgan,
  fedvae as fedvae_lib,
  fissionvae as fission_lib,
)
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_models
from fedjax_gen.evaluation.group_models import GroupGenerator, GroupVae
from fedjax_gen.federated import averaging, sampling
from fedjax_gen.federated.algorithm import FederatedState
from fedjax_gen.federated.mapping import Mapping
from fedjax_gen.federation import Federation, FederationConfig, build_samplers
from fedjax_gen.models import generators
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.vae import DataSpec, Vae, VaeConfig, build_vae
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.running.saves import saving
from fedjax_gen.studies import private_run, study
from fedjax_gen.studies.private_run import Protection
from fedjax_gen.studies.shown import without_training
from fedjax_gen.studies.study import Method

PARTS = ('H', 'L', 'D', 'het')
BASELINES = ('group_vaes', 'local', 'central', 'fedgan')


def canonical(method: str) -> str:
  """A method's name with its parts in one order."""
  if method in ('FedVAE', *BASELINES):
    return method
  parts = method.split('+')
  if not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
    raise InputError(
      f'Expected methods to be FedVAE, {", ".join(BASELINES)} or some of '
      f'{", ".join(PARTS)} joined by +, got methods={method!r}.'
    )
  if 'het' in parts and 'D' not in parts:
    raise InputError(
      'Expected D with het, decoders of groups to be of different '
      f'architectures, got methods={method!r}.'
    )
  return '+'.join(part for part in PARTS if part in parts)


def ordered(methods: Sequence[str]) -> list[str]:
  """In one order, whatever the user's: FedVAE, variants, baselines."""
  names = [canonical(method) for method in methods]
  variants = [n for n in names if n not in ('FedVAE', *BASELINES)]
  variants.sort(key=lambda n: (len(n.split('+')), n.startswith('H'), n != 'L'))
  first = [n for n in names if n == 'FedVAE']
  return first + variants + [n for n in BASELINES if n in names]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupMethod(Method):
  """A training of models of groups.

  Attributes:
    trained: the variables that are saved, from a state.
    generators: what is measured, from the final state; pictures are of the
      first.
    save: `(folder, name, variables)`, writes the first of them.
  """

  trained: Callable[[FederatedState], Any]
  generators: Callable[[FederatedState], list[GroupGenerator]]
  save: Callable[..., Any]


class Setting(NamedTuple):
  """What all methods are built from.

  Attributes:
    source: the data, with the true groups; None where nothing is saved or
      measured.
    spec: their shape.
    federation: who holds what and takes part; the groups of its clients are
      those that are trained for.
    num_groups: groups that are trained for.
    model_of_group: for each true group the group with the model that makes its
      images; the same number unless groups were discovered.
    vae: of the models, with two levels of latents where a method has them.
    fissionvae: how clients train.
    gan: of FedGAN.
    sampling: how clients are sampled.
    families: decoders of the groups in methods with het, in turn.
    central_epochs: passes of central training over all data; 0 for as many
      steps as one client makes.
    num_local_models: of each group, to train alone.
    rounds: asked for.
    seed: of the run.
    protection: differential privacy, if there is any, of all methods that are
      federated.
  """

  source: Any
  spec: DataSpec
  federation: Federation
  num_groups: int
  model_of_group: Sequence[int]
  vae: VaeConfig
  fissionvae: fission_lib.Config
  gan: GanConfig
  sampling: FederationConfig
  families: Sequence[str]
  central_epochs: float
  num_local_models: int
  rounds: int
  seed: int
  protection: Protection | None = None

  @property
  def plan(self) -> Plan | None:
    """Of differential privacy."""
    return self.protection and self.protection.plan

  @property
  def num_rounds(self) -> int:
    """Rounds that are trained: those asked for, unless a budget ends."""
    if self.plan is not None:
      return self.plan.rounds
    return self.rounds

  def vae_config(self, *, hierarchical: bool = False) -> VaeConfig:
    """The model asked for, with one level of latents or two."""
    if hierarchical:
      return self.vae
    return dataclasses.replace(
      self.vae, hierarchy='none', lower_prior='conditional', decode_both=False
    )


def build_methods(
  names: Sequence[str], setting: Setting
) -> dict[str, GroupMethod]:
  """The trainings by name; a round of each is traced, none is computed.

  Raises:
    InputError: a configuration does not fit the data or a method, or a state
      does not fit in memory.
  """
  return {name: build_method(name, setting) for name in names}


def build_method(name: str, setting: Setting) -> GroupMethod:
  """The training that a name of `ComparisonConfig.methods` asks for."""
  return study.traced(name, _build(name, setting))


def _build(name: str, setting: Setting) -> GroupMethod:
  builders = {
    'local': _local,
    'central': _central,
    'fedgan': _fedgan,
  }
  if name in builders:
    return builders[name](setting)
  if name == 'group_vaes':
    sharing = fission_lib.Sharing(decoders=True, encoders=True)
    return _fission(setting, sharing)
  parts = set(name.split('+'))
  sharing = fission_lib.Sharing('L' in parts, bool({'D', 'het'} & parts))
  return _fission(
    setting, sharing, hierarchical='H' in parts, mixed='het' in parts
  )


def _fission(
  setting: Setting,
  sharing: fission_lib.Sharing,
  *,
  hierarchical: bool = False,
  mixed: bool = False,
) -> GroupMethod:
  """A variant of FissionVAE, FedVAE (nothing of their own) included."""
  config = setting.vae_config(hierarchical=hierarchical)
  if hierarchical and config.hierarchy == 'none':
    raise InputError(
      'Expected hierarchy=z1_top or z2_top for methods with H, got '
      "hierarchy='none'."
    )
  num_groups = setting.num_groups
  families = [config.decoder] * num_groups
  if mixed:
    named = setting.families
    families = [named[group % len(named)] for group in range(num_groups)]
  configs = [dataclasses.replace(config, decoder=f) for f in families]
  # One value for each architecture: groups that share it make one fleet.
  built = {c: build_vae(c, setting.spec) for c in dict.fromkeys(configs)}
  fission = fission_lib.fissionvae(
    setting.fissionvae,
    [built[c] for c in configs],
    sharing,
    seed=setting.seed,
    plan=setting.plan,
    expected_cohort=_expected_cohort(setting),
  )
  datasets = fission_lib.fleet_datasets(fission, setting.federation.data)

  def models(state):
    return [
      GroupVae(fission.models[group], fission.variables(state.server, group))
      for group in setting.model_of_group
    ]

  def save(path, name, variables):
    used = [configs[group] for group in setting.model_of_group]
    source = setting.source
    if setting.plan is not None:
      # Classes and shares of groups are written too.
      source = without_training(source)
    saving.save_groups(path, name, used, source, variables)

  return GroupMethod(
    algorithm=fission.algorithm,
    datasets=datasets,
    samplers=build_samplers(
      setting.sampling, [d.num_clients for d in datasets]
    ),
    mapping=setting.federation.mapping,
    rounds=setting.num_rounds,
    generators=lambda state: [group_models.of_vaes(models(state))],
    trained=lambda state: [model.variables for model in models(state)],
    protection=setting.protection,
    save=save,
  )


def _expected_cohort(setting: Setting) -> list[float]:
  """Clients of each group that a round expects."""
  groups = np.asarray(setting.federation.data.groups)
  share = private_run.expected_share(setting.sampling, groups.size)
  return [
    share * float((groups == group).sum())
    for group in range(setting.num_groups)
  ]


def _one_for_all(setting: Setting, vae: Vae, variables) -> GroupGenerator:
  """The generator of one model that knows no groups."""
  num_groups = len(setting.source.group_names)
  return group_models.of_vaes([GroupVae(vae, variables)] * num_groups)


def _central(setting: Setting) -> GroupMethod:
  config = setting.vae_config()
  vae = build_vae(config, setting.spec)
  data = setting.federation.data
  training_config = averaging.pooled(
    _fedvae_config(setting),
    np.asarray(data.sizes),
    epochs=setting.central_epochs / setting.num_rounds,
  )
  return GroupMethod(
    algorithm=fedvae_lib.fedvae(training_config, vae),
    datasets=[data.merged().on_device()],
    samplers=[sampling.everyone()],
    mapping=Mapping(),
    rounds=setting.num_rounds,
    generators=lambda state: [
      _one_for_all(setting, vae, state.server.deployed)
    ],
    trained=lambda state: state.server.deployed,
    save=functools.partial(_save_vae, config, setting.source),
    is_one_place=True,
  )


def _local(setting: Setting) -> GroupMethod:
  """The first clients of each group, each alone."""
  config = setting.vae_config()
  vae = build_vae(config, setting.spec)
  data = setting.federation.data
  groups = np.asarray(data.groups)
  members = [np.flatnonzero(groups == g) for g in setting.model_of_group]
  num_models = min(setting.num_local_models, *(len(r) for r in members))
  rows = [int(r[i]) for i in range(num_models) for r in members]
  chosen = list(dict.fromkeys(rows))

  def generators(state):
    variables, _ = state.fleets[0]
    own = [trees.take(variables, chosen.index(row)) for row in rows]
    step = len(members)
    return [
      group_models.of_vaes(
        [GroupVae(vae, v) for v in own[i * step : (i + 1) * step]]
      )
      for i in range(num_models)
    ]

  def first(state):
    return [model.variables for model in generators(state)[0].models]

  def save(path, name, variables):
    configs = [config] * len(members)
    saving.save_groups(path, name, configs, setting.source, variables)

  return GroupMethod(
    algorithm=fedvae_lib.local_only(_fedvae_config(setting), vae),
    datasets=[data.select(np.asarray(chosen)).on_device()],
    samplers=[sampling.everyone()],
    mapping=setting.federation.mapping,
    rounds=setting.num_rounds,
    generators=generators,
    trained=first,
    save=save,
  )


def _fedgan(setting: Setting) -> GroupMethod:
  if setting.plan is not None:
    raise InputError(
      'Expected methods without fedgan where there is privacy, got '
      "methods='fedgan': it sends a generator trained without noise."
    )
  generator = generators.build('gan', [setting.gan], setting.spec)
  num_clients = setting.federation.data.num_clients
  return GroupMethod(
    algorithm=fedgan.fedgan(
      _fedvae_config(setting), setting.gan, generator.model
    ),
    datasets=[setting.federation.data],
    samplers=build_samplers(setting.sampling, [num_clients]),
    mapping=setting.federation.mapping,
    rounds=setting.num_rounds,
    generators=lambda state: [
      group_models.of_one(generator, state.server.deployed)
    ],
    trained=lambda state: state.server.deployed,
    save=lambda path, name, variables: saving.save_generator(
      path, name, 'gan', [setting.gan], setting.source, variables
    ),
  )


def _fedvae_config(setting: Setting) -> fedvae_lib.Config:
  """The baselines' training: that of the variants, without their priors."""
  return fedvae_lib.Config(
    **{
      field.name: getattr(setting.fissionvae, field.name)
      for field in dataclasses.fields(fedvae_lib.Config)
    }
  )


def _save_vae(config, source, path, name, variables):
  saving.save_model(path, name, config, source, variables)

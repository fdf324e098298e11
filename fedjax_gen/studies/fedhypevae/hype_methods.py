"""FedHypeVAE and the methods that it is compared with, by name.

All methods of a run train on the same clients' records, under the same budget
and the same accountant.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from fedjax_gen import validate
from fedjax_gen.algorithms import (
  dp_cgan,
  fedhypevae,
  hyper_pretraining as pretraining,
  linear_head,
)
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.dp_merf import MerfConfig
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.algorithms.hyper_pretraining import PretrainingConfig
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.algorithms.one_upload import one_upload
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.federation import FederationConfig, build_mapping, build_sampler
from fedjax_gen.models.hyper.hypernetwork import (
  HyperVae,
  HyperVaeConfig,
  build_hyper_vae,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import noise
from fedjax_gen.privacy.one_upload import one_release
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.studies.audits import Target
from fedjax_gen.studies.fedhypevae import hype_budgets
from fedjax_gen.studies.fedhypevae.hype_budgets import (
  Budget,
  First,
  HypePrivacyConfig,
)
from fedjax_gen.studies.fedhypevae.hype_uploads import (
  GaussianConfig,
  OneUpload,
  class_gaussians,
  merf,
)
from fedjax_gen.studies.study import Method
from fedjax_gen.types import Key, Tree

METHODS = (
  'ClassGaussians', 'DP-MERF', 'FedHypeVAE', 'FedHypeVAE-pretrained', 'DP-CVAE',
  'DP-CVAE-pretrained', 'DP-CGAN', 'FedAvg', 'FedProx', 'FedLambda',
)  # fmt: skip
DEFAULT = tuple(name for name in METHODS if not name.endswith('-pretrained'))


class Pretraining(NamedTuple):
  """What a training starts from: Gaussians of classes that were released.

  Attributes:
    upload: their release.
    gaussians: of its state.
    begin: `(gaussians, key) -> HypeMethod`, the training from there.
  """

  upload: 'HypeMethod'
  gaussians: Callable[[FederatedState], CorrelatedGaussians]
  begin: Callable[[CorrelatedGaussians, Key], 'HypeMethod']


@dataclasses.dataclass(frozen=True, kw_only=True)
class HypeMethod(Method):
  """A training of a generator of embeddings, or of a classifier of them.

  Attributes:
    budget: what it may release.
    model: the networks, for the generators; None for classifiers.
      `OneUpload` for a method of one upload.
    trained: from a state to what the server holds.
    algorithm_of: from a plan of records to the algorithm; None where an audit
      would see nothing, for a record's gradient is not what is sent.
    pretraining: what it starts from, if it is to; it is not trained before
      `pretraining.begin` was called.
    gaussians: what it started from; its class moments are theirs.
  """

  budget: Budget
  model: Any = None
  trained: Callable[[FederatedState], Tree] = lambda state: (
    state.server.variables
  )
  algorithm_of: Callable[[Plan], Algorithm] | None = None
  pretraining: Pretraining | None = None
  gaussians: CorrelatedGaussians | None = None

  @property
  def is_one_upload(self) -> bool:
    """Whether all clients send one sum, and nothing else is done."""
    return isinstance(self.model, OneUpload)

  @property
  def audited(self) -> Target | None:
    """What an audit would train and test; None where it would see nothing."""
    if self.algorithm_of is None or self.protection is None:
      return None
    if self.protection.plan.unit != 'record':
      return None
    return Target(self.algorithm_of, self.protection)


def ordered(names: Sequence[str]) -> tuple[str, ...]:
  """The names in the order of the table, each once."""
  for name in names or ('',):
    validate.one_of(METHODS, methods=name)
  return tuple(name for name in METHODS if name in names)


def trained(names: Sequence[str]) -> tuple[str, ...]:
  """Which methods are to be trained: FedLambda's classifier is FedAvg's."""
  needed = [*names, *(['FedAvg'] if 'FedLambda' in names else [])]
  return tuple(n for n in ordered(needed) if n != 'FedLambda')


class Setting(NamedTuple):
  """What all methods are built from."""

  config: Config
  hyper: HyperVaeConfig
  cgan: CganConfig
  linear: LinearConfig
  gaussians: GaussianConfig
  merf: MerfConfig
  pretraining: PretrainingConfig
  privacy: HypePrivacyConfig
  federation: FederationConfig
  data: FederatedDataset
  spec: DataSpec
  rounds: int
  seed: int

  def budget(
    self,
    epochs: float,
    *,
    rounds: int | None = None,
    first: First | None = None,
    privacy: HypePrivacyConfig | None = None,
  ) -> Budget:
    """What a method may release; as `hype_budgets.budget`."""
    return hype_budgets.budget(
      privacy or self.privacy,
      self.federation,
      self.data,
      self.config.batch_size,
      epochs,
      self.rounds if rounds is None else rounds,
      first=first,
    )

  def method(
    self, algorithm: Algorithm, budget: Budget, rounds: int, **fields: Any
  ) -> HypeMethod:
    """A training on all clients, under a budget."""
    federation = self.federation
    if isinstance(fields.get('model'), OneUpload):  # its one sum is of everyone
      federation = dataclasses.replace(
        federation, sampling='all', cohort_size=0, dropout_rate=0.0
      )
    return HypeMethod(
      algorithm=algorithm,
      datasets=[self.data],
      samplers=[build_sampler(federation, self.data.num_clients)],
      mapping=build_mapping(federation),
      rounds=rounds,
      protection=budget.protection,
      budget=budget,
      **fields,
    )


def build_methods(
  names: Sequence[str], setting: Setting
) -> dict[str, HypeMethod]:
  """The trainings by name."""
  hype_budgets.check_shares(setting.privacy, setting.config, setting.federation)
  return {name: _BUILDERS[name](setting) for name in trained(names)}


def _fedhypevae(setting: Setting, *, pretrained: bool = False) -> HypeMethod:
  moments = First('class moments', setting.privacy.moments_share)
  return _generator(
    setting,
    setting.hyper,
    setting.config,
    setting.privacy.privacy,
    first=None if pretrained else moments,
    pretrained=pretrained,
  )


def _dp_cvae(setting: Setting, *, pretrained: bool = False) -> HypeMethod:
  """One decoder for all, and no code to choose among many."""
  return _generator(
    setting,
    dataclasses.replace(setting.hyper, head='constant', prior='standard'),
    dataclasses.replace(
      setting.config, mmd_weight=0.0, lipschitz_weight=0.0, code_weight=0.0
    ),
    _mode_of_peers(setting),
    pretrained=pretrained,
  )


def _mode_of_peers(setting: Setting) -> str:
  """How what FedHypeVAE is compared with is protected: as it should be."""
  mode = setting.privacy.privacy
  return 'record_joint' if mode in ('record_server_code', 'paper') else mode


def _generator(
  setting: Setting,
  hyper: HyperVaeConfig,
  config: Config,
  mode: str,
  *,
  first: First | None = None,
  pretrained: bool = False,
) -> HypeMethod:
  if pretrained:
    if mode == 'record_server_code':
      raise InputError(
        'Expected no method named -pretrained with privacy=record_server_code, '
        'which never trains the base weights; DP-CVAE-pretrained is possible, '
        'and protected as with record_joint.'
      )
    first = First('class Gaussians', setting.privacy.gaussians_share)
  model = build_hyper_vae(hyper, setting.spec)
  is_nominal = mode == 'paper'
  budget = setting.budget(config.epochs, first=first)

  def algorithm_of(plan):
    if mode == 'record_server_code':
      return fedhypevae.with_server_codes(
        config,
        model,
        plan,
        setting.data.num_clients,
        jax.random.key(setting.seed),
      )
    return fedhypevae.fedhypevae(config, model, mode, plan, budget.client_plan)

  method = setting.method(
    algorithm_of(budget.plan),
    budget,
    budget.rounds(setting.rounds),
    model=model,
    algorithm_of=None if is_nominal else algorithm_of,
    is_nominal=is_nominal,
  )
  if not pretrained:
    return method
  return dataclasses.replace(
    method, pretraining=_pretraining(setting, config, method)
  )


def moments_release(setting: Setting, method: HypeMethod) -> HypeMethod | None:
  """Class moments as a training of one round, of which sites are asked.

  In place of `hype_synthesis`'s own, which reads what clients hold. It has the
  part of the budget that is theirs: one sum of counts, means and variances.

  Args:
    setting: of the method.
    method: as built from it.

  Returns:
    the release, or None for a method that has no codes to fit.
  """
  model = method.model
  if not isinstance(model, HyperVae) or not model.config.uses_code:
    return None
  upload = class_gaussians(_MOMENTS, setting.spec)
  return _upload(setting, upload, method.budget, method.budget.first_noise)


def released_moments(
  setting: Setting, method: HypeMethod, state: FederatedState
) -> CorrelatedGaussians:
  """The moments of a state of `moments_release`."""
  stddev = _summed_stddev(setting, method.budget, method.budget.first_noise)
  return _MOMENTS.fit(setting.spec.num_classes, state.server, stddev)


_MOMENTS = GaussianConfig(gaussians='diagonal')


def _pretraining(
  setting: Setting, config: Config, method: HypeMethod
) -> Pretraining:
  """Gaussians, for the part of the budget that is theirs, and what follows."""
  upload = class_gaussians(setting.gaussians, setting.spec)
  budget, num_classes = method.budget, setting.spec.num_classes
  release = _upload(setting, upload, budget, budget.first_noise)

  def gaussians(state):
    stddev = _summed_stddev(setting, budget, budget.first_noise)
    return setting.gaussians.fit(num_classes, state.server, stddev)

  def begin(found, key):
    start = pretraining.pretrained(
      setting.pretraining,
      fedhypevae.record_loss(config, method.model),
      method.model,
      found,
      key,
    )

    def from_start(algorithm):
      return pretraining.started_from(algorithm, start)

    of_plan = method.algorithm_of
    return dataclasses.replace(
      method,
      algorithm=from_start(method.algorithm),
      algorithm_of=of_plan and (lambda plan: from_start(of_plan(plan))),
      pretraining=None,
      gaussians=found,
    )

  return Pretraining(release, gaussians, begin)


def _one_upload(setting: Setting, upload: OneUpload, label: str) -> HypeMethod:
  """A method of one upload, with the whole budget."""
  budget = hype_budgets.upload_budget(
    setting.privacy, setting.federation, setting.data, label
  )
  noise_multiplier = 0.0
  if budget.protection is not None:
    noise_multiplier = budget.protection.plan.noise_multiplier
  stddev = _summed_stddev(setting, budget, noise_multiplier)
  return _upload(
    setting, upload._replace(stddev=stddev), budget, noise_multiplier
  )


def _upload(
  setting: Setting, upload: OneUpload, budget: Budget, noise_multiplier: float
) -> HypeMethod:
  algorithm = one_upload(
    upload.statistic,
    setting.spec,
    noise_multiplier=noise_multiplier,
    share=_share(setting, budget),
    unit='client' if budget.client_plan else 'record',
  )
  return setting.method(
    algorithm, budget, 1, model=upload, trained=lambda state: state.server
  )


def _share(setting: Setting, budget: Budget) -> float:
  """Of the noise on a sum, what each client adds."""
  if budget.client_plan is not None:
    # As elsewhere where clients are protected: noise once, on the sum.
    return setting.data.num_clients**-0.5
  return budget.plan.share


def _summed_stddev(
  setting: Setting, budget: Budget, noise_multiplier: float
) -> float:
  return one_release.summed_stddev(
    noise_multiplier, setting.data.num_clients, _share(setting, budget)
  )


def _class_gaussians(setting: Setting) -> HypeMethod:
  upload = class_gaussians(setting.gaussians, setting.spec)
  return _one_upload(setting, upload, 'class Gaussians')


def _dp_merf(setting: Setting) -> HypeMethod:
  return _one_upload(
    setting, merf(setting.merf, setting.spec), 'random features'
  )


def _dp_cgan(setting: Setting) -> HypeMethod:
  budget = setting.budget(0.0)
  players = dp_cgan.build_cgan(setting.cgan, setting.spec)
  algorithm = dp_cgan.dp_cgan(
    setting.cgan,
    players,
    budget.plan,
    is_private=setting.privacy.unit == 'record',
  )
  if budget.client_plan is not None:
    algorithm = noise.with_private_server(algorithm, budget.client_plan)
  return setting.method(
    algorithm, budget, budget.rounds(setting.rounds), model=players
  )


def _classifier(setting: Setting, *, proximal: bool) -> HypeMethod:
  linear, privacy = setting.linear, setting.privacy
  budget = setting.budget(
    linear.linear_epochs,
    rounds=linear.linear_rounds,
    # Several steps on shares of noise would protect nothing.
    privacy=dataclasses.replace(privacy, noise_placement='local'),
  )
  plan = None
  if privacy.unit != 'none':
    plan = budget.client_plan or budget.plan

  def algorithm_of(plan):
    batch_size = setting.config.batch_size
    return linear_head.linear_head(
      linear.training(batch_size, proximal=proximal), setting.spec, plan
    )

  return setting.method(
    algorithm_of(plan),
    budget,
    budget.rounds(linear.linear_rounds),
    algorithm_of=algorithm_of,
  )


_BUILDERS: dict[str, Callable[[Setting], HypeMethod]] = {
  'ClassGaussians': _class_gaussians,
  'DP-MERF': _dp_merf,
  'FedHypeVAE': _fedhypevae,
  'FedHypeVAE-pretrained': functools.partial(_fedhypevae, pretrained=True),
  'DP-CVAE': _dp_cvae,
  'DP-CVAE-pretrained': functools.partial(_dp_cvae, pretrained=True),
  'DP-CGAN': _dp_cgan,
  'FedAvg': functools.partial(_classifier, proximal=False),
  'FedProx': functools.partial(_classifier, proximal=True),
}

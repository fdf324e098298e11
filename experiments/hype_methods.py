"""FedHypeVAE and what it is compared with, by the names of its table.

All of a run train on the same clients' records, under the same budget and by
the same accountant.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax

from experiments import hype_budgets
from experiments.audits import Target
from experiments.hype_budgets import Budget, HypePrivacyConfig
from fedjax_gen import validate
from fedjax_gen.algorithms import dp_cgan, fedhypevae, linear_head
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federation import FederationConfig
from fedjax_gen.models.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import noise
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.types import Tree

METHODS = (
  'FedHypeVAE', 'DP-CVAE', 'DP-CGAN', 'FedAvg', 'FedProx', 'FedLambda',
)  # fmt: skip


class Method(NamedTuple):
  """One of the trainings that are compared.

  Attributes:
    algorithm: what runs.
    rounds: how many.
    budget: what it may release.
    model: the networks, for the generators; None for classifiers.
    shared: from the final state to what the server holds.
    algorithm_of: from a plan of records to the algorithm; None where an audit
      would see nothing, for a record's gradient is not what is sent.
    is_nominal: whether it descends the formulas as printed, so that the epsilon
      of its budget protects nothing.
  """

  algorithm: Algorithm
  rounds: int
  budget: Budget
  model: Any
  shared: Callable[[FederatedState], Tree]
  algorithm_of: Callable[[Plan], Algorithm] | None = None
  is_nominal: bool = False

  @property
  def audited(self) -> Target | None:
    """What an audit would train and test; None where it would see nothing."""
    protection = self.budget.protection
    if self.algorithm_of is None or protection is None:
      return None
    if protection.plan.unit != 'record':
      return None
    return Target(self.algorithm_of, protection)


def ordered(names: Sequence[str]) -> tuple[str, ...]:
  """The names in the order of the table, each once.

  Raises:
    InputError: one is unknown, or there is none.
  """
  for name in names or ('',):
    validate.one_of(METHODS, methods=name)
  return tuple(name for name in METHODS if name in names)


def trained(names: Sequence[str]) -> tuple[str, ...]:
  """Which methods are to be trained: FedLambda's classifier is FedAvg's."""
  needed = [*names, *(['FedAvg'] if 'FedLambda' in names else [])]
  return tuple(n for n in ordered(needed) if n != 'FedLambda')


class Setting(NamedTuple):
  """What all methods are built from.

  Attributes:
    config: of FedHypeVAE; its batches are those of all.
    hyper: of its networks.
    cgan: of DP-CGAN.
    linear: of the classifiers that are averaged.
    privacy: what is protected, and how much is to be spent.
    federation: how clients are sampled.
    data: the clients' training records.
    spec: of the data.
    rounds: of generators, asked for.
    seed: of the run.
  """

  config: Config
  hyper: HyperVaeConfig
  cgan: CganConfig
  linear: LinearConfig
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
    with_moments: bool = False,
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
      with_moments=with_moments,
    )


def build_methods(names: Sequence[str], setting: Setting) -> dict[str, Method]:
  """The trainings by name.

  Raises:
    InputError: a value is out of range or does not fit another.
  """
  hype_budgets.check_shares(setting.privacy, setting.config, setting.federation)
  return {name: _BUILDERS[name](setting) for name in trained(names)}


def _fedhypevae(setting: Setting) -> Method:
  return _generator(
    setting,
    setting.hyper,
    setting.config,
    setting.privacy.privacy,
    with_moments=True,
  )


def _dp_cvae(setting: Setting) -> Method:
  """One decoder for all, and no code to choose among many."""
  mode = setting.privacy.privacy
  if mode in ('record_server_code', 'paper'):
    mode = 'record_joint'  # what is compared is protected as it should be
  return _generator(
    setting,
    dataclasses.replace(setting.hyper, head='constant', prior='standard'),
    dataclasses.replace(
      setting.config, mmd_weight=0.0, lipschitz_weight=0.0, code_weight=0.0
    ),
    mode,
    with_moments=False,
  )


def _generator(
  setting: Setting,
  hyper: HyperVaeConfig,
  config: Config,
  mode: str,
  *,
  with_moments: bool,
) -> Method:
  model = build_hyper_vae(hyper, setting.spec)
  is_nominal = mode == 'paper'
  budget = setting.budget(config.epochs, with_moments=with_moments)

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

  return Method(
    algorithm_of(budget.plan),
    budget.rounds(setting.rounds),
    budget,
    model,
    _variables,
    None if is_nominal else algorithm_of,
    is_nominal,
  )


def _dp_cgan(setting: Setting) -> Method:
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
  return Method(
    algorithm, budget.rounds(setting.rounds), budget, players, _variables
  )


def _classifier(setting: Setting, *, proximal: bool) -> Method:
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

  return Method(
    algorithm_of(plan),
    budget.rounds(linear.linear_rounds),
    budget,
    None,
    _variables,
    algorithm_of,
  )


def _variables(state: FederatedState) -> Tree:
  return state.server.variables


_BUILDERS: dict[str, Callable[[Setting], Method]] = {
  'FedHypeVAE': _fedhypevae,
  'DP-CVAE': _dp_cvae,
  'DP-CGAN': _dp_cgan,
  'FedAvg': functools.partial(_classifier, proximal=False),
  'FedProx': functools.partial(_classifier, proximal=True),
}

"""FedHypeVAE and what it is compared with, by the names of its table.

All of a run train on the same clients' records, under the same budget and by
the same accountant.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import private_run
from experiments.audits import Target
from fedjax_gen import validate
from fedjax_gen.algorithms import dp_cgan, fedhypevae, linear_head
from fedjax_gen.algorithms.dp_cgan import CganConfig
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.algorithms.linear_head import LinearConfig
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated.algorithm import Algorithm, FederatedState
from fedjax_gen.federation import FederationConfig
from fedjax_gen.models.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy import (
  accounting,
  events,
  ledger as ledger_lib,
  noise,
  plan as plan_lib,
)
from fedjax_gen.privacy.ledger import Ledger
from fedjax_gen.privacy.plan import Plan, PrivacyConfig
from fedjax_gen.types import Tree

METHODS = (
  'FedHypeVAE', 'DP-CVAE', 'DP-CGAN', 'FedAvg', 'FedProx', 'FedLambda',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HypePrivacyConfig(PrivacyConfig):
  """Differential privacy.

  Raises:
    InputError: a value is out of range.
  """

  privacy: str = dataclasses.field(
    default='record_joint',
    metadata={
      'choices': fedhypevae.MODES,
      'help': 'What is protected: nothing; a record, by clipping all that it '
      'moves as one (record_joint), or with the codes at the server; a whole '
      'client; or paper, the published formulas, which protect nothing and '
      'need accept_no_guarantee',
    },
  )
  accept_no_guarantee: bool = dataclasses.field(
    default=False,
    metadata={
      'help': 'needed with privacy=paper: its epsilon is nominal, and nothing '
      'is protected'
    },
  )
  moments_share: float = dataclasses.field(
    default=0.15,
    metadata={
      'help': 'part of epsilon for the class moments that the neutral code is '
      'fitted to'
    },
  )

  def __post_init__(self):
    super().__post_init__()
    validate.one_of(fedhypevae.MODES, privacy=self.privacy)
    validate.fraction(moments_share=self.moments_share)
    if self.moments_share in (0.0, 1.0):
      raise InputError(
        f'Expected 0 < moments_share < 1, got {self.moments_share!r}.'
      )
    if self.privacy == 'paper' and not self.accept_no_guarantee:
      raise InputError(
        'Expected --accept_no_guarantee with privacy=paper: its epsilon is '
        'nominal, one record can move what is released by more than the noise '
        'is made for. privacy=record_joint holds.'
      )

  @property
  def unit(self) -> str:
    """Of the ledger: none, record or client."""
    if self.privacy in ('none', 'client'):
      return self.privacy
    return 'record'


class Budget(NamedTuple):
  """What one method may release, and its noise.

  Attributes:
    plan: of the training; for methods without protection, of the sampling of
      records alone.
    protection: what a report says; None for none.
    moments_noise: noise multiplier of the class moments; 0 for none.
  """

  plan: Plan
  protection: private_run.Protection | None
  moments_noise: float = 0.0


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
  """

  algorithm: Algorithm
  rounds: int
  budget: Budget
  model: Any
  shared: Callable[[FederatedState], Tree]
  algorithm_of: Callable[[Plan], Algorithm] | None = None

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


def build_methods(
  names: Sequence[str],
  *,
  config: Config,
  hyper: HyperVaeConfig,
  cgan: CganConfig,
  linear: LinearConfig,
  privacy: HypePrivacyConfig,
  federation: FederationConfig,
  data: FederatedDataset,
  spec: DataSpec,
  rounds: int,
  seed: int,
) -> dict[str, Method]:
  """The trainings by name.

  Raises:
    InputError: a value is out of range or does not fit another.
  """

  _check_shares(privacy, config, federation)

  def budget(num_rounds, epochs, *, with_moments=False, protected=privacy):
    return _budget(
      protected, federation, data, config.batch_size, epochs, num_rounds,
      with_moments=with_moments,
    )  # fmt: skip

  def hypernetwork(model_config, loss_config, *, with_moments):
    model = build_hyper_vae(model_config, spec)
    allowed = budget(rounds, loss_config.epochs, with_moments=with_moments)
    mode = privacy.privacy
    if mode in ('record_server_code', 'paper') and not with_moments:
      mode = 'record_joint'  # what is compared is protected as it should be

    def algorithm_of(plan):
      if mode == 'record_server_code':
        return fedhypevae.with_server_codes(
          loss_config, model, plan, data.num_clients, jax.random.key(seed)
        )
      return fedhypevae.fedhypevae(
        loss_config, model, mode, plan, _client_plan(allowed)
      )

    return Method(
      algorithm_of(allowed.plan),
      _rounds(allowed, rounds),
      allowed,
      model,
      _variables,
      None if mode == 'paper' else algorithm_of,
    )

  def gan():
    allowed = budget(rounds, 0.0)
    players = dp_cgan.build_cgan(cgan, spec)
    algorithm = dp_cgan.dp_cgan(
      cgan, players, allowed.plan, is_private=privacy.unit == 'record'
    )
    if client_plan := _client_plan(allowed):
      algorithm = noise.with_private_server(algorithm, client_plan)
    return Method(
      algorithm, _rounds(allowed, rounds), allowed, players, _variables
    )

  def classifier(*, proximal):
    # Several steps on shares of noise would protect nothing.
    local = dataclasses.replace(privacy, noise_placement='local')
    allowed = budget(
      linear.linear_rounds, linear.linear_epochs, protected=local
    )
    plan = None
    if privacy.unit != 'none':
      plan = _client_plan(allowed) or allowed.plan

    def algorithm_of(plan):
      return linear_head.linear_head(
        linear.training(config.batch_size, proximal=proximal), spec, plan
      )

    return Method(
      algorithm_of(plan),
      _rounds(allowed, linear.linear_rounds),
      allowed,
      None,
      _variables,
      algorithm_of,
    )

  cvae = dataclasses.replace(hyper, head='constant', prior='standard')
  plain = dataclasses.replace(
    config, mmd_weight=0.0, lipschitz_weight=0.0, code_weight=0.0
  )
  builders = {
    'FedHypeVAE': lambda: hypernetwork(hyper, config, with_moments=True),
    'DP-CVAE': lambda: hypernetwork(cvae, plain, with_moments=False),
    'DP-CGAN': gan,
    'FedAvg': lambda: classifier(proximal=False),
    'FedProx': lambda: classifier(proximal=True),
  }
  return {name: builders[name]() for name in trained(names)}


def _check_shares(
  privacy: HypePrivacyConfig, config: Config, federation: FederationConfig
) -> None:
  """Raises `InputError` where shares of noise would not add up to noise.

  The sum over clients has the whole noise if every client is there and sends
  what is linear in its share.
  """
  if privacy.noise_placement != 'distributed' or privacy.unit != 'record':
    return
  for name, needed, got in (
    ('local_mode', 'fedsgd', config.local_mode),
    ('sampling', 'all', federation.sampling),
    ('dropout_rate', 0.0, federation.dropout_rate),
  ):
    if got != needed:
      raise InputError(
        f'Expected {name}={needed} with noise_placement=distributed, of which '
        f'every client adds a share to a sum, got {name}={got}.'
      )


def _budget(
  config: HypePrivacyConfig,
  federation: FederationConfig,
  data: FederatedDataset,
  batch_size: int,
  epochs: float,
  rounds: int,
  *,
  with_moments: bool,
) -> Budget:
  """Noise for one method's training and, first, its class moments."""
  sizes = np.asarray(data.sizes)
  sampling = plan_lib.record_plan(
    dataclasses.replace(config, epsilon=math.inf, noise_multiplier=0.0),
    sizes,
    batch_size=batch_size,
    epochs=epochs,
    rounds=rounds,
  )
  if config.unit == 'none':
    return Budget(sampling, None)
  ledger = _empty_ledger(config, len(sizes))
  moments_noise = 0.0
  if with_moments:
    moments_noise, ledger = _charged_moments(config, ledger)
  if config.unit == 'record':
    plan = plan_lib.record_plan(
      config,
      sizes,
      batch_size=batch_size,
      epochs=epochs,
      rounds=rounds,
      ledger=ledger,
    )
    num_units = int(sizes.sum())
  else:
    plan = private_run.client_plan(
      config, federation, len(sizes), rounds=rounds, ledger=ledger
    )
    num_units = len(sizes)
  protection = private_run.protection(
    config, plan, rounds=rounds, num_units=num_units
  )
  if config.unit == 'record':
    return Budget(plan, protection, moments_noise)
  # Clients sample their records all the same.
  return Budget(sampling, protection, moments_noise)


def _empty_ledger(config: HypePrivacyConfig, num_clients: int) -> Ledger:
  if config.unit == 'record':
    return plan_lib.record_ledger(config, num_clients)
  return ledger_lib.ledger(
    num_clients,
    config.epsilon,
    config.delta,
    unit=config.unit,
    accountant=config.accountant,
  )


def _charged_moments(
  config: HypePrivacyConfig, ledger: Ledger
) -> tuple[float, Ledger]:
  """The noise multiplier of the class moments, and the ledger with them."""
  if config.epsilon == math.inf:
    return 0.0, ledger.charge('class moments', events.non_private())
  multiplier = accounting.noise_multiplier(
    config.moments_share * config.epsilon,
    ledger.delta,
    accountant=config.accountant,
  )
  return multiplier, ledger.charge('class moments', events.gaussian(multiplier))


def _client_plan(budget: Budget) -> Plan | None:
  protection = budget.protection
  if protection is None or protection.plan.unit != 'client':
    return None
  return protection.plan


def _rounds(budget: Budget, asked: int) -> int:
  return budget.protection.plan.rounds if budget.protection else asked


def _variables(state: FederatedState) -> Tree:
  return state.server.variables

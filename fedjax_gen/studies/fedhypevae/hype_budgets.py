"""What each method of a comparison of generators may release, and its noise.

All methods have the same budget for the same records, and the same accountant.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from fedjax_gen import fields, validate
from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.algorithms.fedhypevae import Config
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federation import FederationConfig
from fedjax_gen.privacy import (
  accounting,
  events,
  ledger as ledger_lib,
  plan as plan_lib,
)
from fedjax_gen.privacy.ledger import Ledger
from fedjax_gen.privacy.plan import Plan, PrivacyConfig
from fedjax_gen.studies import private_run


@dataclasses.dataclass(frozen=True)
class HypePrivacyConfig(PrivacyConfig):
  """Differential privacy."""

  privacy: str = fields.option(
    'record_joint',
    'What is protected: nothing; a record, by clipping all that it '
    'moves as one (record_joint), or with the codes at the server; a whole '
    'client; or paper, the published formulas, which protect nothing and '
    'need accept_no_guarantee',
    choices=fedhypevae.MODES,
  )
  accept_no_guarantee: bool = fields.option(
    False,
    'needed with privacy=paper: its epsilon is nominal, and nothing '
    'is protected',
  )
  moments_share: float = fields.option(
    0.15,
    'part of epsilon for the class moments that the neutral code is fitted to',
  )
  gaussians_share: float = fields.option(
    0.5,
    'part of epsilon for the Gaussians of classes that methods named '
    '-pretrained start from; they take the place of class moments',
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ('moments_share', 'gaussians_share'):
      share = getattr(self, name)
      validate.fraction(**{name: share})
      if share in (0.0, 1.0):
        raise InputError(f'Expected 0 < {name} < 1, got {share!r}.')
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
    first_noise: noise multiplier of what is released before the training,
      class moments or Gaussians; 0 for none.
  """

  plan: Plan
  protection: private_run.Protection | None
  first_noise: float = 0.0

  @property
  def client_plan(self) -> Plan | None:
    """Of the training, if clients are protected."""
    if self.protection is None or self.protection.plan.unit != 'client':
      return None
    return self.protection.plan

  def rounds(self, asked: int) -> int:
    """Rounds that fit, of those asked for."""
    return self.protection.plan.rounds if self.protection else asked


def check_shares(
  privacy: HypePrivacyConfig, config: Config, federation: FederationConfig
) -> None:
  """Checks that shares of noise add up to noise.

  The sum over clients has the whole noise if every client is there and sends
  what is linear in its share.

  Raises:
    InputError: shares are asked for, and they would not.
  """
  if privacy.noise_placement != 'distributed' or privacy.unit == 'none':
    return
  if privacy.unit == 'client':
    private_run.check_shares(privacy, federation, may_share=False)
  for name, needed, got in (
    ('local_mode', 'fedsgd', config.local_mode),
    ('sampling', 'all', federation.sampling),
    ('dropout_rate', 0.0, federation.dropout_rate),
  ):
    if got != needed:
      raise InputError(
        f'Expected {name}={needed} with noise_placement=distributed, where '
        f'every client adds a share of the noise, got {name}={got}.'
      )


class First(NamedTuple):
  """What a method releases in addition to its training."""

  label: str
  share: float


def upload_budget(
  config: HypePrivacyConfig,
  federation: FederationConfig,
  data: FederatedDataset,
  label: str,
) -> Budget:
  """Of a method that is one noised sum: all of epsilon for one Gaussian event.

  A noise multiplier that is given is of training, and not used. All clients
  take part, however rounds are sampled.

  Args:
    config: what is protected, and how much is to be spent.
    federation: of the run.
    data: the clients' training records.
    label: of the release in the ledger.
  """
  found = budget(
    dataclasses.replace(config, noise_multiplier=0.0),
    dataclasses.replace(federation, sampling='all', dropout_rate=0.0),
    data,
    # All records at once are one sum, which no sampling amplifies.
    max(math.ceil(float(np.mean(data.sizes))), 1),
    epochs=0.0,
    rounds=1,
  )
  if found.protection is None:
    return found
  ledger = found.protection.plan.charged(1, label)
  return found._replace(protection=found.protection._replace(ledger=ledger))


def budget(
  config: HypePrivacyConfig,
  federation: FederationConfig,
  data: FederatedDataset,
  batch_size: int,
  epochs: float,
  rounds: int,
  *,
  first: First | None = None,
) -> Budget:
  """Noise for one method's training and for what it releases first.

  Args:
    config: what is protected, and how much is to be spent.
    federation: how clients are sampled.
    data: the clients' training records.
    batch_size: of their steps.
    epochs: passes of a client in a round; 0 for one step.
    rounds: asked for.
    first: what is released before the training; None for nothing.

  Raises:
    InputError: a value does not fit, or not one round fits the budget.
  """
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
  first_noise = 0.0
  if first is not None:
    first_noise, ledger = _charged_first(config, ledger, first)
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
    return Budget(plan, protection, first_noise)
  # Clients sample their records all the same.
  return Budget(sampling, protection, first_noise)


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


def _charged_first(
  config: HypePrivacyConfig, ledger: Ledger, first: First
) -> tuple[float, Ledger]:
  """The noise multiplier of what is released first, and the ledger with it."""
  if config.epsilon == math.inf:
    return 0.0, ledger.charge(first.label, events.non_private())
  multiplier = accounting.noise_multiplier(
    first.share * config.epsilon, ledger.delta, accountant=config.accountant
  )
  return multiplier, ledger.charge(first.label, events.gaussian(multiplier))

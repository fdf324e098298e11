"""FissionVAE: groups of clients with different kinds of images.

Chen Hu, Hanchi Ren, Jingjing Deng, Xianghua Xie, Xiaoke Ma, "FissionVAE:
Federated Non-IID Image Generation with Latent Space and Decoder
Decomposition", IJCAI 2025, arXiv 2408.17090.

Published, of what could be read (the abstract and the introduction): a plain
federated VAE does not keep one consistent latent space over groups of images
of different types, and blends their textures when decoders are averaged;
FissionVAE decouples the latent space into group-specific priors (L), gives
each group a decoder branch (D), and extends to hierarchical VAEs (H), to
decoders of different architectures, and to several ways to set the priors.

Inferred, because formulas, networks and schedules of the paper were not found:
everything that has a number or a formula here. Of each module, who shares it:

    encoder      all clients, in every variant
    decoder      all clients; with D, the clients of a group
    transition   p(lower | upper level) of H; goes with the decoder
    prior        N(mu_g, I) fixed, or learned by the clients of a group, with L

Ours: any number of groups of unequal size under partial participation, groups
found and not given (`discovery`), server optimizers, FedProx, differential
privacy.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import fields, trees, validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import averaging, modules
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from fedjax_gen.federated.modules import ModularServer, Module
from fedjax_gen.models import priors
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import Vae, fixed_prior, learnable_prior
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import averaged, modular
from fedjax_gen.types import Array, Key, Tree, Variables


class Sharing(NamedTuple):
  """What groups have for themselves.

  Attributes:
    priors: L, a prior for each group.
    decoders: D, a decoder (and transition) for each group.
    encoders: an encoder for each group as well: with `decoders`, a FedVAE of
      each group alone, which FissionVAE is compared with.
  """

  priors: bool = False
  decoders: bool = False
  encoders: bool = False


@dataclasses.dataclass(frozen=True)
class Config(averaging.Config):
  """How clients and server train, and the priors of groups."""

  beta: float = fields.non_negative(1.0, 'weight of the KL terms')
  kl_warmup_rounds: int = fields.non_negative_int(
    0,
    'Rounds over which beta grows from zero; against a lower level '
    'that is not used',
  )
  prior_strategy: str = fields.option(
    'one_hot',
    'where the means of the groups’ priors lie',
    choices=priors.STRATEGIES,
  )
  prior_distance: float = fields.option(
    4.0,
    'Mean distance between the groups’ prior means, in standard '
    'deviations; 0 for what prior_scale gives',
  )
  prior_scale: float = fields.option(
    1.0, 's of the strategy if prior_distance is 0'
  )
  prior_learnable: bool = fields.option(
    False,
    'let the clients of a group learn mean and variance of its '
    'prior, from where the strategy puts it',
  )
  prior_levels: str = fields.option(
    'top',
    'levels of a hierarchy with priors of groups; both needs '
    'lower_prior=standard',
    choices=('top', 'both'),
  )


class FissionVae(NamedTuple):
  """The algorithm, and the way back from its state to models.

  Attributes:
    algorithm: one fleet for each architecture.
    fleets: the groups of each fleet.
    models: the VAE of each group.
    variables: `(server, group) -> variables`, of one group's whole model.
  """

  algorithm: Algorithm
  fleets: tuple[tuple[int, ...], ...]
  models: tuple[Vae, ...]
  variables: Callable[[ModularServer, int], Variables]


def fissionvae(
  config: Config,
  models: Sequence[Vae],
  sharing: Sharing,
  *,
  seed: int = 0,
  plan: Plan | None = None,
  expected_cohort: Sequence[float] = (),
) -> FissionVae:
  """One VAE with parts shared by all clients and parts shared by a group.

  With nothing for groups alone, or with one group and no prior of its own, it
  is FedVAE. Groups with the same value in `models` share an
  architecture and make one fleet; all but the decoders must be alike in all.

  Guarantees:
    With a plan of records those of `descent.trainer`, of what every client
    sends; with one of clients those of `modular.private_server`, all clients
    counting alike. Priors that are fixed hold no data. The group of a client
    is taken as public. Without a plan, none.

  Args:
    config: how clients and server train; priors.
    models: the VAE of each group, G in number.
    sharing: what groups have for themselves.
    seed: of random prior means.
    plan: of differential privacy, if there is to be any.
    expected_cohort: clients of each group that a round expects, with a plan of
      clients.

  Raises:
    InputError: a field of the configuration is out of range, two exclude each
      other, decoders of different architectures are to be shared, or a model
      keeps batch statistics and there is a plan.
  """
  models = tuple(models)
  fleets = _fleets(models)
  if len(fleets) > 1 and not sharing.decoders:
    raise InputError(
      'Expected decoders for each group (D) where groups have different '
      f'architectures, got sharing={sharing}.'
    )
  means = {}
  if sharing.priors:
    means = prior_means(config, models[0], len(models), seed=seed)
  parts = _modules(config, models, fleets, sharing, means)
  shapes = [jax.eval_shape(vae.init, jax.random.key(0)) for vae in models]
  training = averaged.trainer(config, shapes, plan)
  clients = [
    _Clients(
      config,
      training,
      models[groups[0]],
      {
        name: module
        for name, module in parts.items()
        if _role(name) != 'decoder' or name == _decoder(fleets, fleet)
      },
      {} if config.prior_learnable else means,
    )
    for fleet, groups in enumerate(fleets)
  ]

  def variables(server, group):
    (fleet,) = (i for i, groups in enumerate(fleets) if group in groups)
    return clients[fleet].variables(server, group)

  server = modules.modular_server(
    parts, config.descent(), config.server_average
  )
  if plan is not None and plan.unit == 'client':
    server = modular.private_server(
      server,
      parts,
      max_norm=plan.max_norm,
      noise_multiplier=plan.noise_multiplier,
      denominators=_denominators(
        [fleet.parts for fleet in clients], fleets, expected_cohort
      ),
    )
  programs = tuple(
    ClientProgram(fleet.init, fleet.view, fleet.update) for fleet in clients
  )
  return FissionVae(Algorithm(server, programs), fleets, models, variables)


class _Clients(NamedTuple):
  """The clients of a fleet.

  Attributes:
    config: how they train.
    training: the same, as functions.
    vae: their model.
    parts: its modules by name, and who shares them.
    fixed_means: `[G, Z]` by level, of priors of groups that nobody learns.
  """

  config: Config
  training: averaging.Trainer
  vae: Vae
  parts: dict[str, Module]
  fixed_means: dict[str, Array]

  def init(self, key, info):
    first = {n: _first_copy(module, key) for n, module in self.parts.items()}
    return self.training.init(self._assembled(first, info.group))

  def view(self, server, info):
    received: dict[str, Tree] = {
      'modules': modules.view(self.parts, server, info)
    }
    if self.fixed_means:  # its group, from which the client knows its prior
      received['group'] = info.group
    if self.config.kl_warmup_rounds:
      share = (server.round + 1) / self.config.kl_warmup_rounds
      received['beta'] = self.config.beta * jnp.minimum(share, 1.0)
    return received

  def update(self, view, client, data, keys):
    variables, kept, metrics = self.training.run(
      elbo_loss(self.vae, view.get('beta', self.config.beta)),
      self._assembled(view['modules'], view.get('group')),
      client,
      data,
      keys.own,
    )
    trained = {name: variables[_role(name)] for name in self.parts}
    return trees.subtract(view['modules'], trained), kept, metrics

  def variables(self, server: ModularServer, group: int) -> Variables:
    """Of a group's whole model."""
    copies = {
      name: modules.copy_of(module, server.modules[name].deployed, group)
      for name, module in self.parts.items()
    }
    return self._assembled(copies, group)

  def _assembled(self, received, group):
    """The variables of a model, from modules as they travel."""
    variables = {_role(name): module for name, module in received.items()}
    if self.fixed_means:
      variables['prior'] = fixed_prior(trees.take(self.fixed_means, group))
    return variables


def prior_means(
  config: Config, vae: Vae, num_groups: int, *, seed: int = 0
) -> dict[str, Array]:
  """`[G, Z]` means of the groups' priors, by level that has priors of groups.

  Constants that every client can make from the configuration and the seed.

  Raises:
    InputError: see `priors.group_means`; or levels that have a conditional
      prior are to have priors of groups.
  """
  levels = [vae.top] if config.prior_levels == 'top' else list(vae.latent_sizes)
  if vae.has_transition and len(levels) > 1:
    raise InputError(
      'Expected lower_prior=standard with prior_levels=both: a level has the '
      "prior of its group or one given the other level; got 'conditional'."
    )
  try:
    return {
      level: jnp.asarray(
        priors.group_means(
          config.prior_strategy,
          num_groups,
          vae.latent_sizes[level],
          scale=config.prior_scale,
          distance=config.prior_distance,
          seed=seed,
        )
      )
      for level in levels
    }
  except InputError as error:
    raise InputError(
      f'prior_strategy, prior_distance or latent_size: {error}'
    ) from error


def fleet_datasets(
  fission: FissionVae, data: FederatedDataset
) -> list[FederatedDataset]:
  """The clients of each fleet, by their groups.

  Raises:
    InputError: a client's group has no model, or a fleet has no client.
  """
  groups = np.asarray(data.groups)
  if groups.max() >= len(fission.models):
    raise InputError(
      f'Expected groups in [0, {len(fission.models)}), one for each model, got '
      f'a client of group {groups.max()}.'
    )
  return [
    data.select(np.flatnonzero(np.isin(groups, fleet)))
    for fleet in fission.fleets
  ]


def _modules(
  config: Config,
  models: tuple[Vae, ...],
  fleets: tuple[tuple[int, ...], ...],
  sharing: Sharing,
  means: dict[str, Array],
) -> dict[str, Module]:
  """What the server learns: every module by name, and who shares it."""
  everyone = tuple(range(len(models)))

  def module(vae, name, groups):
    def init(key):
      variables = vae.init(key)[name]
      if groups is None:
        return variables
      # All start alike and are parted by their data.
      return jax.tree.map(lambda a: jnp.stack([a] * len(groups)), variables)

    return Module(init, groups)

  first = models[0]
  parts = {
    'encoder': module(first, 'encoder', everyone if sharing.encoders else None)
  }
  for fleet, groups in enumerate(fleets):
    parts[_decoder(fleets, fleet)] = module(
      models[groups[0]], 'decoder', groups if sharing.decoders else None
    )
  if first.has_transition:
    parts['transition'] = module(
      first, 'transition', everyone if sharing.decoders else None
    )
  if sharing.priors and config.prior_learnable:
    parts['prior'] = Module(lambda key: learnable_prior(means), everyone)
  return parts


def _denominators(
  own_parts: Sequence[Mapping[str, Module]],
  fleets: tuple[tuple[int, ...], ...],
  expected_cohort: Sequence[float],
) -> dict[str, Array]:
  """Clients that a round expects to send each module, of each of its copies."""
  num_groups = sum(len(groups) for groups in fleets)
  if len(expected_cohort) != num_groups:
    raise InputError(
      f'Expected expected_cohort of each of {num_groups} groups with privacy '
      f'of clients, got {len(expected_cohort)} numbers.'
    )
  for number in expected_cohort:
    validate.positive(expected_cohort=number)
  denominators: dict[str, Array] = {}
  for own, fleet in zip(own_parts, fleets, strict=True):
    for name, module in own.items():
      if module.groups is None:
        senders = sum(expected_cohort[group] for group in fleet)
        denominators[name] = denominators.get(name, jnp.zeros(())) + senders
      else:
        denominators[name] = jnp.array(
          [expected_cohort[group] for group in module.groups], jnp.float32
        )
  return denominators


def _fleets(models: tuple[Vae, ...]) -> tuple[tuple[int, ...], ...]:
  """Groups that share an architecture, in order of their first.

  Raises:
    InputError: there is no model, or modules that all share differ.
  """
  validate.positive_int(num_models=len(models))
  fleets: dict[Vae, list[int]] = {}
  for group, vae in enumerate(models):
    fleets.setdefault(vae, []).append(group)
  shapes = [
    jax.eval_shape(models[groups[0]].init, jax.random.key(0))
    for groups in fleets.values()
  ]
  for variables in shapes[1:]:
    for name in sorted({*shapes[0], *variables} - {'decoder'}):
      if trees.first_differing_leaf(shapes[0].get(name), variables.get(name)):
        raise InputError(
          f'Expected models that differ in their decoder only, got models '
          f'with another {name}.'
        )
  return tuple(tuple(groups) for groups in fleets.values())


def _decoder(fleets: tuple[tuple[int, ...], ...], fleet: int) -> str:
  """Name of a fleet's decoder among all modules."""
  return 'decoder' if len(fleets) == 1 else f'decoder_{fleet}'


def _role(name: str) -> str:
  """What a module is to its model: `decoder` for `decoder_1`."""
  return name.partition('_')[0]


def _first_copy(module: Module, key: Key) -> Tree:
  variables = module.init(key)
  return variables if module.groups is None else trees.take(variables, 0)

"""Trained models as files, usable without the code that trained them.

    model = fedjax_gen.load('runs/fedvae')
    images, labels = model.sample(10_000, seed=0)

A model is two files, `NAME.json` (what it is) and `NAME.msgpack` (its
variables, written by `flax.serialization`). Models are of several kinds: one
VAE, a VAE for each group of clients, the generator of a GAN, a hypernetwork
with codes, a generator of images from Gaussians of features. A kind is a row of
`saved_kinds.KINDS` and a function here that saves; naming, checking, reading
and sampling are common.
"""

from collections.abc import Callable, Sequence
import os
import pathlib
from typing import Any, NamedTuple

from flax import serialization
import jax
import numpy as np

from fedjax_gen import trees, validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated.class_gaussians import ClassGaussians
from fedjax_gen.models.gan import GanConfig
from fedjax_gen.models.hypernetwork import HyperVaeConfig
from fedjax_gen.models.vae import (
  DataSpec,
  Vae,
  VaeConfig,
)
from fedjax_gen.models.vtc import VtcConfig
from fedjax_gen.running import config_records, saved_files, saved_kinds
from fedjax_gen.types import Array, Key, Tree, Variables

PREFERRED = ('federated', 'L+D', 'FedHypeVAE', 'FedVTC')
"""The models that are loaded if none is named, the first that is there."""


class Group(NamedTuple):
  """A group of clients, as a model that knows groups keeps it.

  Attributes:
    name: of the group.
    share: of the training examples, in [0, 1].
    classes: labels that occur in its training examples; all labels if it has
      none or they are not known.
  """

  name: str
  share: float
  classes: tuple[int, ...]


class TrainedModel(NamedTuple):
  """A generative model with its variables.

  Attributes:
    name: of the method that trained it.
    kind: `'vae'`, `'groups'` (a VAE for each group), `'gan'`, `'hyper'` (a VAE
      that a hypernetwork makes of codes) or `'vtc'` (generators of images from
      Gaussians of features).
    config: which of that kind; of kind `'groups'` a tuple, one for each group.
    spec: shape of the data and number of classes.
    class_names: names of the classes, in label order.
    functions: the model as pure functions, a `Vae`, a `Gan`, a `HyperVae` or
      a `Vtc`; of kind `'groups'` a tuple, a `Vae` for each. In it, equal
      configurations are the same value.
    variables: its variables; of kind `'groups'` a tuple. Of a GAN the
      generator's only; of kind `'hyper'` `{'hyper', 'codes', 'weights'}`, of
      kind `'vtc'` `{'generators', 'holdings', 'means', 'stddev'}`.
    is_conditional: whether it takes labels.
    generate: `(variables, labels, groups, key) -> examples`, which `sample`
      calls once all is checked; `[n]` int32 labels, and groups in rising
      order.
    groups: of clients, in the order of their numbers; empty if the model
      knows none.
    classes: labels that it can generate; empty for all.
  """

  name: str
  kind: str
  config: Any
  spec: DataSpec
  class_names: tuple[str, ...]
  functions: Any
  variables: Any
  is_conditional: bool
  generate: Callable[[Any, np.ndarray, np.ndarray, Key], np.ndarray]
  groups: tuple[Group, ...] = ()
  classes: tuple[int, ...] = ()

  @property
  def vae(self) -> Vae:
    """The VAE that the model is.

    Raises:
      InputError: it is not one VAE.
    """
    if not isinstance(self.functions, Vae):
      raise InputError(
        f'Expected a model that is one VAE, got {self.name}, of kind '
        f'{self.kind!r}.'
      )
    return self.functions

  def sample(
    self,
    num: int,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
    group: str | int | None = None,
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws examples: latents from the prior, decoded.

    Of a model that knows groups, those of one group or of all, mixed as in
    `sample_groups`. Sample i of a group depends on the seed, the group and i
    (and its label), not on whether others are drawn beside it.

    Args:
      num: how many.
      labels: `[num]` class of each for a conditional model; if not given, the
        classes in turn, of a group those that occur in it, of a model that
        knows but some those.
      seed: same seed, same examples.
      group: name or number of a group.

    Returns:
      `[num, H, W, C]` uint8 images (or `[num, F]` float32 features) and
      their labels `[num]` int32, `None` for an unconditional model.

    Raises:
      InputError: `num` is not above zero, the labels do not fit or are of
        classes that the model does not know, or there is no such group.
    """
    validate.positive_int(num=num)
    validate.non_negative_int(seed=seed)
    if seed >= 2**31:  # JAX would cut it: two seeds, one sample
      raise InputError(f'Expected seed < 2**31, got seed={seed}.')
    if labels is not None and not self.is_conditional:
      raise InputError(
        'Expected no labels for an unconditional model, got labels.'
      )
    if self.groups or group is not None:
      groups = self.sample_groups(num, group=group)
    else:
      groups = np.zeros(num, np.int32)
    if labels is None:
      labels = self._classes_in_turn(groups)
    labels = np.asarray(labels)
    if (
      labels.shape != (num,)
      or not np.issubdtype(labels.dtype, np.integer)
      or not ((labels >= 0) & (labels < self.spec.num_classes)).all()
    ):
      raise InputError(
        f'Expected labels to be {num} whole numbers in '
        f'[0, {self.spec.num_classes}), got an array of shape '
        f'{labels.shape} and type {labels.dtype}.'
      )
    labels = labels.astype(np.int32)
    if unknown := set(labels.tolist()) - set(self._known()):
      raise InputError(
        f'Expected labels of classes that {self.name} knows '
        f'({", ".join(self.class_names[label] for label in self._known())}), '
        f'got label {min(unknown)} ({self.class_names[min(unknown)]}).'
      )
    examples = self.generate(
      self.variables, labels, groups, jax.random.key(seed)
    )
    return examples, labels if self.is_conditional else None

  def sample_groups(
    self, num: int, *, group: str | int | None = None
  ) -> np.ndarray:
    """The group of each example that `sample` draws; no seed changes it.

    Args:
      num: how many.
      group: name or number of the one group; if not given, all in the shares
        of the training examples, rounded to whole examples, the first group's
        first.

    Returns:
      `[num]` int32 numbers of groups, indices into `groups`.

    Raises:
      InputError: `num` is not above zero, there is no such group, or the
        model knows none.
    """
    validate.positive_int(num=num)
    if not self.groups:
      asked = '' if group is None else f' with group={group!r}'
      raise InputError(
        f'Expected a model that knows groups{asked}, got {self.name}, of kind '
        f'{self.kind!r}.'
      )
    if group is not None:
      return np.full(num, self._group_number(group), np.int32)
    totals = np.cumsum([group.share for group in self.groups])
    # Rounded where groups meet, not one by one: they add up to `num`.
    ends = np.rint(totals / totals[-1] * num).astype(int)
    every_group = np.arange(len(self.groups), dtype=np.int32)
    return np.repeat(every_group, np.diff(ends, prepend=0))

  def _group_number(self, group: str | int) -> int:
    """Index of a group given by name or by number.

    Raises:
      InputError: there is no such group.
    """
    names = [known.name for known in self.groups]
    if group in names:
      return names.index(str(group))
    if not isinstance(group, bool) and group in range(len(names)):
      return int(group)
    raise InputError(
      f'Expected group to be one of {", ".join(names)}, the groups of '
      f'{self.name}, or a number in [0, {len(names)}), got group={group!r}.'
    )

  def _classes_in_turn(self, groups: np.ndarray) -> np.ndarray:
    """`[n]` labels, the classes of each group in turn."""
    if not self.groups:
      return np.resize(self._known(), len(groups))
    labels = np.zeros(len(groups), np.int32)
    for number, group in enumerate(self.groups):
      rows = groups == number
      labels[rows] = np.resize(group.classes, rows.sum())
    return labels

  def _known(self) -> Sequence[int]:
    """Labels that it can generate, in rising order."""
    return self.classes or range(self.spec.num_classes)


def save_model(
  workdir: str | os.PathLike,
  name: str,
  config: VaeConfig,
  source: DataSource,
  variables: Variables,
) -> pathlib.Path:
  """Writes a trained VAE under `workdir/models`.

  Args:
    workdir: folder of the run.
    name: of the model, for instance of the method; letters, digits and
      `+-=_.`.
    config: which VAE.
    source: the data it was trained on; shape and class names are kept.
    variables: of the model.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: the variables are not of that VAE, or no file can have the
      name.
  """
  record = saved_kinds.vae_record(config, variables)
  return _save(workdir, name, 'vae', record, source, variables)


def save_groups(
  workdir: str | os.PathLike,
  name: str,
  configs: Sequence[VaeConfig],
  source: DataSource,
  variables: Sequence[Variables],
  *,
  shares: Sequence[float] | None = None,
) -> pathlib.Path:
  """Writes a VAE for each group of clients, as one model.

  A module that is the same, bit for bit, in several groups is written once.

  Args:
    workdir: folder of the run.
    name: as in `save_model`.
    configs: which VAE, for each group.
    source: the data they were trained on; shape, names of classes and groups,
      and the classes that occur in each group are kept. Where groups were
      found and not given, put them in its place first.
    variables: of the model of each group.
    shares: how much each group counts where groups are mixed, in any unit;
      by default its number of training examples.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: there are not as many configurations, variables or shares as
      groups, shares are negative or all zero, the variables are not of those
      VAEs, some VAEs take labels and some do not, or no file can have the
      name.
  """
  num_groups = len(source.group_names)
  if not num_groups or not len(configs) == len(variables) == num_groups:
    raise InputError(
      'Expected a configuration and variables for each group of the data '
      f'({", ".join(source.group_names) or "it has none"}), got '
      f'{len(configs)} and {len(variables)}.'
    )
  shares = saved_kinds.shares_of(source, shares)
  stored, owners = saved_kinds.stored_once(variables)
  groups = [
    {
      'name': group_name,
      'share': shares[number],
      'classes': saved_kinds.classes_of(source, number),
      'modules': owners[number],
      **saved_kinds.vae_record(configs[number], variables[number]),
    }
    for number, group_name in enumerate(source.group_names)
  ]
  return _save(workdir, name, 'groups', {'groups': groups}, source, stored)


def save_gan(
  workdir: str | os.PathLike,
  name: str,
  config: GanConfig,
  source: DataSource,
  variables: Variables,
) -> pathlib.Path:
  """Writes the generator of a trained GAN, all that sampling needs.

  Args:
    workdir: folder of the run.
    name: as in `save_model`.
    config: which GAN.
    source: the data it was trained on; shape and class names are kept.
    variables: of the GAN or of its generator alone.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: the variables are not of that GAN, or no file can have the
      name.
  """
  record = {'config': config_records.to_record(config)}
  stored = {
    module: tree
    for module, tree in variables.items()
    if module != 'discriminator'
  }
  return _save(workdir, name, 'gan', record, source, stored)


def save_hyper(
  workdir: str | os.PathLike,
  name: str,
  config: HyperVaeConfig,
  source: DataSource,
  hyper: Variables,
  codes: Array | np.ndarray | None = None,
  weights: Array | np.ndarray | None = None,
  mix: str = 'params',
  *,
  latent: str = 'prior',
  draw: bool = False,
) -> pathlib.Path:
  """Writes a generator of embeddings that a hypernetwork makes of codes.

  What is written is public once it is written: give codes that were fitted to
  what clients released, not the codes that clients keep.

  Args:
    workdir: folder of the run.
    name: as in `save_model`.
    config: which hypernetwork. Embeddings are sampled as the model has them,
      after its `normalise`.
    source: the data it was trained on; shape and class names are kept.
    hyper: what all share, without any encoder.
    codes: `[K, V]`; None for a model in which nothing depends on a code.
    weights: `[K]` of the codes, of which only the proportions count, or with
      mix='samples' `[C, K]`, of each class; None for equal ones.
    mix: as `meta_code.generate_mixture` takes it, as are the others.
    latent: where latents are drawn from.
    draw: draws of the likelihood, in place of its means.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: codes are missing, are not of that model or are not finite,
      weights are negative or all zero, or not one for each code, `mix` or
      `latent` is unknown, the variables are not of that model, or no file can
      have the name.
  """
  if codes is None:
    if config.uses_code:
      raise InputError(
        'Expected codes, since the model depends on them; got codes=None.'
      )
    codes = np.zeros((1, config.code_size))
  codes = np.asarray(codes, np.float32)
  if codes.ndim != 2 or not len(codes) or not np.isfinite(codes).all():
    raise InputError(
      f'Expected codes to be finite and of shape [K, {config.code_size}], got '
      f'an array of shape {list(codes.shape)}.'
    )
  weights = np.ones(len(codes)) if weights is None else weights
  weights = np.asarray(weights, np.float32)
  by_class = (source.num_classes, len(codes))
  if weights.shape not in (codes.shape[:1], by_class):
    raise InputError(
      f'Expected {len(codes)} weights, one for each code, or {list(by_class)}, '
      f'got an array of shape {list(weights.shape)}.'
    )
  validate.non_negative(weights=float(weights.min()))
  validate.positive(sum_of_weights=float(weights.sum(axis=-1).min()))
  record = {
    'config': config_records.to_record(config),
    'num_codes': len(codes),
    'weights_by_class': weights.ndim == 2,
    'mix': mix,
    'latent': latent,
    'draw': bool(draw),
  }
  stored = {'hyper': hyper, 'codes': codes, 'weights': weights}
  return _save(workdir, name, 'hyper', record, source, stored)


def save_vtc(
  workdir: str | os.PathLike,
  name: str,
  config: VtcConfig,
  source: DataSource,
  generators: Sequence[Variables],
  gaussians: ClassGaussians,
  holdings: Array | np.ndarray | None = None,
) -> pathlib.Path:
  """Writes generators of images from features, and the features of classes.

  With several generators, one of each client, an image is made by that of a
  client that holds its class, drawn in proportion to how much it holds: such a
  generator has never seen what its client lacks. A class that none holds, as
  noise of differential privacy may report one, is made by all alike.

  What is written is public once it is written: generators of single clients
  are what those clients keep.

  Args:
    workdir: folder of the run.
    name: as in `save_model`.
    config: which generator.
    source: the data it was trained on; shape and class names are kept.
    generators: variables, one for all clients or one for each.
    gaussians: latents by class; classes that they do not know are not
      generated.
    holdings: `[N, C]` examples of each class at each client, in any unit; not
      asked for with one generator.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: no class is known, holdings are missing, negative or not one
      for each generator and class, the variables are not of that generator, or
      no file can have the name.
  """
  num_generators, num_classes = len(generators), source.num_classes
  validate.positive_int(num_generators=num_generators)
  if holdings is None:
    if num_generators > 1:
      raise InputError(
        f'Expected holdings, since there are {num_generators} generators to '
        'choose from; got holdings=None.'
      )
    holdings = np.ones((1, num_classes))
  holdings = np.asarray(holdings, np.float32)
  if holdings.shape != (num_generators, num_classes):
    raise InputError(
      f'Expected holdings of shape {[num_generators, num_classes]}, got an '
      f'array of shape {list(holdings.shape)}.'
    )
  validate.non_negative(holdings=float(holdings.min()))
  known = np.flatnonzero(np.asarray(gaussians.known))
  if not len(known):
    raise InputError('Expected gaussians that know a class, got none known.')
  record = {
    'config': config_records.to_record(config),
    'feature_size': gaussians.means.shape[1],
    'num_generators': num_generators,
    'stddev_by_class': gaussians.stddev.shape[0] > 1,
    'classes': known.tolist(),
  }
  stored = {
    'generators': saved_kinds.stacked(generators),
    'holdings': np.where(holdings.any(axis=0), holdings, 1).astype(np.float32),
    'means': gaussians.means,
    'stddev': gaussians.stddev,
  }
  return _save(workdir, name, 'vtc', record, source, stored)


def load_model(
  workdir: str | os.PathLike, name: str | None = None
) -> TrainedModel:
  """Loads a trained model from a run's work directory.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    name: which model; if not given, the first of `PREFERRED` that is there,
      else the first.

  Raises:
    InputError: there is no such model, or its files are damaged.
  """
  folder = pathlib.Path(workdir) / saved_files.FOLDER
  names = saved_files.names(workdir)
  if not names:
    raise InputError(
      f'Expected a finished run with trained models in {folder}, found none.'
    )
  if name is None:
    name = preferred(names)
  if name not in names:
    raise InputError(
      f'Expected method to be one of {", ".join(names)}, the models in '
      f'{folder}, got method={name!r}.'
    )
  try:
    description = saved_files.description_of(workdir, name)
    built = _build(description)
    groups = _groups(description)
    variables = _restored(built, saved_files.state_of(workdir, name))
    differing = trees.first_differing_leaf(built.shapes, variables)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f'Expected {folder / name}.json and .msgpack to hold a trained model; '
      f'they cannot be read: {error}'
    ) from error
  if differing:
    raise InputError(
      f'Expected {folder / name}.msgpack to hold the variables that its '
      f'.json describes; {differing} differs.'
    )
  return TrainedModel(
    name,
    description['kind'],
    built.config,
    _spec(description),
    tuple(description['class_names']),
    built.functions,
    variables,
    built.is_conditional,
    built.generate,
    groups,
    built.classes,
  )


def preferred(names: Sequence[str]) -> str:
  """The first of `PREFERRED` that is among names, else the first of them."""
  return next((known for known in PREFERRED if known in names), names[0])


def _save(
  workdir: str | os.PathLike,
  name: str,
  kind: str,
  record: dict[str, Any],
  source: DataSource,
  stored: Tree,
) -> pathlib.Path:
  """Writes what is particular to a kind, `record`, and what is common.

  Raises:
    InputError: it could not be read back.
  """
  saved_files.check_name(name)
  description = {
    'kind': kind,
    **record,
    'shape': list(source.input_shape),
    'class_names': list(source.class_names),
  }
  state = serialization.to_state_dict(jax.device_get(stored))
  built = _build(description)
  _groups(description)
  try:
    variables = _restored(built, state)
    differing = trees.first_differing_leaf(built.shapes, variables)
  except (ValueError, KeyError) as error:
    differing = f'modules: {error}'
  if differing:
    raise InputError(
      f'Expected variables of the model that the configuration of {name} '
      f'describes, got others in {differing}.'
    )
  return saved_files.write(workdir, name, description, state)


def _build(description: dict[str, Any]) -> saved_kinds.Built:
  """The model that is described.

  Raises:
    InputError: its kind is not known, or a field is out of range.
  """
  validate.one_of(saved_kinds.KINDS, kind=description['kind'])
  return saved_kinds.KINDS[description['kind']](description, _spec(description))


def _restored(built: saved_kinds.Built, stored: Tree) -> Any:
  """Variables in the structure that the model has; shapes are not looked at.

  Raises:
    ValueError: names of modules or leaves differ.
  """
  return serialization.from_state_dict(built.shapes, built.unpack(stored))


def _spec(description: dict[str, Any]) -> DataSpec:
  return DataSpec(tuple(description['shape']), len(description['class_names']))


def _groups(description: dict[str, Any]) -> tuple[Group, ...]:
  """The groups of a model of any kind that has them.

  Raises:
    InputError: a share or a class is out of range.
  """
  num_classes = len(description['class_names'])
  groups = tuple(
    Group(record['name'], record['share'], tuple(record['classes']))
    for record in description.get('groups', ())
  )
  for group in groups:
    validate.fraction(share=group.share)
    if not group.classes or not set(group.classes) <= set(range(num_classes)):
      raise InputError(
        f'Expected classes of group {group.name} in [0, {num_classes}), got '
        f'classes={group.classes}.'
      )
  if groups:
    validate.positive(sum_of_shares=sum(group.share for group in groups))
  return groups

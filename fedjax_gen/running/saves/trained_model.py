"""A trained generative model as a value, and sampling from it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.tables.codec import Codec
from fedjax_gen.errors import InputError
from fedjax_gen.models.vae import DataSpec, Vae


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
    kind: a family of `models.generators`, `'groups'` (a VAE for each group),
      `'hyper'` (a VAE that a hypernetwork makes of codes) or `'vtc'`
      (generators of images from Gaussians of features).
    config: which of that kind; a tuple of a family with several, and of kind
      `'groups'`, one for each group.
    spec: shape of the data and number of classes.
    class_names: names of the classes, in label order.
    functions: the model as pure functions (`Generator.model`), a `HyperVae`
      or a `Vtc`; of kind `'groups'` a tuple, a `Vae` for each. In it, equal
      configurations are the same value.
    variables: its variables; of kind `'groups'` a tuple. Of a GAN the
      generator's only; of kind `'hyper'` `{'hyper', 'codes', 'weights'}`, of
      kind `'vtc'` `{'generators', 'holdings', 'means', 'stddev'}`.
    is_conditional: whether it takes labels.
    generate: `(variables, labels, groups, key, **options) -> examples`, which
      `sample` calls once all is checked; `[n]` int32 labels, and groups in
      rising order.
    groups: of clients, in the order of their numbers; empty if the model
      knows none.
    classes: labels that it can generate; empty for all.
    privacy: what holds of the privacy of its training data, as
      `privacy.releases.Releases.claim` has it; None if nothing does.
    codec: of series and tables, from what is generated to the units and
      columns of the data; None for other data.
    options: names of what `sample` can be asked for besides.
  """

  name: str
  kind: str
  config: Any
  spec: DataSpec
  class_names: tuple[str, ...]
  functions: Any
  variables: Any
  is_conditional: bool
  generate: Callable[..., np.ndarray]
  groups: tuple[Group, ...] = ()
  classes: tuple[int, ...] = ()
  privacy: Mapping[str, Any] | None = None
  codec: Codec | None = None
  options: tuple[str, ...] = ()

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
    **options: Any,
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws examples: latents from the prior, decoded.

    Of a model that knows groups, those of one group or of all, mixed as in
    `sample_groups`. Sample i of a group depends on the seed, the group and i
    (and its label), not on whether others are drawn with it.

    Args:
      num: how many.
      labels: `[num]` class of each for a conditional model; if not given, the
        classes in turn, of a group those that occur in it, of a model that
        knows but some those.
      seed: same seed, same examples.
      group: name or number of a group.
      **options: what else the model can be asked for, for instance the `steps`
        of a flow; by default as it was configured.

    Returns:
      `[num, H, W, C]` uint8 images, or `[num, F]` float32 features; of
      series `[num, T, C]` in their units, and of tables `[num, D]` with codes
      of categories (`columns` has their names), NaN where a value is missing.
      And their labels `[num]` int32, `None` for an unconditional model.

    Raises:
      InputError: `num` is not above zero, the labels do not fit or are of
        classes that the model does not know, there is no such group or option,
        or an option is out of range.
    """
    validate.positive_int(num=num)
    for option in options:
      validate.one_of(self.options, option=option)
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
      self.variables, labels, groups, jax.random.key(seed), **options
    )
    if self.codec is not None:
      examples = self.codec.decode(examples)
    return examples, labels if self.is_conditional else None

  def columns(
    self,
    num: int,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
    group: str | int | None = None,
  ) -> dict[str, np.ndarray]:
    """Draws rows of a table, or steps of series, as the user's columns.

    Args:
      num: how many rows, or series; the steps of each follow each other, and
        `example` and `step` count them.
      labels: as in `sample`, as are the others.
      seed: same seed, same rows.
      group: of one group.

    Returns:
      Columns by name, in the order of the data, with the class last under the
      name it had, or `label`.

    Raises:
      InputError: the model is of no table or series; as `sample`.

    Example:
      `pandas.DataFrame(model.columns(1000)).to_csv('synthetic.csv')`
    """
    if self.codec is None:
      raise InputError(
        f'Expected a model of a table or of series, got {self.name}, of '
        f'{self.spec.kind.name}.'
      )
    examples, drawn = self.sample(num, labels=labels, seed=seed, group=group)
    written = self.codec.columns(examples)
    if drawn is not None and self.spec.num_classes > 1:
      name = self.codec.schema.label_column or 'label'
      repeats = len(next(iter(written.values()))) // num
      names = np.asarray(self.class_names, object)
      written[name] = np.repeat(names[drawn], repeats)
    return written

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
    """Index of a group given by name or by number."""
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

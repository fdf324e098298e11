"""A generative model as one value, whatever its family.

Training, evaluation, galleries, saving and loading know a `Generator` and
nothing else of a model. A family makes one from its configurations; the
families are the rows of `generators.GENERATORS`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from fedjax_gen.types import Array, Key, LossFn, Phase, Variables

Adam = Callable[..., optax.GradientTransformation]
"""`(learning_rate, b1=0.9) -> optimizer`, as `federated.optimizers.adam`."""


class Generator(NamedTuple):
  """A generative model over variables by module.

  Examples are in stored form: `[n, H, W, C]` uint8 images or `[n, F]` float32
  features. Labels are `[n]` int32; a model that is not conditional ignores
  them.

  Attributes:
    init: `key -> variables`.
    loss: what training descends; phases, if the model is trained in several.
    sample: `(variables, labels, key, **options) -> examples`. Example i depends
      on the key, i and label i alone.
    conditional: whether labels are used.
    bounds: `(variables, inputs, labels, key, importance_samples) -> metrics`,
      means over held-out examples by name; None for a model without any.
    reconstruct: `(variables, inputs, labels) -> (latents, examples)`, `[n, Z]`
      latents of given examples and what they are decoded to; None for a model
      without latents of examples.
    best: metric of `bounds`, higher is better, that decides which checkpoint
      is kept as the best; None for none.
    optimizer: makes the optimizer of training from the house's Adam; None for
      Adam with the learning rate of the training.
    sampled: modules that `sample` reads, which are what is saved; None for all.
    options: names of what `sample` can be asked for by keyword.
    model: the functions of the family, such as a `Vae`, for who knows it.
  """

  init: Callable[[Key], Variables]
  loss: LossFn | Sequence[Phase]
  sample: Callable[..., np.ndarray]
  conditional: bool
  bounds: Callable[..., dict[str, float]] | None = None
  reconstruct: (
    Callable[[Variables, np.ndarray, np.ndarray], tuple[Array, Array]] | None
  ) = None
  best: str | None = None
  optimizer: Callable[[Adam], optax.GradientTransformation] | None = None
  sampled: tuple[str, ...] | None = None
  options: tuple[str, ...] = ()
  model: Any = None


class Family(NamedTuple):
  """How generators of a family are made.

  Attributes:
    model: classes of the configurations that say which model; the first is the
      family's own. Their fields are recorded with a saved model and are flags,
      so that no two classes have a field of one name.
    training: classes of those that only training reads.
    build: `(*configurations, spec) -> Generator`, one of each class, of `model`
      first. Raises InputError for a field out of range.
    title: what reports call such a model.
  """

  model: tuple[type, ...]
  training: tuple[type, ...]
  build: Callable[..., Generator]
  title: str = 'generator'

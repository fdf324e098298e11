"""The families of generators; a new family is a row of `GENERATORS`."""

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import re
from typing import Any

from fedjax_gen import fields, validate
from fedjax_gen.models import elbo, gan
from fedjax_gen.models.flows import flow, latent_flow
from fedjax_gen.models.generator import Family, Generator
from fedjax_gen.models.vae_config import DataSpec

GENERATORS: dict[str, Family] = {
  'vae': elbo.FAMILY,
  'gan': gan.FAMILY,
  'flow': flow.FAMILY,
  'latent_flow': latent_flow.FAMILY,
}


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
  """The family of the generator."""

  generator: str = fields.option(
    'vae', 'Family of the generator', choices=GENERATORS
  )


def build(name: str, configs: Iterable[Any], spec: DataSpec) -> Generator:
  """The generator that configurations ask for.

  Args:
    name: of the family, a key of `GENERATORS`.
    configs: configurations; the family takes those of its classes, or
      of classes derived from them; by default as they are made without values.
    spec: shape of the data and number of classes.

  Raises:
    InputError: the family is unknown, a field is out of range or does not fit
      the data.

  Example:
    >>> from fedjax_gen.models.vae import VaeConfig
    >>> spec = DataSpec((8, 8, 1), num_classes=10)
    >>> build('vae', [VaeConfig(channels=(4,))], spec).conditional
    True
  """
  validate.one_of(GENERATORS, generator=name)
  family = GENERATORS[name]
  given = tuple(configs)
  chosen = [_chosen(c, given) for c in (*family.model, *family.training)]
  return family.build(*chosen, spec)


def model_configs(name: str, configs: Iterable[Any]) -> list[Any]:
  """Those configurations of a family that say which model, in its order.

  Args:
    name: of the family.
    configs: as for `build`.

  Raises:
    InputError: the family is unknown.
  """
  validate.one_of(GENERATORS, generator=name)
  given = tuple(configs)
  return [_chosen(cls, given) for cls in GENERATORS[name].model]


def own_configs(*known: type) -> Any:
  """Default configurations of all families, a field each, for flags.

  Args:
    *known: classes that a program has elsewhere, which are left out.

  Returns:
    A named tuple.
  """
  configs: dict[str, Any] = {}
  for family in GENERATORS.values():
    for cls in (*family.model, *family.training):
      if cls not in known:
        name = cls.__name__.removesuffix('Config')
        configs[re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()] = cls()
  return collections.namedtuple('Families', configs)(**configs)


def _chosen(config_class: type, configs: Sequence[Any]) -> Any:
  """The fields of that class, of the first configuration that has them."""
  for config in configs:
    if isinstance(config, config_class):
      return config_class(
        **{
          field.name: getattr(config, field.name)
          for field in dataclasses.fields(config_class)
        }
      )
  return config_class()

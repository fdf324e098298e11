"""FedVTC, its ablations and what it is compared with, by name.

All train the same classifiers of the same clients, from the same start.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from fedjax_gen.algorithms import fedvtc
from fedjax_gen.errors import InputError
from fedjax_gen.federated import personal
from fedjax_gen.federated.personal import Method
from fedjax_gen.models.classifiers import Classifier
from fedjax_gen.models.vtc import Vtc

SUBJECT = 'FedVTC'

ABLATIONS: dict[str, tuple[dict[str, Any], str]] = {
  'other_scope': ({}, 'the generator averaged, if it is not, and the reverse'),
  'no_dm': (
    {'dm_weight': 0.0, 'dm_cross_entropy': 0.0},
    'without distribution matching',
  ),
  'no_kl': (
    {'kl_weight': 0.0, 'prototype_weight': 0.0},
    'without the two halves of D_KL',
  ),
  'no_reconstruction': (
    {'reconstruction_weight': 0.0},
    'without reconstruction',
  ),
  'head_only': ({'finetune_scope': 'head'}, 'fine-tuning heads alone'),
  'extractor_only': (
    {'finetune_scope': 'extractor'},
    'fine-tuning extractors alone',
  ),
  'no_finetune': ({'synthetic_per_class': 0}, 'without synthetic images'),
}
"""By name, what differs from the configuration, and in words."""


class Setting(NamedTuple):
  """What all methods are built from.

  Attributes:
    training: how clients train.
    models: the classifier of each fleet.
    vtc: the generator.
    num_clients: of each fleet.
  """

  training: personal.Config
  models: Sequence[Classifier]
  vtc: Vtc
  num_clients: Sequence[int]


def _local(setting: Setting) -> Method:
  return personal.local_only(setting.training, setting.models)


BASELINES: dict[str, tuple[Callable[[Setting], Method], str]] = {
  'local': (_local, 'every client alone'),
}
"""By name, how each is built, and in words."""


def baselines(asked: Sequence[str]) -> list[str]:
  """Names of baselines in one order; `all` and `none` are understood.

  Raises:
    InputError: there is no such baseline.
  """
  if tuple(asked) in ((), ('none',)):
    return []
  if tuple(asked) == ('all',):
    return list(BASELINES)
  return _known('baselines', asked, BASELINES)


def ablations(asked: Sequence[str]) -> list[str]:
  """Names of ablations in one order; `all` and `none` are understood.

  Raises:
    InputError: there is no such ablation.
  """
  if tuple(asked) in ((), ('none',)):
    return []
  if tuple(asked) == ('all',):
    return list(ABLATIONS)
  return _known('ablations', asked, ABLATIONS)


def ablated(config: fedvtc.Config, name: str) -> fedvtc.Config:
  """FedVTC's configuration with one thing left out or changed."""
  if name == 'other_scope':
    other = {'local': 'federated', 'federated': 'local'}[config.vtc_scope]
    return dataclasses.replace(config, vtc_scope=other)
  changes, _ = ABLATIONS[name]
  return dataclasses.replace(config, **changes)


def row(ablation: str) -> str:
  """The name of an ablation's row in results."""
  return f'{SUBJECT}-{ablation}'


def in_words(name: str) -> str:
  """What a row of the results is."""
  if name == SUBJECT:
    return 'clients of any architecture share statistics and a generator’s use'
  table: Mapping[str, tuple[Any, str]] = BASELINES
  if name.startswith(f'{SUBJECT}-'):
    table, name = ABLATIONS, name.removeprefix(f'{SUBJECT}-')
  return table[name][1]


def build_methods(
  setting: Setting,
  config: fedvtc.Config,
  *,
  with_baselines: Sequence[str],
  with_ablations: Sequence[str],
) -> dict[str, Method]:
  """The trainings by name, FedVTC first.

  Raises:
    InputError: a configuration does not fit the models.
  """

  def of_fedvtc(config):
    return fedvtc.fedvtc(
      config,
      setting.training,
      setting.models,
      setting.num_clients,
      setting.vtc,
    )

  methods = {SUBJECT: of_fedvtc(config)}
  for name in ablations(with_ablations):
    methods[row(name)] = of_fedvtc(ablated(config, name))
  for name in baselines(with_baselines):
    build, _ = BASELINES[name]
    methods[name] = build(setting)
  return methods


def _known(
  flag: str, asked: Sequence[str], table: Mapping[str, Any]
) -> list[str]:
  for name in asked:
    if name not in table:
      raise InputError(
        f'Expected {flag} to be all, none or some of {", ".join(table)}, got '
        f'{flag}={name!r}.'
      )
  if len(set(asked)) < len(asked):
    raise InputError(
      f'Expected each of {flag} once, got {flag}={",".join(asked)}.'
    )
  return [name for name in table if name in asked]

"""Writing trained models of each kind; `saved` reads them.

A generator of any family is written by `save_generator`. Another kind has a
function here, which checks what is particular to it, and one in `saved_kinds`,
which reads.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics.class_gaussians import ClassGaussians
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.models import generators
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig
from fedjax_gen.models.vae import VaeConfig
from fedjax_gen.models.vtc import VtcConfig
from fedjax_gen.running.saves import saved, saved_kinds
from fedjax_gen.running.storage import config_records
from fedjax_gen.types import Array, Variables


def save_generator(
  workdir: str | os.PathLike,
  name: str,
  family: str,
  configs: Sequence[Any],
  source: DataSource,
  variables: Variables,
) -> pathlib.Path:
  """Writes a trained generator under `workdir/models`: all that it samples by.

  Args:
    workdir: folder of the run.
    name: of the model, for instance of the method; letters, digits and
      `+-=_.`.
    family: of the generator, a key of `generators.GENERATORS`.
    configs: which model, as `generators.build` takes them.
    source: the data it was trained on; shape and class names are kept.
    variables: of the model; those that sampling does not read are left out.

  Returns:
    The path of the description, `workdir/models/NAME.json`.

  Raises:
    InputError: the family is unknown, the variables are not of that model, or
      no file can have the name.
  """
  spec = source.spec
  sampled = generators.build(family, configs, spec).sampled
  stored = {
    module: tree
    for module, tree in variables.items()
    if sampled is None or module in sampled
  }
  record = saved_kinds.generator_record(family, configs, variables)
  return saved.write(workdir, name, family, record, source, stored)


def save_model(
  workdir: str | os.PathLike,
  name: str,
  config: VaeConfig,
  source: DataSource,
  variables: Variables,
) -> pathlib.Path:
  """Writes a trained VAE; see `save_generator`."""
  return save_generator(workdir, name, 'vae', [config], source, variables)


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
    name: as in `save_generator`.
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
      **saved_kinds.generator_record(
        'vae', [configs[number]], variables[number]
      ),
    }
    for number, group_name in enumerate(source.group_names)
  ]
  return saved.write(
    workdir, name, 'groups', {'groups': groups}, source, stored
  )


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
    name: as in `save_generator`.
    config: which hypernetwork. Embeddings are sampled as the model has them,
      after its `normalise`.
    source: the data it was trained on; shape and class names are kept.
    hyper: what all share, without any encoder.
    codes: `[K, V]`; None for a model in which nothing depends on a code.
    weights: `[K]` of the codes; only their proportions count, or with
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
  return saved.write(workdir, name, 'hyper', record, source, stored)


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
    name: as in `save_generator`.
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
  return saved.write(workdir, name, 'vtc', record, source, stored)


def save_gaussians(
  workdir: str | os.PathLike,
  name: str,
  source: DataSource,
  gaussians: CorrelatedGaussians,
) -> pathlib.Path:
  """Writes Gaussians of features by class; features are sampled from them.

  Args:
    workdir: folder of the run.
    name: as in `save_generator`.
    source: the data that they are of; shape and class names are kept.
    gaussians: by class. Classes that they do not know are not generated, but
      all are if none is known.

  Returns:
    The path of the description, `workdir/models/NAME.json`.
  """
  if not all(np.isfinite(np.asarray(leaf)).all() for leaf in gaussians):
    raise InputError('Expected Gaussians of finite numbers, got others.')
  factors = np.asarray(gaussians.factors, np.float32)
  record = {
    'num_factors': len(factors),
    'correlated': factors.ndim == 3,
    'classes': _known(gaussians.known),
  }
  stored = {
    'counts': np.asarray(gaussians.counts, np.float32),
    'means': np.asarray(gaussians.means, np.float32),
    'factors': factors,
  }
  return saved.write(workdir, name, 'gaussians', record, source, stored)


def save_feature_generator(
  workdir: str | os.PathLike,
  name: str,
  source: DataSource,
  variables: Variables,
  *,
  noise_size: int,
  hidden_size: int,
  known: np.ndarray,
) -> pathlib.Path:
  """Writes a generator of features by class, with Gaussian noise.

  Args:
    workdir: folder of the run.
    name: as in `save_generator`.
    source: the data that it is of; shape and class names are kept.
    variables: of the generator.
    noise_size: as `build_feature_generator` takes it.
    hidden_size: likewise.
    known: `[C]` bool, classes to generate; all if none is.

  Returns:
    The path of the description, `workdir/models/NAME.json`.
  """
  record = {
    'noise_size': noise_size,
    'hidden_size': hidden_size,
    'classes': _known(known),
  }
  return saved.write(workdir, name, 'features', record, source, variables)


def _known(known: Array | np.ndarray) -> list[int]:
  """Labels that are known, or all."""
  known = np.asarray(known)
  return np.flatnonzero(known if known.any() else ~known).tolist()

"""Kinds of saved models: what each stores, and how it is built again.

A family of generators (`models.generators`) is a kind. Any other is a function
and a row here, and a function in `saving` that writes it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees, validate
from fedjax_gen.data.sources import DataSource
from fedjax_gen.errors import InputError
from fedjax_gen.federated.statistics import correlated_gaussians
from fedjax_gen.federated.statistics.class_gaussians import ClassGaussians
from fedjax_gen.federated.statistics.correlated_gaussians import (
  CorrelatedGaussians,
)
from fedjax_gen.models import elbo, generators
from fedjax_gen.models.classification.classifiers import to_pixels
from fedjax_gen.models.classification.feature_generator import (
  build_feature_generator,
)
from fedjax_gen.models.generator import Family
from fedjax_gen.models.generators import GENERATORS
from fedjax_gen.models.hyper import meta_code
from fedjax_gen.models.hyper.hypernetwork import HyperVaeConfig, build_hyper_vae
from fedjax_gen.models.vae import (
  DataSpec,
  Vae,
  VaeConfig,
  build_vae,
  fixed_prior,
  learnable_prior,
)
from fedjax_gen.models.vtc import VtcConfig, build_vtc
from fedjax_gen.running.storage import config_records
from fedjax_gen.types import Array, Tree, Variables


class Built(NamedTuple):
  """A model as its description says, without its variables.

  Attributes:
    config, functions, is_conditional, generate: as in `TrainedModel`.
    shapes: of the variables, in their structure.
    unpack: from what is stored to the state dict of the variables, where
      they are stored in another form.
    classes: labels that it can generate, as in `TrainedModel`.
    options: names of what `generate` can be asked for by keyword.
  """

  config: Any
  functions: Any
  is_conditional: bool
  generate: Callable[..., np.ndarray]
  shapes: Tree
  unpack: Callable[[Tree], Tree] = lambda stored: stored
  classes: tuple[int, ...] = ()
  options: tuple[str, ...] = ()


def _generator(description: dict[str, Any], spec: DataSpec) -> Built:
  """A generator of any family."""
  name = description['kind']
  configs = _configs(GENERATORS[name], description['config'])
  generator = generators.build(name, configs, spec)

  def generate(variables, labels, groups, key, **options):
    del groups
    return generator.sample(variables, labels, key, **options)

  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  if generator.sampled is not None:
    shapes = {module: shapes[module] for module in generator.sampled}
  if isinstance(generator.model, Vae):
    shapes = _with_prior(shapes, generator.model, description)
  return Built(
    configs[0] if len(configs) == 1 else tuple(configs),
    generator.model,
    generator.conditional,
    generate,
    shapes,
    options=generator.options,
  )


def _configs(family: Family, record: dict[str, Any]) -> list[Any]:
  """Configurations of a model; their fields have one record.

  Raises:
    InputError: see `config_records.from_record`.
  """
  rest = dict(record)
  configs: list[Any] = []
  for cls in family.model[1:]:
    names = {field.name for field in dataclasses.fields(cls)} & set(rest)
    own = {name: rest.pop(name) for name in names}
    configs.append(config_records.from_record(cls, own))
  # The first is left with what none knows, which it refuses.
  return [config_records.from_record(family.model[0], rest), *configs]


def _vae_of_each_group(description: dict[str, Any], spec: DataSpec) -> Built:
  """A VAE for each group; equal modules are stored once."""
  records = description['groups']
  validate.positive_int(num_groups=len(records))
  configs = tuple(
    config_records.from_record(VaeConfig, record['config'])
    for record in records
  )
  # One value for equal configurations: what JAX compiled serves all of them.
  built = {config: build_vae(config, spec) for config in configs}
  vaes = tuple(built[config] for config in configs)
  if len({vae.conditional for vae in vaes}) > 1:
    raise InputError(
      'Expected VAEs that all take labels or all do not, got '
      f'conditional={[vae.conditional for vae in vaes]}.'
    )

  def generate(variables, labels, groups, key):
    return np.concatenate(
      [
        elbo.generate(
          vaes[group],
          variables[group],
          jnp.asarray(labels[groups == group]),
          # Groups that share a decoder would else draw the same images.
          jax.random.fold_in(key, group),
        )
        for group in np.unique(groups).tolist()
      ]
    )

  def unpack(stored):
    return {
      str(number): {
        module: stored[module][str(owner)]
        for module, owner in record['modules'].items()
      }
      for number, record in enumerate(records)
    }

  shapes = tuple(
    _vae_shapes(vae, record) for vae, record in zip(vaes, records, strict=True)
  )
  return Built(configs, vaes, vaes[0].conditional, generate, shapes, unpack)


def _hyper(description: dict[str, Any], spec: DataSpec) -> Built:
  """A hypernetwork, and the codes that it turns into a generator."""
  config = config_records.from_record(HyperVaeConfig, description['config'])
  model = build_hyper_vae(config, spec)
  mix, latent, draw = (description[name] for name in ('mix', 'latent', 'draw'))
  num_codes = description['num_codes']
  weights: tuple[int, ...] = (num_codes,)
  if description['weights_by_class']:
    weights = (spec.num_classes, num_codes)
  validate.one_of(meta_code.MIXES, mix=mix)
  validate.one_of(meta_code.LATENTS, latent=latent)
  validate.positive_int(num_codes=num_codes)

  def generate(variables, labels, groups, key):
    del groups
    embeddings = meta_code.generate_mixture(
      model,
      variables['hyper'],
      variables['codes'],
      variables['weights'],
      labels,
      key,
      mix,
      latent,
      draw=draw,
    )
    return np.asarray(embeddings)

  shapes = {
    'hyper': jax.eval_shape(model.init, jax.random.key(0)),
    'codes': jax.ShapeDtypeStruct((num_codes, config.code_size), np.float32),
    'weights': jax.ShapeDtypeStruct(weights, np.float32),
  }
  return Built(config, model, True, generate, shapes)


def _vtc(description: dict[str, Any], spec: DataSpec) -> Built:
  """Gaussians of features by class, and generators of images from them."""
  config = config_records.from_record(VtcConfig, description['config'])
  num, size = (description[n] for n in ('num_generators', 'feature_size'))
  classes = _classes(description, spec)
  validate.positive_int(num_generators=num, feature_size=size)
  vtc = build_vtc(config, size, spec)

  def generate(variables, labels, groups, key):
    del groups
    return np.asarray(
      _images_of_classes(vtc.decode, variables, jnp.asarray(labels), key)
    )

  rows = spec.num_classes if description['stddev_by_class'] else 1
  generator = jax.eval_shape(vtc.init, jax.random.key(0))
  shapes = {
    'generators': stacked_shapes(generator, num),
    'holdings': jax.ShapeDtypeStruct((num, spec.num_classes), np.float32),
    'means': jax.ShapeDtypeStruct((spec.num_classes, size), np.float32),
    'stddev': jax.ShapeDtypeStruct((rows, size), np.float32),
  }
  return Built(config, vtc, True, generate, shapes, classes=classes)


def _gaussians(description: dict[str, Any], spec: DataSpec) -> Built:
  """Gaussians of features by class."""
  num, classes = description['num_factors'], _classes(description, spec)
  [size] = spec.shape
  validate.positive_int(num_factors=num)

  def generate(variables, labels, groups, key):
    del groups
    known = jnp.isin(jnp.arange(spec.num_classes), jnp.asarray(classes))
    gaussians = CorrelatedGaussians(known, **variables)
    return np.asarray(correlated_gaussians.sample(gaussians, labels, key))

  sizes = {
    'counts': (spec.num_classes,),
    'means': (spec.num_classes, size),
    'factors': (num, size, size) if description['correlated'] else (num, size),
  }
  shapes = {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in sizes.items()
  }
  return Built(
    None, CorrelatedGaussians, True, generate, shapes, classes=classes
  )


def _features(description: dict[str, Any], spec: DataSpec) -> Built:
  """A generator of features by class."""
  [size] = spec.shape
  generator = build_feature_generator(
    spec.num_classes,
    size,
    description['noise_size'],
    description['hidden_size'],
    'gaussian',
  )

  def generate(variables, labels, groups, key):
    del groups
    return np.asarray(generator.sample_each(variables, labels, key))

  shapes = jax.eval_shape(generator.init, jax.random.key(0))
  classes = _classes(description, spec)
  return Built(None, generator, True, generate, shapes, classes=classes)


def _classes(description: dict[str, Any], spec: DataSpec) -> tuple[int, ...]:
  """Labels that a model generates."""
  classes = tuple(description['classes'])
  if not classes or not set(classes) <= set(range(spec.num_classes)):
    raise InputError(
      f'Expected classes in [0, {spec.num_classes}), got classes={classes}.'
    )
  return classes


_OTHERS: dict[str, Callable[[dict[str, Any], DataSpec], Built]] = {
  'groups': _vae_of_each_group,
  'hyper': _hyper,
  'vtc': _vtc,
  'gaussians': _gaussians,
  'features': _features,
}


def build(description: dict[str, Any], spec: DataSpec) -> Built:
  """The model that is described: of a family, or of another kind.

  Raises:
    InputError: its kind is not known, or a field is out of range.
  """
  kinds = dict.fromkeys(GENERATORS, _generator) | _OTHERS
  validate.one_of(kinds, kind=description['kind'])
  return kinds[description['kind']](description, spec)


def generator_record(
  name: str, configs: Sequence[Any], variables: Variables
) -> dict[str, Any]:
  """What a generator's shapes follow from; `_generator` reads it.

  Args:
    name: of its family.
    configs: as `generators.build` takes them.
    variables: of the model.
  """
  record: dict[str, Any] = {}
  for config in generators.model_configs(name, configs):
    record |= config_records.to_record(config)
  prior = variables.get('prior', {})
  modules = {collection: sorted(prior[collection]) for collection in prior}
  return {'config': record} | ({'prior': modules} if modules else {})


def stored_once(
  variables: Sequence[Variables],
) -> tuple[Tree, list[dict[str, int]]]:
  """Trees by module and group, and for each group which tree is its own.

  Equal trees are kept for the first group that has them.
  """
  stored: dict[str, dict[str, Tree]] = {}
  owners = []
  first: dict[tuple[str, bytes], int] = {}
  for number, modules in enumerate(jax.device_get(list(variables))):
    owner = {}
    for name, module in modules.items():
      state = serialization.to_state_dict(module)
      blob = serialization.msgpack_serialize(state)
      content = (name, hashlib.sha256(blob).digest())
      owner[name] = first.setdefault(content, number)
      if owner[name] == number:
        stored.setdefault(name, {})[str(number)] = state
    owners.append(owner)
  return stored, owners


def stacked(variables: Sequence[Variables]) -> Tree:
  """Trees of one structure as one, with a leading axis."""
  variables = jax.device_get(list(variables))
  for other in variables[1:]:
    if differing := trees.first_differing_leaf(variables[0], other):
      raise InputError(
        f'Expected variables of one model, got others in {differing}.'
      )
  return jax.tree.map(lambda *leaves: np.stack(leaves), *variables)


def stacked_shapes(shapes: Tree, num: int) -> Tree:
  """Shapes of that many trees as one, with a leading axis."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((num, *leaf.shape), leaf.dtype), shapes
  )


def shares_of(
  source: DataSource, shares: Sequence[float] | None
) -> list[float]:
  """Shares of the groups that sum to one."""
  num_groups = len(source.group_names)
  if shares is None:
    if source.train.groups is None:
      raise InputError(
        'Expected shares, since the training examples have no groups to be '
        'counted; got shares=None.'
      )
    shares = np.bincount(source.train.groups, minlength=num_groups).tolist()
  if len(shares) != num_groups:
    raise InputError(
      f'Expected {num_groups} shares, one for each group, got shares={shares}.'
    )
  for share in shares:
    validate.non_negative(shares=share)
  validate.positive(sum_of_shares=sum(shares))
  return [float(share / sum(shares)) for share in shares]


def classes_of(source: DataSource, group: int) -> list[int]:
  """Labels that occur in a group's training examples, else all."""
  groups = source.train.groups
  if groups is not None and (groups == group).any():
    return np.unique(source.train.labels[groups == group]).tolist()
  return list(range(source.num_classes))


def _vae_shapes(vae: Vae, record: dict[str, Any]) -> Variables:
  """Shapes of a VAE's variables, its prior's included."""
  return _with_prior(jax.eval_shape(vae.init, jax.random.key(0)), vae, record)


def _with_prior(
  shapes: Variables, vae: Vae, record: dict[str, Any]
) -> Variables:
  """Shapes with those of the module that `init` of a VAE does not make."""
  make = {'constants': fixed_prior, 'params': learnable_prior}
  # Most models, and files of the first version, say nothing of priors.
  for collection, levels in record.get('prior', {}).items():
    means: dict[str, Array] = {
      level: jnp.zeros(vae.latent_sizes[level]) for level in levels
    }
    module = jax.eval_shape(make[collection], means)
    shapes['prior'] = shapes.get('prior', {}) | module
  return shapes


@functools.partial(jax.jit, static_argnums=0)
def _images_of_classes(decode, variables, labels, key):
  """`[n, H, W, C]` uint8; image i depends on the key, i and its label alone."""
  generators, holdings = variables['generators'], variables['holdings']
  # Every class: labels of those that are not known were refused.
  gaussians = ClassGaussians(
    jnp.ones(len(variables['means']), bool),
    variables['means'],
    variables['stddev'],
  )
  is_shared = len(holdings) == 1

  def one(example):
    label, index = example
    holder_key, latent_key = jax.random.split(jax.random.fold_in(key, index))
    holder: Array | int = 0
    if not is_shared:
      holder = jax.random.categorical(holder_key, jnp.log(holdings[:, label]))
    latent = gaussians.sample(label[None], latent_key)
    return to_pixels(decode(trees.take(generators, holder), latent))[0]

  # Mapped at once, every image would have a copy of its holder's generator.
  at_once = 500 if is_shared else None
  index = jnp.arange(len(labels))
  return jax.lax.map(one, (labels, index), batch_size=at_once)

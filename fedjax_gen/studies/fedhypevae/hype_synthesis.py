"""Synthetic embeddings from what a trained generator shares.

FedHypeVAE makes them from one neutral code, fitted to class moments that
clients release with noise (eq. 11), from one such code for each class, or from
the codes of all clients, each for the classes that it holds.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import fields, keys
from fedjax_gen.errors import InputError
from fedjax_gen.federated import blocks
from fedjax_gen.federated.blocks import Block
from fedjax_gen.models.hyper import hypernetwork, meta_code
from fedjax_gen.models.hyper.hypernetwork import HyperVae
from fedjax_gen.models.hyper.meta_code import ClassMoments, MetaConfig
from fedjax_gen.privacy.one_upload import class_moments
from fedjax_gen.privacy.plan import PrivacyConfig
from fedjax_gen.privacy.secret_keys import Secrets
from fedjax_gen.running.engine import Engine
from fedjax_gen.studies import options
from fedjax_gen.studies.fedhypevae.hype_methods import HypeMethod
from fedjax_gen.studies.fedhypevae.hype_uploads import Fitted
from fedjax_gen.types import Array, Key, Tree

CODES = ('meta', 'meta_by_class', 'clients')


@dataclasses.dataclass(frozen=True)
class SynthesisConfig(fields.Configuration):
  """How synthetic data are made."""

  codes: tuple[str, ...] = fields.option(
    ('meta', 'clients'),
    'Codes that make FedHypeVAE’s synthetic data, one row of the results '
    'each: meta, one neutral code, fitted to noised class moments '
    '(published); meta_by_class, one such code for each class; clients, the '
    'codes of the clients, which are then published, each in proportion to '
    'its noised count of the class',
  )
  synthetic_per_class: int = fields.positive_int(
    500, 'synthetic examples of each class'
  )
  draw: bool = fields.option(
    False, 'synthetic examples are draws of p(x | z, y) instead of means'
  )

  def __post_init__(self):
    super().__post_init__()
    options.each_once(CODES, codes=self.codes)


class Synthetic(NamedTuple):
  """What a generator shares.

  Attributes:
    method: of the training it comes from.
    inputs: `[n, F]` float32.
    labels: `[n]` int32.
    hyper: the hypernetwork that made it; None of a GAN.
    codes: `[K, V]` that it was made from, or None.
    weights: `[C, K]` of the codes in each class, or None.
    fitted: of a method of one upload, what was made of it; otherwise None.
  """

  method: str
  inputs: np.ndarray
  labels: np.ndarray
  hyper: Tree | None
  codes: Array | None
  weights: Array | None
  fitted: Fitted | None = None


def permitted(
  config: SynthesisConfig, privacy: PrivacyConfig
) -> tuple[SynthesisConfig, list[str]]:
  """The synthesis without what would publish protected codes.

  Returns:
    The configuration; and a note if it is not the one asked for.

  Raises:
    InputError: nothing is left.
  """
  if 'clients' not in config.codes or privacy.privacy != 'client':
    return config, []
  codes = tuple(kind for kind in config.codes if kind != 'clients')
  if not codes:
    raise InputError(
      'Expected codes=meta or meta_by_class with privacy=client, got '
      'codes=clients: there codes are protected only as long as they stay '
      'with the clients.'
    )
  return dataclasses.replace(config, codes=codes), [
    'codes=clients is left out: with privacy=client codes are protected only '
    'as long as they stay with the clients'
  ]


def rows_of(
  methods: Mapping[str, HypeMethod], config: SynthesisConfig
) -> dict[str, str]:
  """By row of the results the method that shares its synthetic data.

  A generator has one row, under its own name; FedHypeVAE one for each of
  `config.codes`: the first has its name and the others add theirs.
  """
  rows = {}
  for name, method in methods.items():
    if method.model is None:
      continue
    rows[name] = name
    if isinstance(method.model, HyperVae) and method.model.config.uses_code:
      rows |= {f'{name}-{kind}': name for kind in config.codes[1:]}
  return rows


def synthesise(
  methods: Mapping[str, HypeMethod],
  engine_of: Callable[[str, HypeMethod], Engine],
  states: Mapping[str, Any],
  meta: MetaConfig,
  config: SynthesisConfig,
  seed: int,
  secrets: Secrets | None = None,
) -> tuple[dict[str, Synthetic], np.ndarray | None]:
  """What all generators share, as many examples of each class as asked for.

  Args:
    methods: what was trained, by name.
    engine_of: a method's clients, by its name and itself.
    states: after training, by name.
    meta: how neutral codes are fitted.
    config: of what synthetic data are made.
    seed: of draws that hold no data.
    secrets: of a private run, for noise on what is released here.

  Returns:
    By row, see `rows_of`, what it shares; and `[N, V]` codes of FedHypeVAE's
    clients, if it was trained and has codes.
  """
  synthetic: dict[str, Synthetic] = {}
  codes = None
  for name, method in methods.items():
    if method.model is None:
      continue
    engine, state = engine_of(name, method), states[name]
    noise_key = secrets and secrets.key(name, 'class moments')
    synthetic |= of_method(
      name, method, engine, state, meta, config, seed, noise_key
    )
    if name == 'FedHypeVAE' and method.model.config.uses_code:
      codes = np.asarray(client_codes(method, engine, state))
  return synthetic, codes


def of_method(
  name: str,
  method: HypeMethod,
  engine: Engine,
  state: Any,
  meta: MetaConfig,
  config: SynthesisConfig,
  seed: int,
  noise_key: Key | None,
) -> dict[str, Synthetic]:
  """The rows of one generator; see `synthesise`.

  Clients are asked, by the engine, for class moments where the method has no
  `gaussians`, and for codes where `config.codes` has `clients`.
  """
  if method.is_one_upload:
    return {name: _of_upload(name, method, state, config, seed)}
  num_classes = method.model.spec.num_classes
  labels = np.tile(
    np.arange(num_classes, dtype=np.int32), config.synthetic_per_class
  )
  code_key, draw_key = jax.random.split(keys.derive(seed, 'synthesis'))
  if name == 'DP-CGAN':
    made = jax.jit(method.model.generate)(
      method.trained(state), jnp.asarray(labels), draw_key
    )
    return {name: Synthetic(name, np.asarray(made), labels, None, None, None)}
  hyper = hyper_of(method, state, seed)
  model = method.model
  if not model.config.uses_code:
    personal = model.personalise(hyper, None)
    made = hypernetwork.generate(
      model, hyper, personal, jnp.asarray(labels), draw_key, draw=config.draw
    )
    return {name: Synthetic(name, np.asarray(made), labels, hyper, None, None)}
  rows: dict[str, Synthetic] = {}
  choices = codes_of(
    method, engine, state, hyper, meta, config, code_key, noise_key
  )
  for kind, (codes, weights) in choices.items():
    made = meta_code.generate_mixture(
      model,
      hyper,
      codes,
      weights,
      jnp.asarray(labels),
      draw_key,
      'samples',
      draw=config.draw,
    )
    row = f'{name}-{kind}' if rows else name
    rows[row] = Synthetic(name, np.asarray(made), labels, hyper, codes, weights)
  return rows


def _of_upload(
  name: str, method: HypeMethod, state: Any, config: SynthesisConfig, seed: int
) -> Synthetic:
  """What is made of the one sum that clients sent; of the known classes."""
  upload = method.model
  fit_key, draw_key = jax.random.split(keys.derive(seed, 'synthesis'))
  fitted = upload.fit(method.trained(state), upload.stddev, fit_key)
  classes = fitted.classes().astype(np.int32)
  labels = np.tile(classes, config.synthetic_per_class)
  made = np.asarray(fitted.sample(jnp.asarray(labels), draw_key))
  return Synthetic(name, made, labels, None, None, None, fitted)


def hyper_of(method: HypeMethod, state: Any, seed: int) -> Tree:
  """The hypernetwork, from a server that may hold codes as well."""
  variables = method.trained(state)
  if 'hyper' not in variables:
    return variables
  base = method.model.init(jax.random.key(seed))['base']
  return {**variables['hyper'], 'base': base}


def codes_of(
  method: HypeMethod,
  engine: Engine,
  state: Any,
  hyper: Tree,
  meta: MetaConfig,
  config: SynthesisConfig,
  key: Key,
  noise_key: Key | None = None,
) -> dict[str, tuple[Array, Any]]:
  """Codes `[K, V]` that synthetic data are made of, and weights `[C, K]`.

  All from one release of class moments, for which the budget has a share, or
  from the Gaussians that the training started from. The noise of the moments is
  drawn from `noise_key`, which is secret in a private run.
  """
  model = method.model
  num_classes = model.spec.num_classes
  public_key, fit_key = jax.random.split(key)
  noise_key = public_key if noise_key is None else noise_key
  held: Any = None
  if method.gaussians is not None:
    # Nothing more is released: who holds what is not known, and all are alike.
    moments = ClassMoments(
      jnp.asarray(method.gaussians.counts),
      jnp.asarray(method.gaussians.means),
      method.gaussians.variances(),
    )
    if 'clients' in config.codes:
      held = jnp.ones((num_classes, len(client_codes(method, engine, state))))
  else:
    everyone = engine.blocks(state, 0, kept=False)
    if 'clients' in config.codes:
      moments, held = _moments_and_holdings(method, everyone, noise_key)
    else:
      moments = _moments(method, everyone, noise_key)

  def fitted(counts):
    return meta_code.fit_code(
      model, hyper, moments._replace(counts=counts), fit_key, meta
    )[0]

  made = {}
  for kind in config.codes:
    if kind == 'clients':
      made[kind] = client_codes(method, engine, state), held
    elif kind == 'meta':
      code = fitted(moments.counts)
      made[kind] = code[None], jnp.ones((num_classes, 1))
    else:
      codes = [fitted(counts) for counts in jnp.diag(moments.counts)]
      made[kind] = jnp.stack(codes), jnp.eye(num_classes)
  return made


def _moments_and_holdings(
  method: HypeMethod, everyone: Iterable[Block], key: Array
) -> tuple[ClassMoments, Array]:
  """Noised moments, and `[C, N]` how much of a class each client holds.

  Classes that do not stand out from the noise are unknown, and so are what a
  client holds within the noise of its own counts.
  """
  noise_multiplier = method.budget.first_noise
  by_client = blocks.joined(
    lambda block: class_moments.class_sums_by_client(
      key,
      block.data,
      method.model.spec.num_classes,
      noise_multiplier=noise_multiplier,
      unit=_unit(method),
      rows=block.infos.row,
    ),
    everyone,
  )
  by_client = jax.tree.map(jnp.asarray, by_client)
  least = class_moments.least_count(noise_multiplier, 1)
  counts = by_client.counts
  held = jnp.where(counts >= least, counts, 0.0).T
  # A class that noise has left to nobody is everybody's.
  nobody = held.sum(axis=1, keepdims=True) == 0
  sums = jax.tree.map(lambda leaf: leaf.sum(axis=0), by_client)
  least = class_moments.least_count(noise_multiplier, len(counts))
  moments = ClassMoments(*sums.moments(least))
  return moments, jnp.where(nobody, 1.0, held)


def _moments(
  method: HypeMethod, everyone: Iterable[Block], key: Array
) -> ClassMoments:
  """Noised class moments over all clients; see `_moments_and_holdings`."""
  protection = method.protection
  noise_multiplier = method.budget.first_noise
  share = protection.plan.share if protection else 1.0
  sums: Any = None
  num_clients = 0
  for block in everyone:
    exact = block.exact()
    sums = class_moments.class_sums(
      key,
      exact.data,
      method.model.spec.num_classes,
      noise_multiplier=noise_multiplier,
      unit=_unit(method),
      share=share,
      rows=exact.infos.row,
      before=sums,
    )
    num_clients += exact.num
  least = class_moments.least_count(noise_multiplier, num_clients, share)
  return ClassMoments(*sums.moments(least))


def _unit(method: HypeMethod) -> str:
  """What class moments protect."""
  protection = method.protection
  is_client = protection and protection.plan.unit == 'client'
  return 'client' if is_client else 'record'


def client_codes(method: HypeMethod, engine: Engine, state: Any) -> Array:
  """`[N, V]` codes of all clients."""
  variables = method.trained(state)
  if 'codes' in variables:
    return variables['codes']
  codes = engine.client_values(state, lambda kept: kept.own['code'])
  return jnp.asarray(codes)

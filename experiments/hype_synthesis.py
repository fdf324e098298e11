"""Synthetic embeddings from what a trained generator shares.

Of FedHypeVAE: from one neutral code, fitted to class moments that clients
release with noise (eq. 11), from one such code for each class, or from the
codes of all clients, each for the classes it holds.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hype_methods import Method
from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.models import hypernetwork, meta_code
from fedjax_gen.models.meta_code import ClassMoments, MetaConfig
from fedjax_gen.privacy import class_moments
from fedjax_gen.types import Array, Tree

CODES = ('meta', 'meta_by_class', 'clients')


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
  """Of what the synthetic data are made.

  Raises:
    InputError: a value is out of range.
  """

  codes: str = dataclasses.field(
    default='meta',
    metadata={
      'choices': CODES,
      'help': 'Whose decoders make FedHypeVAE’s synthetic data: that of one '
      'neutral code, fitted to noised class moments (published), those of such '
      'a code for each class, or those of the clients, each in proportion to '
      'its noised number of the class, for which codes are published',
    },
  )
  synthetic_per_class: int = dataclasses.field(
    default=500, metadata={'help': 'synthetic examples of each class'}
  )
  draw: bool = dataclasses.field(
    default=False,
    metadata={
      'help': 'synthetic examples are draws of p(x | z, y), in place of means'
    },
  )

  def __post_init__(self):
    validate.one_of(CODES, codes=self.codes)
    validate.positive_int(synthetic_per_class=self.synthetic_per_class)


class Synthetic(NamedTuple):
  """What a generator shares.

  Attributes:
    inputs: `[n, F]` float32.
    labels: `[n]` int32.
    hyper: the hypernetwork that made it; None of a GAN.
    codes: `[K, V]` of which it was made, or None.
    weights: `[C, K]` of the codes in each class, or None.
  """

  inputs: np.ndarray
  labels: np.ndarray
  hyper: Tree | None
  codes: Array | None
  weights: Array | None


def synthesise(
  name: str,
  method: Method,
  state: Any,
  data: FederatedDataset,
  meta: MetaConfig,
  config: SynthesisConfig,
  seed: int,
) -> Synthetic:
  """As many examples of each class as were asked for."""
  num_classes = method.model.spec.num_classes
  labels = np.tile(
    np.arange(num_classes, dtype=np.int32), config.synthetic_per_class
  )
  code_key, draw_key = jax.random.split(
    jax.random.fold_in(jax.random.key(seed), 1)
  )
  if name == 'DP-CGAN':
    made = jax.jit(method.model.generate)(
      method.shared(state), jnp.asarray(labels), draw_key
    )
    return Synthetic(np.asarray(made), labels, None, None, None)
  hyper = hyper_of(method, state, seed)
  model = method.model
  if not model.config.uses_code:
    personal = model.personalise(hyper, None)
    made = hypernetwork.generate(
      model, hyper, personal, jnp.asarray(labels), draw_key, draw=config.draw
    )
    return Synthetic(np.asarray(made), labels, hyper, None, None)
  codes, weights = codes_of(method, state, hyper, data, meta, config, code_key)
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
  return Synthetic(np.asarray(made), labels, hyper, codes, weights)


def hyper_of(method: Method, state: Any, seed: int) -> Tree:
  """The hypernetwork, from a server that may hold codes as well."""
  variables = method.shared(state)
  if 'hyper' not in variables:
    return variables
  base = method.model.init(jax.random.key(seed))['base']
  return {**variables['hyper'], 'base': base}


def codes_of(
  method: Method,
  state: Any,
  hyper: Tree,
  data: FederatedDataset,
  meta: MetaConfig,
  config: SynthesisConfig,
  key: Array,
) -> tuple[Array, Array]:
  """Codes `[K, V]` that synthetic data are made of, weights `[C, K]`.

  All from one release of class moments, for which the budget has a share.
  """
  model = method.model
  num_classes = model.spec.num_classes
  protection = method.budget.protection
  plan = protection.plan if protection else None
  noise_key, fit_key = jax.random.split(key)
  unit = 'client' if plan and plan.unit == 'client' else 'record'
  noise_multiplier = method.budget.moments_noise
  if config.codes == 'clients':
    sums = class_moments.class_sums_by_client(
      noise_key,
      data,
      num_classes,
      noise_multiplier=noise_multiplier,
      unit=unit,
    )
    held = jnp.maximum(sums.counts, 0.0).T
    # A class that noise has left to nobody is everybody's.
    nobody = held.sum(axis=1, keepdims=True) == 0
    return client_codes(method, state), jnp.where(nobody, 1.0, held)
  sums = class_moments.class_sums(
    noise_key,
    data,
    num_classes,
    noise_multiplier=noise_multiplier,
    unit=unit,
    share=plan.share if plan else 1.0,
  )
  moments = ClassMoments(*sums.moments())
  if config.codes == 'meta':
    code, _ = meta_code.fit_code(model, hyper, moments, fit_key, meta)
    return code[None], jnp.ones((num_classes, 1))
  alone = jnp.diag(moments.counts)
  codes = [
    meta_code.fit_code(
      model, hyper, moments._replace(counts=counts), fit_key, meta
    )[0]
    for counts in alone
  ]
  return jnp.stack(codes), jnp.eye(num_classes)


def client_codes(method: Method, state: Any) -> Array:
  """`[N, V]` codes of all clients."""
  variables = method.shared(state)
  if 'codes' in variables:
    return variables['codes']
  return state.fleets[0].own['code']

"""Groups of clients discovered from a VAE, when nobody tells them.

FissionVAE (Hu et al., "FissionVAE: Federated Non-IID Image Generation with
Latent Space and Decoder Decomposition", IJCAI 2025) is given the group of every
client. Discovery is ours and no part of it: after a few rounds of plain FedVAE
every client reports a small statistic (`federated.collect`), the server
clusters the clients (`federated.statistics.grouping`), and a client that comes
later is put in the group with the nearest centre, or chooses the group with the
model that fits its data best. Reports are read by the server one by one, which
sums are not.

No report reads `info.group`.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import flatten_util
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated import local
from fedjax_gen.federated.collect import Report
from fedjax_gen.models.elbo import elbo_loss
from fedjax_gen.models.vae import Vae, to_unit
from fedjax_gen.types import Array, Key, Variables

GROUPS = ('given', 'discovered')
STATISTICS = ('posterior', 'update')


class Statistic(NamedTuple):
  """What one client reports; all clients', with a leading `[N]` axis.

  Given to `grouping.discover(statistic.values, errors=statistic.errors)`.

  Attributes:
    values: `[F]`.
    errors: `[F]` standard errors of the values, or `None`.
  """

  values: Array
  errors: Array | None = None


@dataclasses.dataclass(frozen=True)
class DiscoveryConfig(fields.Configuration):
  """Where the groups of clients come from.

  Raises:
    InputError: a value is out of range, or one is set that has no use where
      the groups are given.
  """

  groups: str = fields.option(
    'given',
    'groups of clients: given with the data, or discovered from '
    'what clients report after the warm-up',
    choices=GROUPS,
  )
  num_groups: int = fields.non_negative_int(
    0, 'G, groups to discover; 0 chooses their number from the data'
  )
  discovery_statistic: str = fields.option(
    'posterior',
    'what clients report: moments of their posteriors, or the '
    'direction of a local update of the encoder',
    choices=STATISTICS,
  )
  warmup_rounds: int = fields.positive_int(
    3, 'rounds of plain FedVAE before groups are discovered'
  )

  num_newcomers: int = fields.non_negative_int(
    0,
    'clients kept out of everything, which join at the end and find '
    'their groups',
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ('num_groups', 'num_newcomers'):
      if getattr(self, name) and self.groups == 'given':
        raise InputError(
          f'Expected groups=discovered with {name}, got '
          f'groups={self.groups!r} and {name}={getattr(self, name)}.'
        )


def statistic_report(
  config: DiscoveryConfig,
  vae: Vae,
  optimizer: optax.GradientTransformation,
  work: local.LocalWork,
) -> Report:
  """The report that `config.discovery_statistic` names.

  Args:
    config: which.
    vae: the model; variables are shared with the clients when collecting.
    optimizer: of the local update, if that is the statistic.
    work: likewise, how much a client trains for it.
  """
  if config.discovery_statistic == 'posterior':
    return posterior_statistics(vae)
  return update_direction(vae, optimizer, work)


def posterior_statistics(
  vae: Vae,
  *,
  batch_size: int = 64,
  max_examples: int = 512,
  reconstruction: bool = False,
) -> Report:
  """Where a client's examples lie in the latent space of the shared model.

  Over the client's examples: the mean of the posterior means, the logarithm of
  their standard deviation, and the mean posterior log-variance. With them go
  their standard errors (that of the logarithm as of Gaussian means), by which
  the server tells latents that differ from those that only scatter.

  Args:
    vae: the model. Two levels of latents stand side by side, the second one
      given the mean of the first.
    batch_size: examples computed at once.
    max_examples: of a client; larger clients use so many, drawn at random.
    reconstruction: whether the mean -log p(x | z) at the posterior mean is
      reported too, in nats.

  Returns:
    A report of the model's variables: a `Statistic` of `[3 Z]` features, or
    `[3 Z + 1]`; NaN for a client without examples.
  """
  validate.positive_int(batch_size=batch_size, max_examples=max_examples)

  def per_example(variables, data, labels, key):
    del key  # means, no draws
    inferred, _ = vae.infer(variables, data, labels, None)
    posteriors = inferred.posterior.values()
    columns = [p.mean for p in posteriors] + [p.logvar for p in posteriors]
    if reconstruction:
      outputs, _ = vae.decode(variables, inferred.latents, labels)
      columns.append(-vae.likelihood.log_prob(outputs, data)[:, None])
    return jnp.concatenate(columns, axis=-1)

  latent_size = sum(vae.latent_sizes.values())

  def report(variables, info, data, key):
    del info
    count, mean, variance = _moments(
      functools.partial(per_example, variables),
      data,
      key,
      batch_size,
      max_examples,
    )
    # A floor for means that collapsed onto a point and have no logarithm.
    log_stddev = jnp.log(variance[:latent_size] + 1e-6) / 2
    errors = jnp.sqrt(variance / jnp.maximum(count, 1))
    log_error = jnp.sqrt(0.5 / jnp.maximum(count, 1))

    def in_order(columns, of_log_stddev):
      parts = (columns[:latent_size], of_log_stddev, columns[latent_size:])
      return jnp.concatenate(parts)

    return Statistic(
      in_order(mean, log_stddev),
      in_order(errors, jnp.full(latent_size, log_error)),
    )

  return report


def update_direction(
  vae: Vae,
  optimizer: optax.GradientTransformation,
  work: local.LocalWork,
  *,
  module: str = 'encoder',
  num_features: int = 256,
  beta: float = 1.0,
  seed: int = 0,
) -> Report:
  """Where a client's data pull the shared model: its update, sketched.

  The client trains from the shared model; the change of one module's
  parameters, scaled to length one, is reported as a count sketch: each
  parameter is added, with a random sign, to one of F random features. Inner
  products, here cosines, are kept on average, with an error of about
  1 / sqrt(F) (Weinberger et al., "Feature Hashing for Large Scale Multitask
  Learning", 2009), and no F x P matrix is held. Cosines of updates
  are what clustered federated learning compares (Sattler, Müller, Samek,
  2019); it compares whole updates, and splits in two where training has
  converged.

  Args:
    vae: the model.
    optimizer: descends the negative ELBO, from a fresh state.
    work: how much the client trains.
    module: its change is looked at.
    num_features: F.
    beta: weight of the KL term.
    seed: of the sketch; clients that are compared need the same.

  Returns:
    A report of the model's variables: a `Statistic` of `[F]` features, of
    length about 1, without errors; NaN for a client without examples, or
    with a model that did not move.

  Raises:
    InputError: a number is out of range; when first used, if the model has no
      such module.
  """
  validate.positive_int(num_features=num_features)
  validate.non_negative_int(seed=seed)
  loss_fn = elbo_loss(vae, beta)

  def report(variables, info, data, key):
    del info
    validate.one_of(tuple(variables), module=module)
    trained = local.train(
      loss_fn, optimizer, work, variables, optimizer.init(variables), data, key
    )
    before, after = (
      tree[module]['params'] for tree in (variables, trained.variables)
    )
    change, _ = flatten_util.ravel_pytree(trees.subtract(after, before))
    sketch = _sketch(change, num_features, seed)
    length = jnp.linalg.norm(change)
    return Statistic(jnp.where(length > 0, sketch / length, jnp.nan))

  return report


def group_bounds(
  vaes: Sequence[Vae], *, batch_size: int = 64, max_examples: int = 512
) -> Report:
  """How well each group's model fits a client's examples.

  The ELBO at one draw, with the same noise for all groups. Needs the models
  of all groups, which a client would receive: G times the traffic of one.

  Args:
    vaes: the G models; their networks may differ.
    batch_size: examples computed at once.
    max_examples: of a client; larger clients use so many, drawn at random.

  Returns:
    A report of the G models' variables (a sequence), `[G]` mean ELBO in nats
    per example, higher is better; NaN for a client without examples.

  Raises:
    InputError: a number is not a whole one above zero, or there is no model;
      when first used, if there are not as many variables as models.
  """
  validate.positive_int(
    batch_size=batch_size, max_examples=max_examples, num_groups=len(vaes)
  )

  def report(variables: Sequence[Variables], info, data, key):
    del info
    if len(variables) != len(vaes):
      raise InputError(
        f'Expected variables of each of {len(vaes)} groups, got '
        f'{len(variables)}.'
      )

    def per_example(data, labels, key):
      bounds = [
        _elbo(vae, own, data, labels, key)
        for vae, own in zip(vaes, variables, strict=True)
      ]
      return jnp.stack(bounds, axis=-1)

    _, mean, _ = _moments(per_example, data, key, batch_size, max_examples)
    return mean

  return report


def best_bound_group(
  vaes: Sequence[Vae], *, batch_size: int = 64, max_examples: int = 512
) -> Report:
  """The group with the model of highest ELBO on a client's own data.

  How a client that comes later may choose for itself: it tells the server
  nothing but a number. Bounds of different likelihoods do not compare.

  Args:
    vaes: see `group_bounds`, as for the others.
    batch_size: examples computed at once.
    max_examples: of a client.

  Returns:
    A report of the G models' variables (a sequence): the group, int32; 0 for a
    client without examples.
  """
  bounds = group_bounds(vaes, batch_size=batch_size, max_examples=max_examples)

  def report(variables, info, data, key):
    return jnp.argmax(bounds(variables, info, data, key)).astype(jnp.int32)

  return report


def _elbo(
  vae: Vae, variables: Variables, data: Array, labels: Array, key: Key
) -> Array:
  """`[B]` ELBO of each example at one draw, running statistics used."""
  inferred, _ = vae.infer(variables, data, labels, key)
  outputs, _ = vae.decode(variables, inferred.latents, labels)
  kl = functools.reduce(jnp.add, inferred.kl.values())
  return vae.likelihood.log_prob(outputs, data) - kl


def _moments(
  per_example, data, key: Key, batch_size: int, max_examples: int
) -> tuple[Array, Array, Array]:
  """Count, mean and variance over a client's examples of `[B, F]` columns.

  Args:
    per_example: `(data, labels, key) -> [B, F]`.
    data: the client's examples.
    key: consumed.
    batch_size: examples computed at once.
    max_examples: the most to use.

  Returns:
    Number of examples, `[F]` mean and `[F]` variance; NaN without examples.
  """
  order_key, noise_key = jax.random.split(key)
  if data.max_size > max_examples:
    positions = data.shuffled(order_key)
  else:
    positions = jnp.arange(data.max_size)
  data = data._replace(
    size=jnp.minimum(data.size, max_examples),
    min_size=min(data.min_size, max_examples),
    max_size=min(data.max_size, max_examples),
  )

  def columns(step):
    batch = data.batch(positions, step, batch_size)
    values = per_example(
      to_unit(batch.inputs),
      batch.labels,
      jax.random.fold_in(noise_key, step),
    )
    return values, batch.mask[:, None]

  def add(step, sums):
    # Merged around the mean so far (Chan et al., 1979): a difference of large
    # sums would lose a small variance.
    count, mean, squares = sums
    values, mask = columns(step)
    more = mask.sum()
    total = jnp.maximum(count + more, 1)
    center = jnp.where(mask, values, 0.0).sum(axis=0) / jnp.maximum(more, 1)
    deviation = jnp.where(mask, values - center[None], 0.0)
    moved = center - mean
    mean = mean + moved * more / total
    squares = squares + (deviation**2).sum(axis=0)
    squares = squares + moved**2 * count * more / total
    return count + more, mean, squares

  num_columns = jax.eval_shape(columns, 0)[0].shape[-1]
  zeros = jnp.zeros(num_columns)
  count, mean, squares = jax.lax.fori_loop(
    0,
    data.steps_per_epoch(batch_size),
    add,
    (jnp.zeros((), jnp.int32), zeros, zeros),
  )
  variance = squares / jnp.maximum(count, 1)
  return (
    count,
    jnp.where(count > 0, mean, jnp.nan),
    jnp.where(count > 0, variance, jnp.nan),
  )


def _sketch(values: Array, num_features: int, seed: int) -> Array:
  """`[P]` values as `[num_features]` sums with random signs."""
  feature_key, sign_key = jax.random.split(jax.random.key(seed))
  features = jax.random.randint(feature_key, values.shape, 0, num_features)
  signs = jax.random.rademacher(sign_key, values.shape, values.dtype)
  return jax.ops.segment_sum(signs * values, features, num_features)

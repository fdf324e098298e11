"""L_e, what FedVTC's generator is trained by (its eqs. are not public).

L_e = L_rc + w_KL D_KL + w_DM L_DM: images are made again from their features,
a client's Gaussian of a feature lies near that of all clients, and images drawn
from the Gaussians of all have features like them. [note], [3p], [ours] as in
`algorithms.fedvtc`.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees
from fedjax_gen.losses import gaussian
from fedjax_gen.models.classification.classifiers import Classifier, to_signed
from fedjax_gen.models.vtc import Vtc, total_variation
from fedjax_gen.types import Array, Key, LossFn, Variables


@dataclasses.dataclass(frozen=True)
class GeneratorLosses(fields.Configuration):
  """The losses of the generator."""

  vtc_latent: str = fields.option(
    'prototype',
    'Input of a reconstruction: the mean of the example’s class, the same for '
    'all clients [note], or the example’s own feature [3p], which differs '
    'between clients’ extractors',
    choices=('feature', 'prototype'),
  )
  local_stddev: str = fields.option(
    'learned',
    'sigma_k, the noise on that input: starts at the spread of the features '
    'and is trained with the generator, or stays there [3p has both]',
    choices=('learned', 'estimated'),
  )
  reconstruction_weight: float = fields.non_negative(
    1.0, 'Weight of L_rc, squared error summed over pixels [note]'
  )
  kl_weight: float = fields.non_negative(
    1.0,
    'Weight of D_KL from the example’s Gaussian to that of its class, summed '
    'over features. It moves sigma_k, not the generator [note]',
  )
  dm_weight: float = fields.non_negative(
    0.1, 'Weight of L_DM, distribution matching [note: 1]'
  )
  dm_mode: str = fields.option(
    'mean',
    'L_DM: mean feature of generated images against the class mean, summed '
    'over classes [ours]; each in units of sigma [3p]; or against its own '
    'latent [ours]',
    choices=('mean', 'sample', 'cycle'),
  )
  dm_cross_entropy: float = fields.non_negative(
    0.0, 'Weight of the classifier’s loss on generated images [ours]'
  )
  tv_weight: float = fields.non_negative(
    0.0, 'Weight of total variation, against grain in generated images [3p]'
  )

  @property
  def is_any(self) -> bool:
    """Whether there is anything to descend."""
    return bool(self.reconstruction_weight or self.kl_weight) or self.matches

  @property
  def matches(self) -> bool:
    """Whether images are drawn from the Gaussians of all clients."""
    return bool(self.dm_weight or self.dm_cross_entropy or self.tv_weight)


class Gaussians(Protocol):
  """Features by class, `[C]` known.

  As `federated.statistics.class_gaussians` has them.
  """

  @property
  def known(self) -> Array:
    """`[C]` bool."""

  @property
  def means(self) -> Array:
    """`[C, F]`."""

  def of(self, labels: Array) -> tuple[Array, Array]:
    """Means and standard deviations `[B, F]`."""

  def sample(self, labels: Array, key: Key) -> Array:
    """Latents `[B, F]`."""


class Latent(NamedTuple):
  """Where reconstructions start from.

  Attributes:
    features: `[B, F]`, of the examples or of their classes.
    log_stddev: `[F]`, of the noise on them.
  """

  features: Array
  log_stddev: Array


def generator_loss(
  losses: GeneratorLosses,
  vtc: Vtc,
  model: Classifier,
  classifier: Variables,
  gaussians: Gaussians,
  own: Gaussians,
) -> LossFn:
  """L_e = L_rc + w_KL D_KL + w_DM L_DM of a client, and its terms but L_DM.

  Args:
    losses: weights and choices.
    vtc: the generator's functions.
    model: the client's classifier.
    classifier: its variables, not to be descended.
    gaussians: of all clients.
    own: of the client; its means serve for classes not known yet.

  Returns:
    A loss of `{'generator': ..., 'log_stddev': [F]}`.
  """

  def loss_fn(variables, batch, key):
    noise_key, dm_key = jax.random.split(key)
    generator, log_stddev = variables['generator'], variables['log_stddev']
    if losses.local_stddev == 'estimated':
      log_stddev = jax.lax.stop_gradient(log_stddev)
    known = gaussians.known[batch.labels]
    means, stddev = gaussians.of(batch.labels)
    if losses.vtc_latent == 'prototype':
      features = jnp.where(known[:, None], means, own.means[batch.labels])
    else:
      features = model.features(classifier, batch.inputs)
    latent = Latent(features, log_stddev)
    squared = reconstruction(vtc, generator, latent, batch.inputs, noise_key)
    kl = known * divergence(latent, means, stddev)
    metrics = {
      'reconstruction': trees.masked_mean(squared, batch.mask),
      'kl': trees.masked_mean(kl, batch.mask),
    }
    loss = (
      losses.reconstruction_weight * metrics['reconstruction']
      + losses.kl_weight * metrics['kl']
    )
    if losses.matches:
      terms = matching(
        losses, vtc, model, generator, classifier, gaussians,
        len(batch.labels), dm_key,
      )  # fmt: skip
      loss += (
        losses.dm_weight * terms['matching']
        + losses.dm_cross_entropy * terms['generated_cross_entropy']
        + losses.tv_weight * terms['total_variation']
      )
      metrics |= terms
    return loss, (variables, metrics)

  return loss_fn


def reconstruction(
  vtc: Vtc, generator: Variables, latent: Latent, inputs: Array, key: Key
) -> Array:
  """`L_rc = |psi(z + sigma_k eps) - x|^2` for each example, `[B]`.

  Args:
    vtc: the generator's functions.
    generator: its variables.
    latent: z and sigma_k.
    inputs: `[B, H, W, C]` images, uint8 or in [-1, 1].
    key: consumed.
  """
  drawn = gaussian.sample(key, _posterior(latent))
  images = vtc.decode(generator, drawn)
  return jnp.sum((images - to_signed(inputs)) ** 2, axis=(1, 2, 3))


def divergence(latent: Latent, means: Array, stddev: Array) -> Array:
  """D_KL(N(z, sigma_k^2) || N(c^y, sigma^2)) in nats, `[B]`.

  Args:
    latent: z and sigma_k.
    means: `[B, F]`, c^y.
    stddev: `[B, F]`, sigma.
  """
  prior = gaussian.Gaussian(means, 2 * jnp.log(stddev))
  return gaussian.kl(_posterior(latent), prior)


def matching(
  losses: GeneratorLosses,
  vtc: Vtc,
  model: Classifier,
  generator: Variables,
  classifier: Variables,
  gaussians: Gaussians,
  num: int,
  key: Key,
) -> dict[str, Array]:
  """L_DM and related losses, on latents of classes that some client holds.

  Args:
    losses: only its `dm_mode` is used.
    vtc: the generator's functions.
    model: the client's classifier.
    generator: variables of the generator.
    classifier: variables of the classifier, not to be descended.
    gaussians: of all clients.
    num: latents, about; of as many classes as leave each two.
    key: consumed.

  Returns:
    Scalars `matching`, `generated_cross_entropy` and `total_variation`; zero
    as long as no class is known.
  """
  class_key, latent_key = jax.random.split(key)
  num_classes = min(model.num_classes, max(num // 2, 1))
  each = -(-num // num_classes)
  draws = jax.random.uniform(class_key, (model.num_classes,))
  # Known ones first.
  classes = jnp.argsort(draws + ~gaussians.known)[:num_classes]
  labels = jnp.repeat(classes, each)
  known = gaussians.known[labels]
  latents = gaussians.sample(labels, latent_key)
  images = vtc.decode(generator, latents)
  features = model.features(classifier, images)
  means, stddev = gaussians.of(labels)
  if losses.dm_mode == 'mean':
    gap = (features - means).reshape(num_classes, each, -1).mean(axis=1)
    squared = gaussians.known[classes] * jnp.sum(gap**2, axis=-1)
    # A sum over all known classes; these are a sample of them.
    num_chosen = jnp.maximum(gaussians.known[classes].sum(), 1)
    distance = squared.sum() * (gaussians.known.sum() / num_chosen)
  elif losses.dm_mode == 'sample':
    distance = _mean_of_known(
      jnp.mean(((features - means) / stddev) ** 2, axis=-1), known
    )
  else:
    distance = _mean_of_known(
      jnp.sum((features - latents) ** 2, axis=-1), known
    )
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
    model.logits(classifier['head'], features), labels
  )
  return {
    'matching': distance,
    'generated_cross_entropy': _mean_of_known(cross_entropy, known),
    'total_variation': _mean_of_known(total_variation(images), known),
  }


def _posterior(latent: Latent) -> gaussian.Gaussian:
  logvar = jnp.broadcast_to(2 * latent.log_stddev[None], latent.features.shape)
  return gaussian.Gaussian(latent.features, logvar)


def _mean_of_known(values: Array, known: Array) -> Array:
  return jnp.sum(values * known) / jnp.maximum(known.sum(), 1)

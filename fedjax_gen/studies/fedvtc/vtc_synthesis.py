"""What FedVTC's statistics and generator generate, and what they reveal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.examples import Examples
from fedjax_gen.evaluation.attacks import inversion, inversion_audit
from fedjax_gen.federated.blocks import Block, Blocks
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.statistics import class_gaussians
from fedjax_gen.federated.statistics.class_gaussians import ClassGaussians
from fedjax_gen.models.classification.classifiers import Classifier, to_pixels
from fedjax_gen.studies.fedvtc.vtc_judge import Clients
from fedjax_gen.studies.fedvtc.vtc_methods import MainMethod
from fedjax_gen.types import Array, Tree, Variables

_PER_CLASS = 20
_RECONSTRUCTIONS = 4
_MOST_MEANS = 40  # attacked of each architecture


class SyntheticImages(NamedTuple):
  """Synthetic images.

  Attributes:
    examples: uint8 images and the classes they were drawn for.
    latents: `[n, F]` of them.
  """

  examples: Examples
  latents: np.ndarray


def generators(subject: MainMethod, state: Any, clients: Clients) -> list[Tree]:
  """The generator that clients use, one for each; of all the same if shared."""
  if subject.config.vtc_scope == 'federated':
    return [state.server.generator.variables]
  by_number: dict[int, Tree] = {}
  for fleet, numbers in zip(state.fleets, clients.numbers, strict=True):
    for row, number in enumerate(numbers.tolist()):
      by_number[number] = trees.take(fleet.generator, row)
  return [by_number[number] for number in sorted(by_number)]


def synthesise(
  subject: MainMethod, state: Any, clients: Clients, seed: int
) -> SyntheticImages:
  """Draws images of every known class, as clients are fine-tuned with.

  Where every client has its own generator, a class is drawn by that of the
  client that holds most of it.
  """
  gaussians: ClassGaussians = state.server.gaussians
  known = np.flatnonzero(np.asarray(gaussians.known))
  labels = np.repeat(known, _PER_CLASS).astype(np.int32)
  latents = gaussians.sample(jnp.asarray(labels), jax.random.key(seed))
  found = generators(subject, state, clients)
  decode = jax.jit(subject.vtc.decode)
  if len(found) == 1:
    images = decode(found[0], latents)
  else:
    counts = clients.split.train.counts(
      clients.source.train.labels, clients.source.num_classes
    )
    images = jnp.concatenate(
      [
        decode(found[counts[:, label].argmax()], latents[labels == label])
        for label in known
      ]
    )
  return SyntheticImages(
    Examples(np.asarray(to_pixels(images)), labels), np.asarray(latents)
  )


def attack(
  subject: MainMethod,
  models: Sequence[Classifier],
  blocks: Blocks,
  state: Any,
  clients: Clients,
  seed: int,
) -> dict[str, float]:
  """How much nearer images drawn from a client's means are to its own ones.

  The means and standard deviation of single clients are attacked, as one who
  sees a message without secure summation would have them. `decode` puts them
  through the generator; `search` looks for a latent with an image that has the
  mean as its features, and needs the client's extractor, which is never sent:
  the worst case. Held-out images are of the global test set.

  Args:
    subject: FedVTC, as it was trained.
    models: the classifier of each fleet.
    blocks: FedVTC's clients; see `Engine.blocks`.
    state: after training.
    clients: who holds what.
    seed: of draws.
  """
  found = generators(subject, state, clients)
  by_attack: dict[str, list[inversion_audit.Comparison]] = {
    'decode': [], 'search': [],
  }  # fmt: skip
  for fleet, (model, numbers) in enumerate(
    zip(models, clients.numbers, strict=True)
  ):
    drawn_of, sums_of = _drawer(subject, model), jax.jit(_sums_of(model))
    rows = np.arange(min(len(numbers), _MOST_MEANS))
    for block, slot in _one_by_one(blocks(state, fleet, rows)):
      number = int(numbers[block.rows[slot]])
      classifier: Variables = trees.take(
        block.kept.own.variables['classifier'], slot
      )
      own = class_gaussians.of_client(
        sums_of(classifier, block.data, jnp.asarray(slot))
      )
      generator = found[min(number, len(found) - 1)]
      key = jax.random.fold_in(jax.random.key(seed), number)
      # One shape for all clients: a class that is not held is not looked at.
      held = np.flatnonzero(np.asarray(own.known))
      for name, images in drawn_of(classifier, generator, own, key).items():
        by_attack[name] += [
          _compared(np.asarray(images[label]), number, label, clients, seed)
          for label in held
        ]
  metrics: dict[str, float] = {}
  for name, comparisons in by_attack.items():
    metrics |= inversion_audit.leakage_metrics(
      comparisons, prefix=f'attack_{name}'
    )
  return metrics


def _drawer(
  subject: MainMethod, model: Classifier
) -> Callable[..., dict[str, Array]]:
  """By attack, images of a client's class means."""
  search = inversion.latent_search(model.features, subject.vtc.decode)

  def drawn(classifier, generator, own, key):
    decoded = inversion.decode_statistics(
      subject.vtc.decode,
      generator,
      own.means,
      own.stddev,
      key,
      num_images=_RECONSTRUCTIONS,
    )
    searched = search(classifier, generator, own.means, own.stddev, key)
    return {'decode': decoded, 'search': searched.images[:, None]}

  return drawn


def _one_by_one(blocks: Iterable[Block]) -> Iterator[tuple[Block, int]]:
  """Each client that counts: its block, and its place there."""
  for block in blocks:
    for slot in range(block.num):
      yield block, slot


def _compared(images, number, label, clients, seed):
  """Of one mean, with the records behind it and with held-out images."""
  train, test = clients.source.train, clients.source.test
  rows = clients.split.train.rows(number)
  records = train.inputs[rows[train.labels[rows] == label]]
  held_out = test.inputs[test.labels == label]
  return inversion_audit.compare(
    images, records, held_out, seed=seed + 1000 * number + int(label)
  )


def _sums_of(model: Classifier):
  def sums_of(classifier, data, slot):
    return personal.feature_sums(model, classifier, data.client(slot), 32)

  return sums_of

"""Fine-tuning of a client's classifier with synthetic examples.

The common part of methods that send the means to make examples: FedVTC's
generator, or mean images of classes. Written for one client.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import trees
from fedjax_gen.data.federated import Batch, ClientData
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Model
from fedjax_gen.types import Array, Key, Variables

PARTS = {
  'full': ('extractor', 'head'),
  'head': ('head',),
  'extractor': ('extractor',),
}
"""By the scope of fine-tuning, the parts of a classifier that it trains."""


class Finetuning(NamedTuple):
  """How a classifier is fine-tuned.

  Attributes:
    steps: of gradient descent, each on a batch of synthetic examples.
    parts: of the classifier that are trained; see `PARTS`.
    is_mixed: whether each step also has a batch of the client's own examples,
      without which it forgets them.
    learning_rate: of the clients' optimizer, started anew.
  """

  steps: int
  parts: tuple[str, ...] = PARTS['full']
  is_mixed: bool = True
  learning_rate: float = 0.01


def finetuned(
  settings: Finetuning,
  training: personal.Config,
  model: Model,
  classifier: Variables,
  synthetic: Callable[[Key], Batch],
  is_known: Array,
  data: ClientData,
  key: Key,
  lean: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f,
) -> Variables:
  """The classifier after descending its cross-entropy on synthetic examples.

  Args:
    settings: how.
    training: how clients train: batch size and optimizer.
    model: the classifier.
    classifier: its variables.
    synthetic: `key -> batch`, drawn anew for every step.
    is_known: bool `[]`, whether there is anything to draw from.
    data: the client's own examples.
    key: consumed.
    lean: of the loss, for instance `local.rematerialised`.
  """
  if not settings.steps:
    return classifier
  optimizer = training.descent(settings.learning_rate)
  real_key, step_key = jax.random.split(key)
  positions = data.shuffled(real_key)
  gradient_fn = jax.grad(lean(finetune_loss(model, classifier)))

  def step(i, carry):
    trained, state = carry
    batches = [synthetic(jax.random.fold_in(step_key, i))]
    if settings.is_mixed:
      batch_size = training.batch_size
      turn = i % jnp.maximum(data.steps_per_epoch(batch_size), 1)
      batches.append(data.batch(positions, turn, batch_size))
    updates, state = optimizer.update(
      gradient_fn(trained, batches), state, trained
    )
    return optax.apply_updates(trained, updates), state

  number = jnp.where(is_known, settings.steps, 0)
  trained = {name: classifier[name] for name in settings.parts}
  carry = (trained, optimizer.init(trained))
  trained, _ = jax.lax.fori_loop(0, number, step, carry)
  return {**classifier, **trained}


def finetune_loss(
  model: Model, classifier: Variables
) -> Callable[[Variables, Sequence[Batch]], Array]:
  """Of the trained parts of a classifier: sum of the batches' means, nats."""

  def loss_fn(trained, batches):
    current = {**classifier, **trained}
    return sum(
      trees.masked_mean(
        personal.cross_entropy(
          model.logits(current['head'], model.features(current, inputs)), labels
        ),
        mask,
      )
      for inputs, labels, mask in batches
    )

  return loss_fn


def drawn_labels(known: Array, num: int, key: Key) -> Array:
  """`[num]` labels, every known class alike; known is bool `[C]`."""
  return jax.random.categorical(
    key, jnp.where(known, 0.0, -jnp.inf), shape=(num,)
  )

"""Canaries for an audit of a training: records with a gradient that stands out.

A canary's gradient is one coordinate of what is sent, longer than C, whatever
the variables are: the worst record that clipping allows, and the one that is
told apart most easily (a Dirac canary: Nasr et al., "Tight auditing of
differentially private machine learning", 2023; Steinke, Nasr and Jagielski,
"Privacy auditing with one (1) training run", 2023). Everything behind the loss
of one record is what trains without an audit: sampling, clipping, sums, noise,
denominators.
"""

import dataclasses
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.errors import InputError
from fedjax_gen.privacy.audit import auditing
from fedjax_gen.privacy.clipping import RecordLossFn
from fedjax_gen.types import Array, Key

# Norm of a canary's gradient over C: without clipping it would be seen.
_LOUDNESS = 10.0


class Canaries(NamedTuple):
  """How a record says that it is a canary.

  Attributes:
    first_label: labels from here on are of canaries; the number of classes.
    num_slots: K, canaries that a client may have. The k-th of a client has the
      label `first_label + k` and the k-th of the coordinates.
  """

  first_label: int
  num_slots: int

  def coordinates(self, size: int) -> np.ndarray:
    """`[K]` positions, far apart, of the values that canaries move."""
    if size < self.num_slots:
      raise InputError(
        f'Expected at most {size} canaries a client, one for each value that '
        f'it sends, got {self.num_slots}.'
      )
    return np.arange(self.num_slots) * size // self.num_slots


class Hidden(NamedTuple):
  """A federation with canaries in it.

  Attributes:
    data: the clients, of the sizes they had.
    canaries: how they are recognised.
    included: `[M]` bool, which of them are there: the secret.
    owners: `[M]` client of each.
    slots: `[M]` which of its client's canaries each is.
  """

  data: FederatedDataset
  canaries: Canaries
  included: np.ndarray
  owners: np.ndarray
  slots: np.ndarray


def hide(
  key: Key, data: FederatedDataset, num_canaries: int, num_classes: int
) -> Hidden:
  """Replaces records by canaries, each there or not by a coin.

  Records give way at random, whichever client holds them. Numbers of records
  are public and decide denominators, so they must not follow from the coins: a
  canary that is out leaves a record without a gradient, which adds nothing to
  a sum.

  Guarantees:
    Released: nothing.
    Neighbouring: a coin that falls otherwise adds one record or removes it, as
      far as sums go, and changes no public number.

  Args:
    key: consumed.
    data: the clients.
    num_canaries: M, at most half of the records.
    num_classes: C.

  Raises:
    InputError: there would be more canaries than that, or none.
  """
  sizes, offsets = np.asarray(data.sizes), np.asarray(data.offsets)
  total = int(sizes.sum())
  check_number(num_canaries, total)
  coin_key, slot_key = jax.random.split(key)
  included = np.asarray(auditing.canary_inclusion(num_canaries, coin_key))
  chosen = np.asarray(jax.random.permutation(slot_key, total))[:num_canaries]
  every_owner = np.repeat(np.arange(len(sizes)), sizes)
  starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
  places = offsets[every_owner] + np.arange(total) - starts
  owners = every_owner[chosen]
  slots = _number_within(owners)
  order = np.array(data.order)
  order[places[chosen]] = len(data.labels) + np.arange(num_canaries)
  present = jnp.asarray(included, data.inputs.dtype)
  rows = jnp.broadcast_to(
    present.reshape(-1, *[1] * (data.inputs.ndim - 1)),
    (num_canaries, *data.inputs.shape[1:]),
  )
  with_canaries = dataclasses.replace(
    data,
    inputs=jnp.concatenate([data.inputs, rows]),
    labels=jnp.concatenate(
      [data.labels, jnp.asarray(num_classes + slots, jnp.int32)]
    ),
    order=jnp.asarray(order),
  )
  canaries = Canaries(num_classes, int(slots.max()) + 1)
  return Hidden(with_canaries, canaries, included, owners, slots)


def check_number(num_canaries: int, num_records: int) -> None:
  """Raises `InputError` unless there may be so many canaries."""
  validate.positive_int(audit_canaries=num_canaries)
  if num_canaries > num_records // 2:
    raise InputError(
      f'Expected audit_canaries <= {num_records // 2}, half of the records '
      f'that clients train on, got audit_canaries={num_canaries}.'
    )


def with_canaries(
  loss_fn: RecordLossFn, canaries: Canaries, max_norm: float | Array
) -> RecordLossFn:
  """The loss of a record, or of a canary if its label says so.

  Guarantees:
    Released: nothing. The result reads one record, as `loss_fn` does.

  Args:
    loss_fn: of records, of variables with a part `shared`.
    canaries: how they are recognised.
    max_norm: C.
  """

  def either_loss(variables, record, key):
    known = jnp.minimum(record.labels, canaries.first_label - 1)
    loss, metrics = loss_fn(variables, record._replace(labels=known), key)
    slot = record.labels - canaries.first_label
    values, _ = ravel_pytree(variables['shared'])
    coordinate = jnp.asarray(canaries.coordinates(values.size))[slot]
    present = record.inputs.reshape(-1)[0].astype(jnp.float32)
    loud = _LOUDNESS * max_norm * present * values[coordinate]
    return jnp.where(slot >= 0, loud, loss), metrics

  return either_loss


def _number_within(owners: np.ndarray) -> np.ndarray:
  """Of each entry how many of the same owner come before it."""
  numbers = np.empty_like(owners)
  for owner in np.unique(owners):
    mine = np.flatnonzero(owners == owner)
    numbers[mine] = np.arange(len(mine))
  return numbers

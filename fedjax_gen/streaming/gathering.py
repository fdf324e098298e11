"""The examples of one cohort, taken out of a data set on the host."""

import dataclasses
import mmap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen.data.federated import FederatedDataset
from fedjax_gen.federated.sampling import Cohort


def clients_only(data: FederatedDataset) -> FederatedDataset:
  """The data set on the device without its examples: what samplers read."""
  return dataclasses.replace(
    data,
    inputs=jnp.zeros((0, *data.inputs.shape[1:])),
    labels=jnp.zeros(0, jnp.int32),
    order=jnp.zeros(0, jnp.int32),
    offsets=jnp.zeros(0, jnp.int32),
    sizes=jnp.asarray(data.sizes),
    groups=jnp.asarray(data.groups),
  )


def most_examples(data: FederatedDataset, cohort_size: int) -> int:
  """Examples of the largest cohort there can be; at least one."""
  sizes = np.asarray(data.sizes)
  if cohort_size < len(sizes):
    sizes = np.partition(sizes, -cohort_size)[-cohort_size:]
  return max(int(sizes.sum()), 1)


def gather(
  data: FederatedDataset, cohort: Cohort, num_examples: int
) -> FederatedDataset:
  """The data set of a cohort's clients, in the cohort's order.

  Args:
    data: everyone's, on the host.
    cohort: NumPy arrays; the absent get no examples.
    num_examples: rows to pad the examples to, see `most_examples`, so that
      every cohort has the same shapes.

  Returns:
    K clients with examples of their own, in memory on the host. Sizes and
    groups are those of the clients; `min_size` and `max_size` those of the
    population, so that clients lay out their work as they would in it.
  """
  row, present = np.asarray(cohort.row), np.asarray(cohort.present)
  sizes = np.where(present, data.sizes[row], 0)
  offsets = np.cumsum(sizes) - sizes
  starts = np.repeat(data.offsets[row] - offsets, sizes)
  examples = data.order[starts + np.arange(len(starts))]
  inputs = np.zeros(
    (num_examples, *data.inputs.shape[1:]),
    jax.dtypes.canonicalize_dtype(data.inputs.dtype),
  )
  labels = np.zeros(num_examples, np.int32)
  inputs[: len(examples)] = _mapped_anew(data.inputs)[examples]
  labels[: len(examples)] = data.labels[examples]
  arrays: dict[str, Any] = {
    'inputs': inputs,
    'labels': labels,
    'order': np.arange(num_examples, dtype=np.int32),
    'offsets': offsets.astype(np.int32),
    'sizes': sizes.astype(np.int32),
    'groups': data.groups[row],
  }
  return dataclasses.replace(data, **arrays)


def _mapped_anew(array: Any) -> np.ndarray:
  """The array; if it is a file's, through a map that only the caller holds.

  Pages that are read stay resident as long as their map does. Gone with it,
  they are only the system's cache.
  """
  # A view of a map has an offset that is not said; it stays as it is.
  if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
    return np.memmap(
      array.filename, array.dtype, 'r', array.offset, array.shape,
      'F' if array.flags.fnc else 'C',
    )  # fmt: skip
  return array

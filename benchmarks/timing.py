"""How long something takes, what it needs, and how far two results differ."""

from collections.abc import Callable, Sequence
import resource
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from fedjax_gen.types import Tree


def timed(run: Callable[[], Any]) -> tuple[float, float]:
  """Seconds on the clock, and of all threads together."""
  wall, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(run())
  return time.perf_counter() - wall, time.process_time() - cpu


def summary(measured: Sequence[tuple[float, float]]) -> dict[str, Any]:
  """What `timed` returned several times, and the medians."""
  wall, cpu = zip(*measured, strict=True)
  return {
    'seconds': wall,
    'median_seconds': statistics.median(wall),
    'cpu_seconds': cpu,
    'median_cpu_seconds': statistics.median(cpu),
  }


def peak_rss() -> int:
  """Most bytes that the process has had resident."""
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def largest_difference(tree: Tree, other: Tree) -> float:
  """Largest difference of any number of two trees of one structure."""
  both = jax.tree.map(
    lambda left, right: np.abs(
      np.asarray(left, np.float64) - np.asarray(right, np.float64)
    ).max(initial=0.0),
    tree,
    other,
  )
  return float(max(jax.tree.leaves(both)))

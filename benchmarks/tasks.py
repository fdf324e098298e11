"""What the contestants of `benchmarks.run` do: clients, steps, examples.

NumPy alone: every contestant reads this, whatever is installed where it runs.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

# Multiplications and additions of a forward pass, of one example, by layer.
# The first layer of a model has no gradient of its inputs.
_MACS: dict[str, Sequence[int]] = {
  'conv_vae': (
    14 * 14 * 16 * 32,  # 4 x 4, stride 2, 1 -> 32
    7 * 7 * 16 * 32 * 64,  # 32 -> 64
    3136 * 32,  # mean and log-variance of 16 latents
    16 * 3136,
    7 * 7 * 16 * 64 * 32,  # transposed, 64 -> 32
    14 * 14 * 16 * 32,  # transposed, 32 -> 1
  ),
  'mlp_vae': (784 * 256, 256 * 32, 16 * 256, 256 * 784),
  'emnist_conv': (
    26 * 26 * 9 * 32,  # 3 x 3, 1 -> 32
    24 * 24 * 9 * 32 * 64,  # 32 -> 64, then pooled
    9216 * 128,
    128 * 62,
  ),
}


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

    What the mathematics asks for, not what a program does; None if nobody
    has counted it.
    """
    macs = _MACS.get(self.name)
    if macs is None:
      return None
    return 2 * (3 * sum(macs) - macs[0]) * self.samples

  def record(self) -> dict[str, Any]:
    """As JSON values, of which `Task(**record)` makes it again."""
    return dataclasses.asdict(self)


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
  # Algorithms of the library, beside a loop that calls their clients' programs.
  Task('fedvae_paper', 4, 2, 128),
  Task('fissionvae', 20, 4, 32),
  Task('fedhypevae', 100, 1, 32),
  Task('fedvtc', 9, 2, 32),
)
"""What is measured otherwise."""

"""How the clients of a cohort are laid over time and devices.

Every mapping gives the same numbers to float tolerance; with
`reproducible=True` they are the same to the last bit for every number of
devices. Clients are laid out as lanes x blocks x clients of a block: a block
is mapped at once, the blocks of a lane follow each other, and devices share the
lanes. `lanes` runs them.
"""

import dataclasses
import os

import jax
from jax.sharding import Mesh

from fedjax_gen import validate
from fedjax_gen.errors import InputError

AXIS = 'clients'
"""Name of the mesh axis that clients are spread over."""


@dataclasses.dataclass(frozen=True)
class Mapping:
  """Where and when each client of a cohort is computed.

  Attributes:
    block_size: clients computed at once. 1 is one after the other, `'all'`
      the whole cohort. `'auto'` is 1 on CPU, where mapping clients brings no
      speed and costs memory, and `'all'` on accelerators; of a cohort that
      does not fit there runners take the largest block that does (`memory`).
      With `reproducible` it is 1 everywhere.
    mesh: devices to share the cohort, a mesh with the axis `'clients'` (see
      `clients_mesh`); one device if `None`.
    reproducible: whether sums are taken in an order that does not depend on
      the number of devices. Costs one gather of `num_lanes` sums in place of
      a `psum`; needs a whole `block_size`.
    num_lanes: how many partial sums the reproducible order has. The number of
      devices must divide it, and changing it changes the last bits.

  Raises:
    InputError: a field is out of range or two of them exclude each other.
  """

  block_size: int | str = 'auto'
  mesh: Mesh | None = None
  reproducible: bool = False
  num_lanes: int = 8

  def __post_init__(self):
    if isinstance(self.block_size, str):
      validate.one_of(('auto', 'all'), block_size=self.block_size)
    else:
      validate.positive_int(block_size=self.block_size)
    validate.positive_int(num_lanes=self.num_lanes)
    if self.mesh is not None and self.mesh.axis_names != (AXIS,):
      raise InputError(
        f"Expected mesh to have the one axis '{AXIS}', got "
        f'{self.mesh.axis_names}.'
      )
    if self.reproducible and self.num_lanes % self.num_devices:
      raise InputError(
        'Expected num_lanes to be a multiple of the number of devices, got '
        f'num_lanes={self.num_lanes} and {self.num_devices} devices.'
      )
    if self.reproducible and self.block_size == 'all':
      raise InputError(
        "Expected a whole block_size with reproducible=True, got 'all': the "
        'block would depend on the number of devices.'
      )

  @property
  def num_devices(self) -> int:
    """Devices that share a cohort."""
    return 1 if self.mesh is None else self.mesh.size

  def layout(self, num_clients: int) -> tuple[int, int, int]:
    """(lanes, blocks of a lane, clients of a block) for a cohort."""
    lanes = self.num_lanes if self.reproducible else self.num_devices
    if isinstance(self.block_size, int):
      block = self.block_size
    elif self.block_size == 'auto' and (
      self.reproducible or jax.default_backend() == 'cpu'
    ):
      block = 1
    else:
      block = -(-num_clients // lanes)
    # No larger than a lane's share, or some devices would only pad; and all
    # blocks alike, or the last would. Reproducible lanes are a fixed number,
    # so this does not depend on the devices.
    block = min(block, -(-num_clients // lanes))
    blocks = -(-num_clients // (lanes * block))
    block = -(-num_clients // (lanes * blocks))
    if self.reproducible:
      # Lanes that would hold padding alone are not computed, unless a device
      # would be idle anyway. Their sums would be zero: the bits agree.
      needed = -(-num_clients // (blocks * block))
      lanes = min(lanes, -(-needed // self.num_devices) * self.num_devices)
    return lanes, blocks, block


def clients_mesh(num_devices: int | None = None) -> Mesh:
  """A mesh of the first `num_devices` devices (all by default).

  Raises:
    InputError: there are fewer devices than that.
  """
  available = len(jax.devices())
  count = available if num_devices is None else num_devices
  validate.positive_int(num_devices=count)
  if count > available:
    raise InputError(
      f'Expected num_devices <= {available}, the devices there are, got '
      f"num_devices={count}. On CPU jax.config.update('jax_num_cpu_devices', "
      f'{count}) makes so many, before the first use of one.'
    )
  return jax.make_mesh(
    (count,),
    (AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:count],
  )


def default_cpu_devices() -> int:
  """Number of virtual CPU devices to use: one per core, as a power of two.

  Clients on several devices scale with the cores; the matrix products of one
  client do not. At most 8, the lanes of `Mapping.reproducible`.
  """
  return 1 << min(cpu_cores().bit_length() - 1, 3)


def cpu_cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1

"""Flags of a run in several processes, and their start."""

import contextlib
import dataclasses
import os
import sys

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.running.distributed import rendezvous
from fedjax_gen.running.distributed.processes import ALONE, Processes


@dataclasses.dataclass(frozen=True)
class DistributedConfig(fields.Configuration):
  """Several processes, the same command in each but for `--process_id`.

  Raises:
    InputError: a value is out of range, or one that it needs is missing.
  """

  coordinator: str = fields.option(
    '',
    'Address of process 0, as all processes reach it.',
    placeholder='HOST:PORT',
    recorded=False,
  )
  num_processes: int | None = fields.option(
    None, 'P, processes in all.', recorded=False
  )
  process_id: int | None = fields.option(
    None,
    'Which of them this is, from 0 to P-1; 0 writes the work directory.',
    recorded=False,
  )
  distributed: str = fields.option(
    'off',
    'auto: the cluster (TPU pod, Slurm step ...) says the three above.',
    choices=('off', 'auto'),
    recorded=False,
  )
  start_seconds: int = fields.positive_int(
    300, 'How long to wait for all processes.', recorded=False
  )
  silence_seconds: int = fields.positive_int(
    60,
    'After so long without a sign of life a process counts as dead.',
    recorded=False,
  )

  @property
  def is_given(self) -> bool:
    """Whether there are several processes."""
    return self.distributed == 'auto' or self.process_id is not None

  def __post_init__(self):
    super().__post_init__()
    given = {
      'coordinator': bool(self.coordinator),
      'num_processes': self.num_processes is not None,
      'process_id': self.process_id is not None,
    }
    if self.distributed == 'auto' and any(given.values()):
      raise InputError(
        'Expected either --distributed=auto or --coordinator, --num_processes '
        'and --process_id, got both.'
      )
    if any(given.values()) and not all(given.values()):
      missing = [
        f'--{name}' for name, is_given in given.items() if not is_given
      ]
      raise InputError(
        'Expected --coordinator, --num_processes and --process_id together, '
        f'got no {" and no ".join(missing)}.'
      )
    if self.num_processes is None or self.process_id is None:
      return
    rendezvous.address(self.coordinator)
    validate.positive_int(num_processes=self.num_processes)
    if not 0 <= self.process_id < self.num_processes:
      raise InputError(
        f'Expected 0 <= process_id < {self.num_processes}, the number of '
        f'processes, got process_id={self.process_id}.'
      )


def start(config: DistributedConfig, num_devices: int) -> Processes:
  """Joins the other processes, if there are any; before a device is used.

  On CPU it also makes the devices that are asked for.

  Args:
    config: of the processes.
    num_devices: that share a cohort, in all processes; 0 for all there are.

  Raises:
    InputError: the processes do not meet, or `num_devices` leaves some out.
  """
  _make_cpu_devices(num_devices, config.num_processes or 1)
  if config.distributed == 'auto':
    processes = rendezvous.detect(
      patience=config.silence_seconds, start_seconds=config.start_seconds
    )
  elif config.num_processes is not None and config.process_id is not None:
    processes = rendezvous.connect(
      config.coordinator,
      config.num_processes,
      config.process_id,
      patience=config.silence_seconds,
      start_seconds=config.start_seconds,
    )
  else:
    _check_cpu_devices(num_devices)
    return ALONE
  import jax

  if processes.count > 1 and num_devices not in (0, jax.device_count()):
    raise InputError(
      f'Expected num_devices=0, all of {jax.device_count()} devices of '
      f'{processes.count} processes, got num_devices={num_devices}: a process '
      'without a part would train everything by itself.'
    )
  return processes


def _make_cpu_devices(num_devices: int, count: int) -> None:
  """Has the CPU appear as so many devices; without effect on other backends."""
  import jax

  from fedjax_gen.federated import mapping

  is_decided = (
    jax.config.jax_num_cpu_devices >= 0  # type: ignore[attr-defined]
    or 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
  )
  if num_devices == 0 and count == 1:
    num_devices = mapping.default_cpu_devices()
  if is_decided or num_devices < 2:
    return
  if num_devices % count:
    raise InputError(
      f'Expected num_devices to be a multiple of the {count} processes, got '
      f'num_devices={num_devices}.'
    )
  # In Python a device may have been used before: then they are as they are.
  with contextlib.suppress(RuntimeError):
    jax.config.update(
      'jax_num_cpu_devices', min(num_devices // count, _most_cpu_devices())
    )


def _most_cpu_devices() -> int:
  """Devices that a CPU is made to appear as, at most.

  Those of one program wait for each other, each on a thread: of many more than
  cores some never get their turn. As many as `Mapping.reproducible` has lanes
  work anywhere, so that bits can be compared.
  """
  from fedjax_gen.federated import mapping

  return max(mapping.cpu_cores(), mapping.Mapping().num_lanes)


def _check_cpu_devices(num_devices: int) -> None:
  """Refuses, or warns of, more CPU devices than there are cores.

  Raises:
    InputError: there are so many more that a round might not end.
  """
  import jax

  from fedjax_gen.federated import mapping

  cores = mapping.cpu_cores()
  if num_devices <= cores or jax.default_backend() != 'cpu':
    return
  most = max(_most_cpu_devices(), jax.device_count())
  if num_devices > most:
    raise InputError(
      f'Expected num_devices <= {most} on a CPU of {cores} cores, got '
      f'num_devices={num_devices}: more devices than cores wait for each other.'
    )
  print(
    f'num_devices={num_devices} on a CPU of {cores} cores: each device waits '
    f'for a core; --num_devices={mapping.default_cpu_devices()} is faster.',
    file=sys.stderr,
  )

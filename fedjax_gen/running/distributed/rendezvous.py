"""How the processes of a run find each other: `jax.distributed`, with messages.

A wrong address, or a process that does not come, is reported by name and within
a time limit; JAX would end the process from C++.
"""

import json
import os
import platform
import socket
import time
from typing import Any

from fedjax_gen.errors import InputError
from fedjax_gen.running.distributed import aborts
from fedjax_gen.running.distributed.processes import AGAIN, Processes

_RETRY_SECONDS = 0.2


def connect(
  coordinator: str,
  count: int,
  index: int,
  *,
  patience: int,
  start_seconds: int,
) -> Processes:
  """Joins `count` processes at an address; before JAX's first use of a device.

  Args:
    coordinator: `HOST:PORT` of process 0, as all processes reach it.
    count: of processes.
    index: of this one, < count.
    patience: seconds of silence after which a process counts as dead.
    start_seconds: for all processes to come.

  Raises:
    InputError: the port is taken, or the coordinator cannot be reached.
  """
  if index:
    _wait_for_port(coordinator, start_seconds)
  else:
    _check_port(coordinator)
  return _initialize(
    patience,
    start_seconds,
    f'Not all of {count} processes came to {coordinator} within '
    f'{start_seconds} s. Start one for each --process_id from 0 to '
    f'{count - 1}, with the same --num_processes.',
    coordinator_address=coordinator,
    num_processes=count,
    process_id=index,
    cluster_detection_method='deactivate',
  )


def detect(*, patience: int, start_seconds: int) -> Processes:
  """Joins the processes of the cluster that JAX finds itself in.

  Raises:
    InputError: it finds none.
  """
  try:
    return _initialize(
      patience,
      start_seconds,
      'Not all processes of the job reached its coordinator within '
      f'{start_seconds} s.',
    )
  except (ValueError, RuntimeError) as error:
    raise InputError(
      'Expected --distributed=auto in a TPU pod, a Slurm step, an Open MPI job '
      "or, with the package jax[k8s], a Kubernetes job; JAX's detection says: "
      f'{error} Elsewhere give --coordinator, --num_processes and --process_id.'
    ) from error


def _initialize(
  patience: int, start_seconds: int, nobody_came: str, **arguments: Any
) -> Processes:
  import jax

  # A peer's death is to reach us as an exception, not as C++'s `abort`.
  jax.config.update('jax_enable_recoverability', True)
  # It would take SIGTERM, for which we have a handler that saves.
  jax.config.update('jax_enable_preemption_service', False)
  handler = aborts.explain(lambda: (f'{nobody_came}\n', 1))
  jax.distributed.initialize(
    heartbeat_timeout_seconds=patience,
    initialization_timeout=start_seconds,
    **arguments,
  )
  state, client = _state()
  names = _names(client, state.process_id, state.num_processes, start_seconds)
  result = Processes(
    state.process_id, state.num_processes, client, names, patience
  )
  result.handler = aborts.explain(
    lambda: _on_abort(result, state.coordinator_address)
  )
  del handler  # no earlier: ctypes would have freed it
  return result


def _state() -> tuple[Any, Any]:
  """JAX's distributed state, and in it the client of the coordinator.

  Private, and what Orbax and others use: JAX has no public key-value store.
  """
  from jax._src import distributed

  return distributed.global_state, distributed.global_state.client


def _names(client: Any, index: int, count: int, seconds: int) -> list[str]:
  """Every process by number, host and process id, told to all."""
  name = f'process {index} ({platform.node()}, pid {os.getpid()})'
  client.key_value_set(f'name/{index}', json.dumps(name))
  return [
    json.loads(client.blocking_key_value_get(f'name/{i}', seconds * 1000))
    for i in range(count)
  ]


def _on_abort(processes: Processes, coordinator: str) -> tuple[str, int] | None:
  """What to say of an `abort`; called in a dying process, without JAX."""
  me, writer = processes.names[processes.index], processes.names[0]
  if processes.farewell is not None:  # the coordinator left first
    said = f'{me}: {processes.reason}\n' if processes.reason else ''
    return said, processes.farewell
  if not processes.is_writer and not _answers(coordinator, 1.0):
    return (
      f'{me}: Lost {writer}, the coordinator at {coordinator}: it ended or '
      f'cannot be reached; its own output says more. {AGAIN}\n'
    ), 1
  os.write(
    2,
    f'{me}: Aborted by a library. TF_CPP_MIN_LOG_LEVEL=0 in the environment '
    'shows its own words.\n'.encode(),
  )
  return None


def _check_port(coordinator: str) -> None:
  _, port = address(coordinator)
  is_dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if is_dual else socket.AF_INET
  try:
    socket.create_server(
      ('', port), family=family, dualstack_ipv6=is_dual
    ).close()
  except OSError as error:
    raise InputError(
      f'Cannot listen at port {port} of --coordinator={coordinator}: '
      f'{error.strerror}. Give all processes another port.'
    ) from error


def _wait_for_port(coordinator: str, seconds: float) -> None:
  deadline = time.monotonic() + seconds
  while not _answers(coordinator, 1.0):
    if time.monotonic() > deadline:
      raise InputError(
        f'Cannot reach --coordinator={coordinator} within {seconds} s. Is '
        'process 0 running there, and the port open between the hosts?'
      )
    time.sleep(_RETRY_SECONDS)


def _answers(coordinator: str, seconds: float) -> bool:
  try:
    socket.create_connection(address(coordinator), seconds).close()
  except OSError:
    return False
  return True


def address(coordinator: str) -> tuple[str, int]:
  """Host and port of `HOST:PORT`.

  Example:
    >>> address('10.0.0.1:1234')
    ('10.0.0.1', 1234)
  """
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise InputError(
      'Expected coordinator to be HOST:PORT, the address of process 0, got '
      f'coordinator={coordinator!r}.'
    )
  return host.strip('[]'), int(port)

"""Flower's own processes, started and ended by ours.

What they say goes to files. Their telemetry and their look for updates are off:
nothing leaves that the two commands do not send.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

from fedjax_gen.errors import InputError
from fedjax_gen.running.storage import disk

_APP = pathlib.Path(__file__).parent / 'app'
_CONNECTION = 'coordinator'
_PATIENCE = 60.0  # seconds for a process to start
# Runs a command that ends with its parent, on Linux: where that is killed no
# handler runs, and the port would stay taken. Not in `preexec_fn`, which forks,
# and JAX has threads.
_ENDING = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == 'linux':
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclasses.dataclass(frozen=True)
class Tls:
  """Files of a coordinator that is known by a certificate.

  Attributes:
    certificate: of the coordinator, PEM.
    key: its private key.
    authority: the certificate by which sites know it.
  """

  certificate: str
  key: str
  authority: str


def check_installed() -> None:
  """Raises `InputError` unless Flower is installed."""
  if importlib.util.find_spec('flwr') is None:
    raise InputError(
      'A federation between sites needs Flower, which is not installed: pip '
      "install 'fedjax_gen[flower]'."
    )


@contextlib.contextmanager
def superlink(
  folder: pathlib.Path, host: str, port: int, tls: Tls | None
) -> Iterator[None]:
  """The process that sites connect to. Without TLS on this machine alone.

  With TLS a site must also have been registered by its public key.

  Args:
    folder: for logs and settings.
    host: on which to listen.
    port: likewise.
    tls: None for none.

  Raises:
    InputError: it does not start, for instance since the port is taken.
  """
  command = [
    'flower-superlink', '--host', host, '--port', str(port),
    '--disable-runtime-dependency-installation',
  ]  # fmt: skip
  if tls is None:
    command.append('--insecure')
  else:
    command += [
      '--ssl-certfile', tls.certificate, '--ssl-keyfile', tls.key,
      '--ssl-ca-certfile', tls.authority, '--enable-supernode-auth',
    ]  # fmt: skip
  safety = (
    'insecure = true'
    if tls is None
    else f'root-certificates = "{tls.authority}"'
  )
  disk.write_atomically(
    folder / 'home' / 'config.toml',
    f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
    f'address = "127.0.0.1:{port}"\n{safety}\n',
  )
  if _is_open(port):
    raise InputError(
      f'Expected a free port, got port={port}: something listens there.'
    )
  with _process(command, folder, 'superlink') as process:
    until = time.monotonic() + _PATIENCE
    while not _is_open(port):
      if process.poll() is not None or time.monotonic() > until:
        raise InputError(
          'Flower’s SuperLink does not start:\n'
          f'{_last_lines(folder / "superlink.log")}'
        )
      time.sleep(0.1)
    yield


def register(folder: pathlib.Path, public_key: str) -> None:
  """Lets the site with a public key in a file connect.

  Raises:
    InputError: it is none.
  """
  _run(['flwr', 'supernode', 'register', public_key, _CONNECTION], folder)


def submit(folder: pathlib.Path, meeting: pathlib.Path) -> None:
  """Starts the server app, which connects to who listens at a folder.

  Raises:
    InputError: Flower refuses.
  """
  app = folder / 'app'
  shutil.copytree(_APP, app, dirs_exist_ok=True, ignore=_no_bytecode)
  _run(
    ['flwr', 'run', str(app), _CONNECTION,
     '--run-config', f'meeting-folder="{meeting}"'],
    folder,
  )  # fmt: skip


@contextlib.contextmanager
def supernode(
  folder: pathlib.Path,
  coordinator: str,
  meeting: pathlib.Path,
  *,
  authority: str | None,
  private_key: str | None,
) -> Iterator[subprocess.Popen]:
  """The process that connects a site, and hands messages to who listens.

  Args:
    folder: for logs.
    coordinator: HOST:PORT.
    meeting: the folder at which the site's process listens.
    authority: the certificate by which the coordinator is known; None for no
      TLS.
    private_key: by which the site is known; None for none.

  Yields:
    The process: the connection is lost when it ends.
  """
  command = [
    'flower-supernode', '--superlink', coordinator,
    '--port', str(free_port()),
    '--node-config', f'meeting-folder="{meeting}"',
  ]  # fmt: skip
  if authority is None:
    command.append('--insecure')
  else:
    command += ['--root-certificates', authority]
  if private_key is not None:
    command += ['--auth-supernode-private-key', private_key]
  with _process(command, folder, 'supernode') as process:
    yield process


def free_port() -> int:
  """A port of this machine that nobody listens at."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def _environment(folder: pathlib.Path) -> dict[str, str]:
  binaries = pathlib.Path(sys.executable).parent
  return {
    **os.environ,
    'PATH': f'{binaries}{os.pathsep}{os.environ.get("PATH", "")}',
    'FLWR_HOME': str((folder / 'home').resolve()),
    'FLWR_TELEMETRY_ENABLED': '0',
    'FLWR_DISABLE_UPDATE_CHECK': '1',
    'FLWR_SUPEREXEC_TASK_POLL_INTERVAL': '0.1',
  }


@contextlib.contextmanager
def _process(
  command: Sequence[str], folder: pathlib.Path, name: str
) -> Iterator[subprocess.Popen]:
  """A process that ends with the block, and with this process."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / f'{name}.log').open('ab') as log:
    process = subprocess.Popen(
      [sys.executable, '-c', _ENDING, *command],
      env=_environment(folder),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
  try:
    yield process
  finally:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(command: Sequence[str], folder: pathlib.Path) -> None:
  done = subprocess.run(
    command,
    env=_environment(folder),
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  with (folder / 'flwr.log').open('a', encoding='utf-8') as log:
    log.write(done.stdout)
  if done.returncode:
    raise InputError(
      f'Flower refuses {" ".join(command[:3])}:\n'
      f'{chr(10).join(done.stdout.splitlines()[-10:])}'
    )


def _is_open(port: int) -> bool:
  with socket.socket() as found:
    return found.connect_ex(('127.0.0.1', port)) == 0


def _last_lines(path: pathlib.Path) -> str:
  return '\n'.join(path.read_text(errors='replace').splitlines()[-10:])


def _no_bytecode(folder: str, names: Sequence[str]) -> set[str]:
  del folder
  return {name for name in names if name == '__pycache__'}

"""Kills sites and the coordinator of a federation over Flower, at random.

python -m benchmarks.flower_kills --kills=20

The two commands on this machine, three sites with digits, FedVAE. The sites
join once. Then the same folders are trained twice, without and with SIGKILL of
processes at random moments, each of which is started again at once. Both must
end with the same bits.
"""

from collections.abc import Sequence
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from absl import app, flags
import numpy as np

from fedjax_gen.data import sources
from fedjax_gen.deployment.flower import flower_processes

_KILLS = flags.DEFINE_integer('kills', 20, 'how many')
_ROUNDS = flags.DEFINE_integer('rounds', 12, 'of training')
_SEED = flags.DEFINE_integer('seed', 0, 'of who is killed, and when')

_SITES = 3
_DEADLINE = 10  # seconds until the coordinator asks again
_COMMAND = (
  'import sys; from fedjax_gen.studies.command.main import execute; '
  'sys.exit(execute(sys.argv[1:]))'
)
_COORDINATOR = 'coordinator'


class Outcome(NamedTuple):
  """Of a run.

  Attributes:
    digest: of the model.
    killed: names of the processes that were killed, in order.
    seconds: that it took.
  """

  digest: str
  killed: list[str]
  seconds: float


class _Federation:
  """The processes of a federation that works in a folder."""

  def __init__(self, folder: pathlib.Path, rounds: int):
    self.folder, self._rounds = folder, rounds
    self._port = flower_processes.free_port()
    self.processes: dict[str, subprocess.Popen] = {}

  def start(self, name: str, *more: str) -> None:
    """Starts a process, again if it was there before."""
    command = ['site', f'--data={self.folder / name}.npz', f'--name={name}',
               f'--state={self.folder / name}', '--insecure',
               f'--coordinator=127.0.0.1:{self._port}']  # fmt: skip
    if name == _COORDINATOR:
      command = [
        'coordinate', 'fedvae', f'--sites={_SITES}', f'--port={self._port}',
        f'--least={_SITES}', f'--deadline={_DEADLINE}', '--insecure',
        f'--workdir={self.folder / "run"}', f'--rounds={self._rounds}',
        f'--eval_every={self._rounds}', '--model=mlp', '--hidden_size=8',
        '--latent_size=2', '--num_samples=50', '--num_test_examples=60',
      ]  # fmt: skip
    with (self.folder / f'{name}.log').open('ab') as log:
      self.processes[name] = subprocess.Popen(
        [sys.executable, '-c', _COMMAND, *command, *more],
        stdout=log,
        stderr=log,
        env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
      )

  def start_all(self, *more: str) -> None:
    """All sites, and the coordinator with more flags."""
    for k in range(_SITES):
      self.start(f'site{k}')
    self.start(_COORDINATOR, *more)

  def __enter__(self) -> '_Federation':
    return self

  def __exit__(self, *unused_exception) -> None:
    for process in self.processes.values():
      process.terminate()
    for process in self.processes.values():
      try:
        process.wait(30)
      except subprocess.TimeoutExpired:
        process.kill()

  def last_lines(self) -> str:
    """What the coordinator said last."""
    text = (self.folder / f'{_COORDINATOR}.log').read_text(errors='replace')
    return '\n'.join(text.splitlines()[-20:])


def joined(folder: pathlib.Path, rounds: int) -> None:
  """Makes data, and lets the sites join a run that is not trained yet.

  Raises:
    RuntimeError: it does not come to that.
  """
  source = sources.load('digits')
  for k in range(_SITES):
    rows = slice(60 * k, 60 * (k + 1))
    np.savez(
      folder / f'site{k}.npz',
      x=source.train.inputs[rows],
      y=source.train.labels[rows],
    )
  federation = _Federation(folder, rounds)
  with federation:
    federation.start_all('--dry_run')
    if federation.processes[_COORDINATOR].wait(300):
      raise RuntimeError(federation.last_lines())


def trained(
  folder: pathlib.Path, rounds: int, kills: int, seed: int
) -> Outcome:
  """Trains in a folder of `joined`, with some kills.

  Raises:
    RuntimeError: the coordinator ends with an error, or before all kills.
  """
  draws = random.Random(seed)
  federation, killed = _Federation(folder, rounds), []
  started = time.monotonic()
  with federation:
    federation.start_all()
    lead = federation.processes[_COORDINATOR]
    while lead.poll() is None:
      if len(killed) == kills:
        lead.wait(900)
        continue
      time.sleep(draws.uniform(0.5, 12.0))
      if lead.poll() is not None:
        break
      name = draws.choice(list(federation.processes))
      federation.processes[name].send_signal(signal.SIGKILL)
      federation.processes[name].wait()
      killed.append(name)
      federation.start(name)
      lead = federation.processes[_COORDINATOR]
    if lead.returncode or len(killed) < kills:
      raise RuntimeError(
        f'{len(killed)} of {kills} kills, exit status {lead.returncode}:\n'
        f'{federation.last_lines()}'
      )
  summary = json.loads((folder / 'run' / 'summary.json').read_text())
  return Outcome(summary['params_digest'], killed, time.monotonic() - started)


def compared(
  folder: pathlib.Path, rounds: int, kills: int, seed: int
) -> list[Outcome]:
  """Without kills and with, from the same start."""
  start = folder / 'start'
  start.mkdir()
  joined(start, rounds)
  outcomes = []
  for name, number in (('calm', 0), ('killed', kills)):
    shutil.copytree(start, folder / name)
    outcomes.append(trained(folder / name, rounds, number, seed))
  return outcomes


def main(unused_argv: Sequence[str]) -> None:
  """Prints both outcomes.

  Raises:
    SystemExit: their bits differ.
  """
  with tempfile.TemporaryDirectory() as folder:
    calm, killed = compared(
      pathlib.Path(folder), _ROUNDS.value, _KILLS.value, _SEED.value
    )
  print(
    f'{_ROUNDS.value} rounds: {calm.seconds:.0f} s without kills, '
    f'{killed.seconds:.0f} s with {len(killed.killed)} '
    f'({", ".join(killed.killed)}).\n{calm.digest}\n{killed.digest}'
  )
  if calm.digest != killed.digest:
    sys.exit('Expected the same bits.')


if __name__ == '__main__':
  app.run(main)

"""What a process says when the coordinator is gone, on whatever path."""

import atexit

import jax
import pytest

from fedjax_gen.running.distributed import rendezvous
from fedjax_gen.running.distributed.processes import EndedError, Processes

_NAMES = ('process 0 (a, pid 1)', 'process 1 (b, pid 2)')


class _Gone:
  """A client whose coordinator is gone, or answers with another error."""

  def __init__(self, words='UNAVAILABLE: failed to connect'):
    self._words = words

  def _fail(self, *unused):
    raise jax.errors.JaxRuntimeError(self._words)

  get_live_nodes = blocking_key_value_get = _fail
  key_value_set = key_value_dir_get = _fail


@pytest.fixture(autouse=True)
def _exits_as_ever(monkeypatch):
  """A process that ends leaves with its own status, which tests must not."""
  monkeypatch.setattr(atexit, 'register', lambda *unused: None)


def test_a_lost_coordinator_is_named_by_whoever_asks_it():
  processes = Processes(1, 2, _Gone(), _NAMES)
  for ask in (lambda: processes.exchange(1), processes.check):
    with pytest.raises(EndedError, match=r'Lost process 0 \(a.*same commands'):
      ask()


def test_other_errors_stay_what_they_are():
  other = Processes(1, 2, _Gone('INVALID_ARGUMENT: what?'), _NAMES)
  writer = Processes(0, 2, _Gone(), _NAMES)
  for processes in (other, writer):
    with pytest.raises(jax.errors.JaxRuntimeError):
      processes.check()


def test_an_abort_while_a_process_ends_does_not_swallow_why():
  processes = Processes(1, 2, _Gone(), _NAMES)
  processes.end(1, 'Lost process 0 (a, pid 1).')
  said = rendezvous._on_abort(processes, 'localhost:1')
  assert said == (f'{_NAMES[1]}: Lost process 0 (a, pid 1).\n', 1)


def test_an_abort_after_all_went_well_says_nothing():
  processes = Processes(1, 2, _Gone(), _NAMES)
  processes.end(0)
  assert rendezvous._on_abort(processes, 'localhost:1') == ('', 0)

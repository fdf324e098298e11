"""Secrets are made once, stay in the private folder, and are not replaced."""

import stat

import pytest

from fedjax_gen.errors import InputError
from fedjax_gen.privacy import secret_keys
from fedjax_gen.running.storage import disk, run_secrets
from fedjax_gen.running.storage.workdir import Workdir


def _open(path, **config):
  return Workdir(path, config, is_private=True)


def _mode(path):
  return stat.S_IMODE(path.stat().st_mode)


def test_a_resumed_run_has_the_secrets_that_it_began_with(tmp_path):
  with _open(tmp_path / 'a') as workdir:
    first = run_secrets.secrets_of(workdir, -1)
  with _open(tmp_path / 'a') as workdir:
    assert run_secrets.secrets_of(workdir, -1) == first
  with _open(tmp_path / 'b') as workdir:
    assert run_secrets.secrets_of(workdir, -1) != first
  assert not first.is_nominal


def test_a_noise_seed_repeats_and_is_nominal(tmp_path):
  found = []
  for name in ('a', 'b'):
    with _open(tmp_path / name) as workdir:
      found.append(run_secrets.secrets_of(workdir, 7))
  assert found[0] == found[1] == secret_keys.nominal(7)


def test_nobody_else_may_read_the_folders(tmp_path):
  with _open(tmp_path / 'a') as workdir:
    run_secrets.secrets_of(workdir, -1)
    workdir.rewind('method', 0)
    workdir.log('method', [{'round': 1, 'loss': 1.0}])
    workdir.pin(data='digest')
  for folder in ('private', 'release'):
    assert _mode(tmp_path / 'a' / folder) == 0o700
  names = ('secrets.json', 'inputs.json', 'metrics.jsonl')
  for name in names:
    assert _mode(tmp_path / 'a' / 'private' / name) == 0o600
  assert (tmp_path / 'a' / 'metrics.jsonl').read_text()
  (tmp_path / 'plain').touch()
  assert _mode(tmp_path / 'plain') != 0o600  # the process is as it was


def test_without_its_secrets_a_run_that_released_is_refused(tmp_path):
  with _open(tmp_path / 'a') as workdir:
    run_secrets.secrets_of(workdir, -1)
    path = workdir.kept / run_secrets.NAME
    path.unlink()  # before anything was released it may begin anew
    run_secrets.secrets_of(workdir, -1)
    disk.write_atomically(workdir.released / run_secrets.LEDGER, '{}')
    path.unlink()
    with pytest.raises(InputError, match='second release'):
      run_secrets.secrets_of(workdir, -1)
    assert not path.exists()


def test_only_runs_on_the_same_data_are_found(tmp_path):
  for name, data in (('a', 'these'), ('b', 'others'), ('c', 'these')):
    with _open(tmp_path / name) as workdir:
      secrets = run_secrets.secrets_of(workdir, -1)
      workdir.pin(examples=secrets.digest(data))
  (tmp_path / 'no run').mkdir()
  with _open(tmp_path / 'd') as workdir:
    run_secrets.secrets_of(workdir, -1)
    found = run_secrets.runs_on_same_data(workdir, 'these')
  assert [path.name for path in found] == ['a', 'c']

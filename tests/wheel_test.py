"""What is installed: the wheel and the source archive, and nothing beside."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ('fedjax_gen',)
_COPIED = (*_PACKAGES, 'experiments', 'tests', 'benchmarks', 'docs')

pytest.importorskip('build', reason='building needs: pip install build')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The folder with both archives."""
  folder = tmp_path_factory.mktemp('wheel')
  # A copy, since building leaves files beside the sources.
  for name in _COPIED:
    ignored = shutil.ignore_patterns('__pycache__', '_build', '_api')
    shutil.copytree(_ROOT / name, folder / 'tree' / name, ignore=ignored)
  for path in _ROOT.iterdir():
    if path.is_file():
      shutil.copy(path, folder / 'tree')
  subprocess.run(
    [sys.executable, '-m', 'build', '--no-isolation', '--outdir=dist', 'tree'],
    cwd=folder,
    capture_output=True,
    check=True,
  )
  return folder / 'dist'


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
  """A folder as `site-packages` is with the wheel alone."""
  (wheel,) = built.glob('*.whl')
  folder = tmp_path_factory.mktemp('site-packages')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder)
  return folder


def _files(folder, *names):
  return {
    str(path.relative_to(folder))
    for name in names
    for path in folder.glob(f'{name}/**/*')
    if path.is_file() and '__pycache__' not in path.parts
  }


def test_the_wheel_holds_the_packages_whole_and_nothing_else(installed):
  assert _files(installed, *_PACKAGES) == _files(_ROOT, *_PACKAGES)
  (about,) = installed.glob('*.dist-info')
  assert {p.name for p in installed.iterdir()} == {*_PACKAGES, about.name}


def test_the_archive_of_sources_holds_no_tests(built):
  (path,) = built.glob('*.tar.gz')
  with tarfile.open(path) as archive:
    names = {pathlib.PurePath(name).parts[1:2] for name in archive.getnames()}
  assert {('fedjax_gen',), ('setup.cfg',)} <= names
  assert not names & {('tests',), ('benchmarks',), ('docs',)}


def test_an_index_would_take_them(built):
  pytest.importorskip('twine', reason='checking needs: pip install twine')
  subprocess.run(
    [sys.executable, '-m', 'twine', 'check', '--strict', *built.iterdir()],
    check=True,
  )


def test_programs_and_presets_work_without_the_repository(installed, tmp_path):
  def run(*command):
    return subprocess.run(
      [sys.executable, *command],
      cwd=tmp_path,
      env={'PYTHONPATH': str(installed)},
      capture_output=True,
      text=True,
      check=True,
    ).stdout

  parser = configparser.ConfigParser()
  parser.read(next(installed.glob('*.dist-info')) / 'entry_points.txt')
  module, _, function = parser['console_scripts']['fedjax-gen'].partition(':')
  script = (
    f'from {module} import {function}; import fedjax_gen; '
    f'print(fedjax_gen.__file__); {function}()'
  )
  where, _, presets = run('-c', script, 'fedvtc', '--list_presets').partition(
    '\n'
  )
  assert where == str(installed / 'fedjax_gen' / '__init__.py')
  assert '--preset=cifar10_subset' in presets

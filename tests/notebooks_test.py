"""Notebooks run and quote the pages; a script and its notebook agree."""

import ast
import os
import pathlib
import re
import types

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_NOTEBOOKS = sorted(_ROOT.glob('notebooks/*.py'))
_BY_NAME = pytest.mark.parametrize(
  'path', _NOTEBOOKS, ids=lambda path: path.stem
)

needed = "notebooks need: pip install -e '.[notebooks]'"
jupytext = pytest.importorskip('jupytext', reason=needed)
nbclient = pytest.importorskip('nbclient', reason=needed)
pytest.importorskip('ipykernel', reason=needed)


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """Environment of the kernels; they share what is compiled."""
  return os.environ | {
    'FEDJAX_GEN_NOTEBOOK': 'small',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': str(_ROOT),
  }


@_BY_NAME
def test_it_runs_and_shows_pictures_and_a_table(path, environment, tmp_path):
  notebook = jupytext.read(path)
  client = nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute(env=environment)  # the error names the cell
  shown = [
    output.data
    for cell in notebook.cells
    for output in cell.get('outputs', ())
    if 'data' in output
  ]
  pages = [data.get('text/html', '') for data in shown]
  assert sum('image/png' in data for data in shown) >= 2
  assert any('<table>' in page for page in pages)
  is_run = 'fedjax_gen.run(' in path.read_text(encoding='utf-8')
  assert is_run == any('data:image/png' in page for page in pages)
  assert is_run or path.stem in ('many_clients', 'own_algorithm')


@_BY_NAME
def test_the_notebook_beside_a_script_is_made_of_it(path):
  made = jupytext.read(path)
  kept = jupytext.read(path.with_suffix('.ipynb'))
  assert _cells(kept) == _cells(made), f'jupytext --to ipynb {path.name}'
  assert not any(cell.get('outputs') for cell in kept.cells)
  assert kept.metadata.kernelspec == made.metadata.kernelspec


@_BY_NAME
def test_it_begins_with_what_it_shows_and_the_same_setup(path):
  title, setup, *_ = jupytext.read(path).cells
  assert title.cell_type == 'markdown' and title.source.startswith('# ')
  assert re.search('You will see', title.source)
  assert re.search(r'[Aa]bout .* minutes? on two\s+CPU', title.source)
  assert setup.source == _setup(_NOTEBOOKS[0])


@_BY_NAME
def test_recorded_numbers_stand_on_the_page(path):
  tree = ast.parse(path.read_text(encoding='utf-8'))
  said = {
    ast.unparse(node.targets[0]): ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _SAID
  }
  if not said:
    assert path.stem in ('many_clients', 'own_data', 'watch', 'insurance')
    return
  page = (_ROOT / said['PAGE']).read_text(encoding='utf-8')
  numbers = list(_numbers(said['RECORDED']))
  assert numbers
  missing = [n for n in numbers if not re.search(rf'(?<![\d.]){n}(?!\d)', page)]
  assert missing == []


@pytest.mark.parametrize(
  'repository, uploaded, source',
  [
    ('', 'fedjax_gen-0.1.0-py3-none-any.whl', None),
    ('', 'fedjax_gen.zip', None),
    ('git+https://host/repository', '', 'git+https://host/repository'),
  ],
)
def test_on_colab_what_is_installed_there_stays(
  repository, uploaded, source, tmp_path, monkeypatch
):
  asked = []

  def run(command, check):
    asked.append((command, check))
    raise _Installed  # what comes after it imports the library

  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('COLAB_RELEASE_TAG', 'release-colab-20260101-060100')
  monkeypatch.setattr('subprocess.run', run)
  monkeypatch.setattr(
    'importlib.metadata.distributions',
    lambda: [
      types.SimpleNamespace(metadata={'Name': name}, version=version)
      for name, version in (
        ('jax', '0.10.2'),
        ('jaxlib', '0.10.2'),
        ('jax-cuda12-plugin', '0.10.2'),
        ('numpy', '2.0.2'),
        ('protobuf', '5.29.5'),
        ('tensorflow', '2.19.0'),
        ('optax', '0.2.6'),
        (None, '1'),  # what a broken installation leaves
      )
    ],
  )
  setup = _setup(_NOTEBOOKS[0])
  unset = "REPOSITORY = ''"
  assert unset in setup
  setup = setup.replace(unset, f'REPOSITORY = {repository!r}')
  if uploaded:
    with pytest.raises(FileNotFoundError, match='Upload fedjax_gen'):
      exec(setup, {})
    (tmp_path / uploaded).touch()
  with pytest.raises(_Installed):
    exec(setup, {})
  [(command, check)] = asked
  assert check and command[1:4] == ['-m', 'pip', 'install']
  assert command[-3:] == ['-c', 'constraints.txt', source or uploaded]
  assert (tmp_path / 'constraints.txt').read_text().splitlines() == [
    'jax-cuda12-plugin==0.10.2',
    'jax==0.10.2',
    'jaxlib==0.10.2',
    'numpy==2.0.2',
    'protobuf==5.29.5',
    'tensorflow==2.19.0',
  ]


def test_the_page_leads_to_each():
  page = (_ROOT / 'docs/notebooks.md').read_text(encoding='utf-8')
  for path in _NOTEBOOKS:
    assert f'`notebooks/{path.stem}.ipynb`' in page


class _Installed(Exception):
  pass


_SAID = ('PAGE', 'RECORDED')


def _setup(path):
  return jupytext.read(path).cells[1].source


def _cells(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


def _numbers(recorded):
  """The numbers of nested mappings, as a page writes them."""
  for value in recorded.values():
    if isinstance(value, dict):
      yield from _numbers(value)
    else:
      yield str(value).replace('-', '−')

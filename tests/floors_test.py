"""Imports go down the floors, as the table in docs/design.md has them."""

import ast
import functools
import graphlib
import pathlib
import re

_ROOT = pathlib.Path(__file__).parents[1]
_TABLE = re.compile(r'^\| module or folder \|.*\n\|.*\n((?:\|.*\n)+)', re.M)


@functools.cache
def _rules():
  """What each module or folder of the package may import, ground included."""
  page = (_ROOT / 'docs' / 'design.md').read_text(encoding='utf-8')
  rows = [
    [re.findall(r'`([\w.]+)`', cell) for cell in line.split('|')[1:3]]
    for line in _TABLE.search(page)[1].splitlines()
  ]
  ground, _ = rows[0]
  return {
    name: [*ground, *allowed] for names, allowed in rows for name in names
  }


def _is_module(name):
  path = _ROOT / name.replace('.', '/')
  return path.with_suffix('.py').exists() or path.is_dir()


def _imported(nodes):
  """Modules of ours that the nodes import."""
  for node in nodes:
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, 'imports are absolute'
      both = [(node.module, f'{node.module}.{a.name}') for a in node.names]
      names = [long if _is_module(long) else short for short, long in both]
    else:
      continue
    yield from (n for n in names if n.split('.')[0] in _OURS)


_OURS = ('fedjax_gen', 'experiments')


@functools.cache
def _imports(folder):
  """Modules and what they import anywhere, inside functions too."""
  result = {}
  for path in sorted((_ROOT / folder).rglob('*.py')):
    name = '.'.join(path.relative_to(_ROOT).with_suffix('').parts)
    tree = ast.parse(path.read_text(encoding='utf-8'))
    result[name.removesuffix('.__init__')] = set(_imported(ast.walk(tree)))
  return result


def _is_allowed(module, imported):
  """Whether a module of the package may import another."""
  floor, found = (n.split('.')[1] for n in (module, f'{imported}.'))
  inside = floor == found and floor != 'algorithms'
  name = imported.removeprefix('fedjax_gen.')
  return inside or any(
    f'{name}.'.startswith(f'{allowed}.') for allowed in _rules()[floor]
  )


def test_imports_go_down_the_floors():
  wrong = [
    f'{module} imports {imported}'
    for module, names in _imports('fedjax_gen').items()
    if module != 'fedjax_gen'
    for imported in names
    if not _is_allowed(module, imported)
  ]
  assert wrong == []


def test_the_table_names_everything_and_goes_down():
  order = list(_rules())
  modules = _imports('fedjax_gen')
  assert set(order) == {name.split('.')[1] for name in modules if '.' in name}
  ground = _rules()['errors']
  for row, name in enumerate(order[len(ground) :], start=len(ground)):
    assert {a.split('.')[0] for a in _rules()[name]} <= set(order[:row]), name


def test_nothing_imports_in_a_circle():
  graph = _imports('fedjax_gen') | _imports('experiments')
  graphlib.TopologicalSorter(graph).prepare()  # raises and names the circle


def test_the_package_itself_imports_nothing_heavy():
  tree = ast.parse((_ROOT / 'fedjax_gen' / '__init__.py').read_text())
  assert set(_imported(tree.body)) == {
    'fedjax_gen.errors',
    'fedjax_gen.version',
  }


def test_a_wrong_import_is_noticed():
  for module, imported in (
    ('federated.rounds', 'models.vae'),
    ('federated.rounds', 'data.sources'),
    ('models.vae', 'federated.rounds'),
    ('evaluation.vaes', 'running.saved'),
    ('algorithms.fissionvae', 'algorithms.fedvae'),
    ('trees', 'losses.gaussian'),
    ('running.saved', 'experiments.common'),
  ):
    package = '' if imported.startswith('experiments') else 'fedjax_gen.'
    assert not _is_allowed(f'fedjax_gen.{module}', f'{package}{imported}')

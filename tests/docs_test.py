"""What the documentation shows runs, and what it names exists."""

import pathlib
import re
import runpy

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = sorted([*_ROOT.glob('docs/*.md'), *_ROOT.glob('README.md')])
_BLOCK = re.compile(r'^```python(?P<info>.*)\n(?P<code>(?s:.*?))^```$', re.M)
# Pages whose Python runs, all of it. On the others only blocks that begin with
# "```python runnable" do.
_RUNNABLE = ('adding_an_algorithm.md', 'adding_a_generator.md')


def _blocks(page):
  """Python blocks as (rest of the opening line, line number, code)."""
  text = page.read_text(encoding='utf-8')
  for match in _BLOCK.finditer(text):
    line = text.count('\n', 0, match.start('code'))
    yield match['info'].strip(), line, match['code']


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.name)
def test_blocks_run_in_order_in_one_namespace(page, tmp_path, monkeypatch):
  codes = [
    '\n' * line + code  # so that an error names the line of the page
    for info, line, code in _blocks(page)
    if page.name in _RUNNABLE or info == 'runnable'
  ]
  if not codes:
    pytest.skip('no runnable block')
  monkeypatch.chdir(tmp_path)
  namespace = {'__name__': page.stem}
  for code in codes:
    exec(compile(code, page, 'exec'), namespace)


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.name)
def test_quoted_code_is_the_code(page):
  for info, line, code in _blocks(page):
    if not info.startswith('from '):
      continue
    source = (_ROOT / info.removeprefix('from ')).read_text(encoding='utf-8')
    assert ' '.join(code.split()) in ' '.join(source.split()), f'{page}:{line}'


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_exist(page):
  text = page.read_text(encoding='utf-8')
  links = re.findall(r'\]\((?!https?:|#)([^)#]+)', text)
  assert [link for link in links if not (page.parent / link).exists()] == []
  folders = 'fedjax_gen|tests|experiments|benchmarks|docs'
  paths = re.findall(rf'`((?:{folders})/[\w./]*\w)`', text)
  assert [path for path in paths if not (_ROOT / path).exists()] == []
  tests = ''.join(
    path.read_text(encoding='utf-8') for path in _ROOT.glob('tests/**/*.py')
  )
  # The name of a test is a sentence; metrics (`test_elbo`) have shorter ones.
  names = re.findall(r'`(test(?:_[a-z]+){4,})`', text)
  assert [name for name in names if f'def {name}(' not in tests] == []


def test_pictures_of_the_systems_are_what_the_script_draws():
  drawn = runpy.run_path(str(_ROOT / 'docs/diagrams.py'))
  for name, diagram in drawn['DIAGRAMS'].items():
    picture = _ROOT / 'docs/images' / f'{name}.svg'
    assert picture.read_text(encoding='utf-8') == drawn['svg'](diagram)
    # The page says the same in words, for who cannot see it.
    page = (_ROOT / 'docs' / f'{name}.md').read_text(encoding='utf-8')
    assert f'![{diagram.alt}](' in ' '.join(page.split())

"""The documentation as a site: built without a warning, complete, at home."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_HTTP = r'(?:https?:)?//'

pytest.importorskip(
  'sphinx_book_theme', reason="the site needs: pip install -e '.[docs]'"
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder of the site, and what building it complained of."""
  folder = tmp_path_factory.mktemp('site')
  # A copy, since the reference is written beside the pages.
  shutil.copytree(
    _ROOT / 'docs',
    folder / 'docs',
    ignore=shutil.ignore_patterns('_api', '_build', '__pycache__'),
  )
  shutil.copy(_ROOT / 'CHANGELOG.md', folder)
  built = subprocess.run(
    [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html']
    + ['docs', 'html'],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  return folder / 'html', built


@pytest.fixture(scope='module')
def pages(site):
  """The pages' HTML by their path in the site."""
  folder, _ = site
  return {
    str(path.relative_to(folder)): path.read_text(encoding='utf-8')
    for path in folder.glob('**/*.html')
  }


def test_it_builds_without_a_warning(site):
  _, built = site
  assert (built.stderr, built.returncode) == ('', 0)


def test_every_page_and_every_module_is_there(pages):
  written = {f'{path.stem}.html' for path in _ROOT.glob('docs/*.md')}
  modules = {
    '.'.join(path.relative_to(_ROOT).with_suffix('').parts)
    for path in _ROOT.glob('fedjax_gen/**/*.py')
    # Flower loads its app by itself; it is no module of the package.
    if path.name != '__init__.py' and 'app' not in path.parts
  }
  assert written | {f'_api/{name}.html' for name in modules} <= pages.keys()
  load = pages['_api/fedjax_gen.data.sources.html']
  assert 'from fedjax_gen.data import sources' in re.sub('<[^>]*>', '', load)


def test_no_other_host_is_asked_for_anything(site, pages):
  asking = re.compile(
    rf'<(?:script|img|iframe|source|link)\b[^>]*(?:src|href)="{_HTTP}[^"]*"'
  )
  assert {n: asking.findall(page) for n, page in pages.items()} == {
    name: [] for name in pages
  }
  folder, _ = site
  loading = re.compile(rf'(?:url\(|@import)\s*["\']?{_HTTP}')
  sheets = list(folder.glob('_static/**/*.css'))
  assert len(sheets) > 1
  for sheet in sheets:
    assert not loading.search(sheet.read_text(encoding='utf-8')), sheet


def test_pictures_have_descriptions(pages):
  pictures = [
    picture
    for page in pages.values()
    for picture in re.findall(r'<img\b[^>]*>', page)
  ]
  assert len(pictures) >= 8
  assert [p for p in pictures if not re.search(r'\balt="[^"]+"', p)] == []


def test_what_indents_under_a_paragraph_is_code(pages):
  page = pages['_api/fedjax_gen.data.sources.html']
  assert re.search(r'<pre>.*sources\.load', re.sub('</?span[^>]*>', '', page))

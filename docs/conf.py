"""How the pages become a site: Markdown and docstrings, no other host.

    pip install -e '.[docs]'
    sphinx-build -W --keep-going -b html docs docs/_build/html

Equations are written in Unicode, so that neither pages nor the site need a
program that draws formulas.
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fedjax_gen.version import __version__  # noqa: E402, of this tree

project = 'fedjax_gen'
author = 'The fedjax_gen authors'
copyright = author
version = release = __version__

extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.autosummary',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
]
exclude_patterns = ['_build', '_templates']
templates_path = ['_templates']
highlight_language = 'none'  # most blocks are commands, or a folder
# The same anchors as on GitHub: links between pages work in both places, and
# one that leads nowhere is a warning.
myst_heading_anchors = 4

autosummary_generate = True
autodoc_mock_imports = ['flwr']  # an extra that the pages do not need
autodoc_default_options = {
  'members': True,
  'member-order': 'bysource',
  'ignore-module-all': True,
}
add_module_names = False  # each page begins with its import
autodoc_typehints = 'none'  # the signature in the docstring's own words
autodoc_preserve_defaults = True
napoleon_custom_sections = [('Guarantees', 'params_style')]
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
default_role = 'py:obj'

html_theme = 'sphinx_book_theme'
html_title = f'fedjax_gen {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_theme_options = {
  'navbar_persistent': [],  # one field to search in, that of the sidebar
  'use_download_button': False,
}
html_sidebars = {
  '_api/*': ['navbar-logo.html', 'search-button-field.html', 'parents.html']
}
html_context = {'default_mode': 'auto'}
html_use_index = html_domain_indices = False  # there is a search
html_show_sourcelink = False
html_copy_source = False
copybutton_exclude = '.linenos, .gp, .go'


def _fields_as_attributes(app, what, name, obj, options, lines):
  """Lists a configuration's fields by what `--help` says of them."""
  del app, name, options
  if what != 'class' or not dataclasses.is_dataclass(obj):
    return
  told = [
    field for field in dataclasses.fields(obj) if 'help' in field.metadata
  ]
  if not told:
    return
  lines += ['', 'Attributes:']
  for field in told:
    lines.append(f'  {field.name}: {field.metadata["help"]}')
  lines.append('')


def _code_blocks(app, what, name, obj, options, lines):
  """Marks what is indented under a paragraph as code, as Markdown does."""
  del app, what, name, obj, options
  for i in range(len(lines) - 1, 1, -1):
    above, gap, line = lines[i - 2 : i + 1]
    is_deeper = _indent(line) > _indent(above) and above.strip()
    if is_deeper and not gap.strip() and not line.lstrip().startswith('* '):
      lines[i:i] = [' ' * _indent(above) + '::', '']


def _indent(line):
  return len(line) - len(line.lstrip())


def _skip_tuple_fields(app, what, name, obj, skip, options):
  """Leaves out what NamedTuple says of its fields: their numbers."""
  del app, what, name, options
  return True if type(obj).__name__ == '_tuplegetter' else skip


def setup(app):
  # Before napoleon (500), which turns sections into fields.
  app.connect('autodoc-process-docstring', _code_blocks, 300)
  app.connect('autodoc-process-docstring', _fields_as_attributes, 400)
  app.connect('autodoc-skip-member', _skip_tuple_fields)

"""Presets: flagfiles; their leading comments are the recorded recipe.

fedjax_gen/studies/presets/PROGRAM/NAME.flags
"""

import pathlib

from fedjax_gen.errors import InputError

_ROOT = pathlib.Path(__file__).parents[1] / 'presets'


def preset_path(experiment: str, name: str) -> pathlib.Path:
  """Returns the flagfile of a preset.

  Raises:
    InputError: there is none of this name; the message lists those there are.
  """
  existing = _presets(experiment)
  if name not in existing:
    listed = ', '.join(existing) or 'none'
    raise InputError(
      f'There is no preset {name!r} of {experiment}. There are: {listed}.'
    )
  return existing[name]


def list_presets(experiment: str) -> str:
  """Returns the presets of an experiment, each with its recipe."""
  existing = _presets(experiment)
  if not existing:
    return f'There are no presets of {experiment}.'
  return '\n\n'.join(
    '\n'.join([f'--preset={name}', *_recipe(path)])
    for name, path in existing.items()
  )


def _presets(experiment: str) -> dict[str, pathlib.Path]:
  paths = sorted((_ROOT / experiment).glob('*.flags'))
  return {path.stem: path for path in paths}


def _recipe(path: pathlib.Path) -> list[str]:
  recipe = []
  for line in path.read_text(encoding='utf-8').splitlines():
    if not line.startswith('#'):
      break
    recipe.append(f'  {line.lstrip("# ")}'.rstrip())
  return recipe

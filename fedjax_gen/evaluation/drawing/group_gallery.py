"""The pictures of a run over groups of clients, each a PNG with its caption.

What every method generates for each group, side by side; the ways between
groups in latent space; and reconstructions. They show whether a method keeps
the groups apart, in its latents and in what it decodes.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import keys, validate
from fedjax_gen.data.examples import take
from fedjax_gen.data.sources import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import group_models, pictures
from fedjax_gen.evaluation.drawing import gallery, group_pictures
from fedjax_gen.evaluation.drawing.gallery import REAL, Drawn
from fedjax_gen.evaluation.group_models import GroupGenerator, GroupVae
from fedjax_gen.models import elbo
from fedjax_gen.models.vae import to_pixels, to_unit

_COLUMNS = 4  # of a cell, which is as high
_STEPS = 8
_MAX_WAYS = 5  # between groups, in a picture
_RECONSTRUCTED = 8  # images of a group
_SHOWN_ROWS = 1000  # of a table, and windows of series to choose from


def draw_all(
  generators: Mapping[str, GroupGenerator],
  source: DataSource,
  folder: pathlib.Path,
  *,
  between: Sequence[str] = (),
  seed: int,
  show_real: bool = True,
) -> list[Drawn]:
  """Draws every picture of a run.

  Args:
    generators: by method what is asked for images of a group.
    source: images with groups in both splits.
    folder: where to write.
    between: methods to draw the ways between groups of; VAEs all.
    seed: of the samples.
    show_real: whether to draw real images, and what is made of them.

  Returns:
    what was drawn, of the sections 'samples', 'interpolations' and
    'reconstructions'. What needs a VAE is left out of other methods, and what
    needs a held-out image of groups without any.

  Raises:
    InputError: a method to be drawn `between` is no VAE.
  """
  if source.kind.has_layout:
    return _draw_of_kind(generators, source, folder, seed, show_real)
  samples = _draw_samples(
    generators, source, folder / 'groups.png', seed, show_real
  )
  if not show_real:
    return [samples]
  return [
    samples,
    *_draw_ways({m: generators[m] for m in between}, source, folder),
    *_draw_reconstructions(generators, source, folder),
  ]


def interpolate(
  start: GroupVae, end: GroupVae, ends: Examples, *, num_steps: int = _STEPS
) -> tuple[np.ndarray, np.ndarray]:
  """Walks from the latents of one example to those of another.

  The way is straight, from the posterior means of the first example under the
  model `start` to those of the second under `end`, of two levels in each. Both
  decoders decode all of it, a conditional one given the label of the example of
  its own group.

  Args:
    start: the model of the first example's group.
    end: the model of the second's, with latents of the same sizes.
    ends: two examples.
    num_steps: S, images of a way, both ends included.

  Returns:
    uint8 `[S, H, W, C]` of the decoder of `start`, and as many of `end`'s.
  """
  validate.positive_int(num_steps=num_steps)
  shape = np.shape(ends.inputs)
  if len(shape) != 4 or shape[0] != 2:
    raise InputError(f'Expected ends to be two images, got {list(shape)}.')
  if num_steps < 2:
    raise InputError(f'Expected num_steps > 1, got num_steps={num_steps}.')
  sizes = dict(start.vae.latent_sizes), dict(end.vae.latent_sizes)
  if sizes[0] != sizes[1]:
    raise InputError(
      f'Expected start and end with latents of the same sizes, got {sizes[0]} '
      f'and {sizes[1]}.'
    )
  inputs, labels = jnp.asarray(ends.inputs), jnp.asarray(ends.labels)
  first = _means(start.vae, start.variables, inputs[:1], labels[:1])
  last = _means(end.vae, end.variables, inputs[1:], labels[1:])
  share = jnp.linspace(0, 1, num_steps).reshape(-1, 1)
  way = jax.tree.map(lambda a, b: (1 - share) * a + share * b, first, last)
  by_start, by_end = (
    _decoded(vae, variables, way, jnp.full(num_steps, label))
    for (vae, variables), label in zip((start, end), labels, strict=True)
  )
  return np.asarray(by_start), np.asarray(by_end)


@functools.partial(jax.jit, static_argnums=0)
def _means(vae, variables, inputs, labels):
  """Posterior means by level, `[n, Z]`."""
  return vae.infer(variables, to_unit(inputs), labels, None)[0].latents


@functools.partial(jax.jit, static_argnums=0)
def _decoded(vae, variables, latents, labels):
  outputs, _ = vae.decode(variables, latents, labels)
  return to_pixels(vae.likelihood.mean(outputs))


def _draw_samples(generators, source, path, seed, show_real) -> Drawn:
  """A small grid of samples for each method and group, real ones on top."""
  key = keys.derive(seed, 'samples')
  num, names = _COLUMNS**2, source.group_names
  rows: dict[str, dict[str, np.ndarray]] = {}
  if show_real:
    rows['real'] = {
      name: source.test.inputs[chosen]
      for group, name in enumerate(names)
      if (chosen := _held_out(source, group, num)).size
    }
  for method, generator in generators.items():
    rows[method] = {
      name: np.asarray(
        generator.sample(
          group,
          group_models.labels_of(source, group, num),
          jax.random.fold_in(key, group),
        )
      )
      for group, name in enumerate(names)
    }
  group_pictures.group_rows(rows, path, columns=_COLUMNS)
  caption = (
    f'Columns: the group asked for ({", ".join(names)}). Rows: '
    + ('real held-out images, and ' if show_real else '')
    + f'what was generated by {_listed(generators)}.'
  )
  return Drawn(
    path,
    caption,
    'samples',
    unprotected=REAL if show_real else '',
    made_by=tuple(generators),
  )


def _draw_of_kind(generators, source, folder, seed, show_real) -> list[Drawn]:
  """Windows or marginals of each group, of all methods."""
  codec, key = source.codec, keys.derive(seed, 'samples')
  drawn = []
  for group, name in enumerate(source.group_names):
    labels = group_models.labels_of(source, group, _SHOWN_ROWS)
    made = {
      method: codec.decode(
        generator.sample(group, labels, jax.random.fold_in(key, group))
      )
      for method, generator in generators.items()
    }
    own = dataclasses.replace(
      source, test=take(source.test, source.test.groups == group)
    )
    real = (
      {'real, held out': codec.decode(own.test.inputs)} if show_real else {}
    )
    path = folder / f'samples_group_{group}.png'
    caption = gallery.draw_kind(own, real, made, labels, path)
    drawn.append(
      Drawn(
        path, f'{name}. {caption}', 'samples',
        unprotected=REAL if real else '',
        made_by=tuple(generators),
      )
    )  # fmt: skip
  return drawn


def _draw_ways(generators, source, folder) -> list[Drawn]:
  """Ways from each group to the next, a picture for each method."""
  names = source.group_names
  present = [g for g in range(len(names)) if _held_out(source, g, 1).size]
  pairs = list(zip(present, present[1:], strict=False))[:_MAX_WAYS]
  drawn = []
  for method, generator in generators.items():
    if not generator.models:
      raise InputError(f'Expected between to name VAEs, got {method!r}.')
    rows = {}
    for start, end in pairs:
      ends = [int(_held_out(source, group, 1)[0]) for group in (start, end)]
      ways = interpolate(
        generator.models[start],
        generator.models[end],
        take(source.test, np.asarray(ends)),
      )
      title = f'{names[start]} → {names[end]}'
      if np.array_equal(*ways):  # one decoder for both
        rows[title] = ways[0]
      else:
        rows |= {
          f'{title}, by {names[group]}': way
          for group, way in zip((start, end), ways, strict=True)
        }
    if not rows:
      continue
    path = folder / f'between_{method}.png'
    group_pictures.interpolations(rows, path)
    by = 'one decoder for all groups'
    if len(rows) > len(pairs):
      by = 'each row by the decoder of the group it names'
    caption = f'{method}: from the latents of one group to another’s, {by}.'
    drawn.append(Drawn(path, caption, 'interpolations'))
  return drawn


def _draw_reconstructions(generators, source, folder) -> list[Drawn]:
  """Held-out images and what the methods make of them, by group."""
  models = {name: g.models for name, g in generators.items() if g.models}
  drawn = []
  for group, name in enumerate(source.group_names if models else ()):
    chosen = _held_out(source, group, _RECONSTRUCTED)
    if not chosen.size:
      continue
    inputs = source.test.inputs[chosen]
    labels = jnp.asarray(source.test.labels[chosen])
    rows = {'held out': inputs}
    for method, of_groups in models.items():
      vae, variables = of_groups[group]
      _, images = elbo.reconstruct(vae, variables, jnp.asarray(inputs), labels)
      rows[method] = np.asarray(images)
    path = folder / f'reconstructions_group_{group}.png'
    pictures.image_rows(rows, path)
    caption = (
      f'{name}: held-out images, and what {_listed(models)} '
      'made of their latent means.'
    )
    drawn.append(Drawn(path, caption, 'reconstructions'))
  return drawn


def _held_out(source: DataSource, group: int, num: int) -> np.ndarray:
  """Up to `num` held-out rows of a group, in label order, labels spread."""
  rows = np.flatnonzero(source.test.groups == group)
  rows = rows[np.argsort(source.test.labels[rows], kind='stable')]
  num = min(num, len(rows))
  # Also without any rows, where there is no last one.
  return rows[np.linspace(0, max(len(rows) - 1, 0), num).round().astype(int)]


def _listed(names) -> str:
  return ', '.join(names)

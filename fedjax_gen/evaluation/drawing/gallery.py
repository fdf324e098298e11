"""The pictures of a run, each a PNG with its caption.

The published FedVAE's Figures 1 to 4 show reconstructions, generated images,
and t-SNE maps of pixels and latents. Here they stand side by side for every
method, with the nearest training images next to them.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

import numpy as np

from fedjax_gen.data.sources import DataSource
from fedjax_gen.evaluation import neighbours, pictures, vaes
from fedjax_gen.evaluation.drawing import embedding, kind_pictures, plots
from fedjax_gen.models.generator import Generator
from fedjax_gen.types import Variables

_COLUMNS = 10
_TSNE_POINTS = 1000
_SHOWN_ROWS = 1000  # of a table, and windows of series to choose from


REAL, LABELS, TRAINED = (
  'real examples',
  'exact numbers of labels',
  'models trained without privacy',
)
"""What a picture shows that no differential privacy protects."""


class Drawn(NamedTuple):
  """A picture that was written.

  Attributes:
    path: of the PNG.
    caption: what to see in it.
    section: 'samples', 'reconstructions', 'memory' or 'maps'.
    alt: what a picture of numbers says, for somebody who cannot see it; the
      caption does if it is empty.
    unprotected: `REAL`, `LABELS` or `TRAINED`; empty if models made all that
      it shows. A picture counts as real until its maker says otherwise.
    made_by: these models, by the names of their methods.
  """

  path: pathlib.Path
  caption: str
  section: str
  alt: str = ''
  unprotected: str = REAL
  made_by: tuple[str, ...] = ()


def draw_samples(
  generator: Generator,
  variables: Variables,
  source: DataSource,
  path: pathlib.Path,
  *,
  title: str,
  seed: int,
) -> None:
  """Writes a grid of generated images; one class a column if conditional."""
  labels, columns = _layout(generator, source)
  images = vaes.sample_images(generator, variables, labels, seed=seed)
  pictures.image_grid(images, path, columns=columns, title=title)


def draw_all(
  generator: Generator,
  models: Mapping[str, Variables],
  source: DataSource,
  folder: pathlib.Path,
  *,
  seed: int,
  show_real: bool = True,
) -> list[Drawn]:
  """Draws every picture of a run.

  Args:
    generator: the model.
    models: by method its variables.
    source: the data.
    folder: where to write.
    seed: of draws and t-SNE.
    show_real: whether to draw what shows real images, or is made of them.

  Returns:
    what was drawn: windows of series, and marginals of tables; nothing for
    feature vectors, which have no pictures; no reconstructions and maps of a
    model without latents of examples.
  """
  if source.kind.picture != 'grid':
    return _of_kind(
      generator, models, source, folder, seed=seed, show_real=show_real
    )
  drawn = []

  def add(name, caption, section, **fields):
    drawn.append(Drawn(folder / f'{name}.png', caption, section, **fields))
    return drawn[-1].path

  kind = 'one class a column' if generator.conditional else 'no class asked for'
  for method, variables in models.items():
    draw_samples(
      generator,
      variables,
      source,
      add(
        f'samples_{method}',
        f'{method}: generated, {kind}.',
        'samples',
        unprotected='',
        made_by=(method,),
      ),
      title='',
      seed=seed,
    )
  if not show_real:
    return drawn
  labels, columns = _layout(generator, source)
  pictures.image_grid(
    _real_images(source, labels),
    add('samples_real', 'Real held-out images, for comparison.', 'samples'),
    columns=columns,
  )
  if generator.reconstruct is not None:
    few = _spread(source.test.labels, _COLUMNS)
    inputs, labels = source.test.inputs[few], source.test.labels[few]
    rows = {
      method: np.asarray(generator.reconstruct(variables, inputs, labels)[1])
      for method, variables in models.items()
    }
    pictures.image_rows(
      {'held out': inputs, **rows},
      add(
        'reconstructions',
        'Held-out images and what each model makes of their latent means.',
        'reconstructions',
      ),
    )
  for method, variables in models.items():
    path = add(
      f'nearest_{method}',
      f'{method}: generated images, and below them the nearest training '
      'images.',
      'memory',
    )
    wanted = np.sort(np.arange(_COLUMNS) % source.num_classes)
    images = vaes.sample_images(generator, variables, wanted, seed=seed + 1)
    near = neighbours.nearest(images, source.train.inputs).indices
    pictures.image_rows(
      {'generated': images, 'nearest': source.train.inputs[near]}, path
    )
  if generator.reconstruct is not None:
    drawn += _maps(generator.reconstruct, models, source, folder, seed)
  return drawn


def _of_kind(generator, models, source, folder, *, seed, show_real):
  """Windows of series, or marginals of tables, real ones first."""
  if source.codec is None:
    return []
  pairs: list[Any] = [({}, (method,), method) for method in models]
  if show_real:
    real = {'real, held out': source.codec.decode(source.test.inputs)}
    pairs = [(real, tuple(models), 'all')]
  drawn = []
  for real, methods, name in pairs:
    # Proportions of classes are exact numbers of the training data.
    labels = np.sort(np.arange(_SHOWN_ROWS) % source.num_classes)
    if show_real:
      labels = vaes.requested_labels(source, _SHOWN_ROWS)
    made = {
      method: source.codec.decode(
        vaes.sample_images(generator, models[method], labels, seed=seed)
      )
      for method in methods
    }
    path = folder / f'samples_{name}.png'
    caption = draw_kind(source, real, made, labels, path)
    drawn.append(
      Drawn(
        path, caption, 'samples', unprotected=REAL if real else '',
        made_by=methods,
      )
    )  # fmt: skip
  return drawn


def draw_kind(
  source: DataSource,
  real: Mapping[str, np.ndarray],
  made: Mapping[str, np.ndarray],
  labels: np.ndarray,
  path: pathlib.Path,
) -> str:
  """Draws windows of series, or marginals of a table; returns a caption.

  Args:
    source: encoded.
    real: by title decoded held-out examples, in the order of `source.test`.
    made: by title decoded examples that were generated.
    labels: that they were asked for.
    path: of the PNG.
  """
  draw = {'lines': _windows, 'marginals': _marginals}[source.kind.picture]
  return draw(source, real, made, labels, path)


def _windows(source, real, made, labels, path):
  """Draws windows, a class a column, in turn."""
  order = np.argsort(np.arange(6) % source.num_classes, kind='stable')
  wanted, rank = order % source.num_classes, order // source.num_classes

  def chosen(series, of):
    found = [np.flatnonzero(of == label) for label in wanted]
    rows = [
      own[number % len(own)] if len(own) else number % len(of)
      for own, number in zip(found, rank, strict=True)
    ]
    return series[rows]

  rows = {title: chosen(s, source.test.labels) for title, s in real.items()}
  rows |= {title: chosen(s, labels) for title, s in made.items()}
  kind_pictures.windows(
    rows,
    path,
    channels=tuple(column.name for column in source.schema.columns),
    captions=tuple(source.class_names[label] for label in wanted),
  )
  return 'Windows in the units of the data, a class a column.'


def _marginals(source, real, made, labels, path):
  """Draws the distribution of each column."""
  del labels
  kind_pictures.marginals(source.codec, {**real, **made}, path)
  return 'Shares of the values of each column.'


def _maps(reconstruct, models, source, folder, seed):
  """t-SNE of latents and of reconstructed pixels, for every method."""
  rows = _spread(source.test.labels, _TSNE_POINTS)
  inputs, labels = source.test.inputs[rows], source.test.labels[rows]
  if len(rows) < 4:
    return []
  drawn = []
  for method, variables in models.items():
    latents, images = map(np.asarray, reconstruct(variables, inputs, labels))
    for kind, values, what in (
      ('latents', latents, 'latent means'),
      ('pixels', images, 'reconstructions'),
    ):
      points = embedding.tsne(values, seed=seed, max_points=_TSNE_POINTS)
      path = folder / f'tsne_{kind}_{method}.png'
      plots.scatter(
        points.points,
        labels[points.indices],
        path,
        class_names=source.class_names,
      )
      caption = f'{method}: {what} of held-out images.'
      drawn.append(Drawn(path, caption, 'maps'))
  return drawn


def _layout(generator: Generator, source: DataSource) -> tuple[np.ndarray, int]:
  """Labels of a grid of ten rows, and its columns: a class each if few."""
  by_class = generator.conditional and source.num_classes <= 12
  columns = source.num_classes if by_class else _COLUMNS
  return np.tile(np.arange(columns) % source.num_classes, 10), columns


def _real_images(source: DataSource, labels: np.ndarray) -> np.ndarray:
  """Held-out images of the given labels, each class's in turn."""
  rows = np.zeros(len(labels), int)
  for label in np.unique(labels):
    held = np.flatnonzero(source.test.labels == label)
    if not held.size:  # a class may be missing from a small test split
      held = np.arange(len(source.test.labels))
    wanted = np.flatnonzero(labels == label)
    rows[wanted] = held[np.arange(len(wanted)) % len(held)]
  return source.test.inputs[rows]


def _spread(labels: np.ndarray, num: int) -> np.ndarray:
  """Rows of up to `num` examples, classes in turn, in label order."""
  rank = np.empty(len(labels), int)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    rank[rows] = np.arange(len(rows))
  chosen = np.lexsort((labels, rank))[:num]
  return chosen[np.argsort(labels[chosen], kind='stable')]

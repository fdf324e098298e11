"""The pictures of a comparison of personal classifiers."""

from collections.abc import Mapping, Sequence
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data.examples import Examples
from fedjax_gen.evaluation.drawing import (
  class_pictures,
  feature_pictures,
  federation_pictures,
)
from fedjax_gen.evaluation.drawing.gallery import LABELS, TRAINED, Drawn
from fedjax_gen.models.classification.classifiers import Classifier
from fedjax_gen.running.training import TrainResult
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judged
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT
from fedjax_gen.studies.fedvtc.vtc_synthesis import SyntheticImages
from fedjax_gen.studies.shown import Shown

_MOST_REAL = 600  # in a map of features


def draw(
  shown: Shown,
  clients: Clients,
  models: Sequence[Classifier],
  judged: Mapping[str, Judged],
  metrics: Mapping[str, Mapping[str, float]],
  results: Mapping[str, TrainResult],
  made: SyntheticImages,
  num_rounds: int,
  *,
  is_shared: bool,
  seed: int,
) -> list[Drawn]:
  """Draws what there is to be seen of the methods that ran.

  Args:
    shown: what to draw, and the folder for all pictures. Where not everything
      is shown, FedVTC's synthetic images alone: clients' classifiers train
      without noise.
    clients: who holds what.
    models: the classifier of each fleet.
    judged: by method what its clients were right about.
    metrics: by method, as in the results.
    results: of training, by method.
    made: FedVTC's synthetic images.
    num_rounds: of training.
    is_shared: whether one generator made the synthetic images, and not those
      that clients keep.
    seed: of the choice of points.

  Raises:
    DiskFullError: the disk is full.
  """
  folder = shown.kept / 'samples'
  folder.mkdir(parents=True, exist_ok=True)
  if not shown.everything:
    return draw_synthetic(shown, clients, made) if is_shared else []
  client_rounds = clients.partition.num_clients * num_rounds
  drawn = [
    *_draw_methods(metrics, results, client_rounds, folder),
    _draw_missing_classes(clients, judged, folder / 'missing_classes.png'),
  ]
  if not len(made.examples.labels):
    return drawn
  features = _draw_features(clients, models[0], judged, made, folder, seed)
  return [
    *drawn,
    *_draw_synthetic(clients.source.test, clients, made, folder),
    features._replace(section='features'),
  ]


def draw_synthetic(
  shown: Shown, clients: Clients, made: SyntheticImages
) -> list[Drawn]:
  """Synthetic images alone, of the classes that are known."""
  folder = shown.kept / 'samples'
  folder.mkdir(parents=True, exist_ok=True)
  return _draw_synthetic(None, clients, made, folder)


def _draw_synthetic(
  real: Examples | None,
  clients: Clients,
  made: SyntheticImages,
  folder: pathlib.Path,
) -> list[Drawn]:
  """Synthetic images of the classes that are known, with real ones or not."""
  if not len(made.examples.labels):
    return []
  synthetic = class_pictures.draw_class_images(
    real,
    {SUBJECT: made.examples},
    folder / 'synthetic.png',
    class_names=clients.source.class_names,
  )
  return [synthetic._replace(section='synthetic')]


def _draw_methods(
  metrics: Mapping[str, Mapping[str, float]],
  results: Mapping[str, TrainResult],
  client_rounds: int,
  folder: pathlib.Path,
) -> list[Drawn]:
  """Methods side by side: at the end, over rounds, and over bytes."""
  sent = {
    name: client_rounds * (values['bytes_up'] + values['bytes_down'])
    for name, values in metrics.items()
  }
  drawn = [
    federation_pictures.draw_methods(
      metrics, folder / 'methods.png', subject=SUBJECT
    ),
    federation_pictures.draw_curves(
      {name: _curve(result) for name, result in results.items()},
      folder / 'curves.png',
      subject=SUBJECT,
    ),
    federation_pictures.draw_bytes(
      {name: (sent[name], metrics[name]['accuracy']) for name in metrics},
      folder / 'bytes.png',
      subject=SUBJECT,
    ),
  ]
  return [
    picture._replace(section='methods', unprotected=TRAINED)
    for picture in drawn
  ]


def _draw_missing_classes(
  clients: Clients, judged: Mapping[str, Judged], path: pathlib.Path
) -> Drawn:
  """What clients know of classes that they have no example of."""
  source, measured = clients.source, clients.measured_clients
  architectures = clients.architecture_of_client
  held = clients.split.train.counts(source.train.labels, source.num_classes)
  picture = class_pictures.draw_missing_classes(
    {
      name: next(iter(judged[name].correct.values()))
      for name in (SUBJECT, 'local')
      if name in judged
    },
    np.bincount(source.test.labels, minlength=source.num_classes),
    held[measured],
    path,
    class_names=source.class_names,
    client_names=[f'{number} {architectures[number]}' for number in measured],
  )
  return picture._replace(section='classes', unprotected=LABELS)


def _curve(result: TrainResult) -> tuple[list[float], list[float]]:
  measured = [r for r in result.history if 'accuracy' in r]
  return [r['round'] for r in measured], [r['accuracy'] for r in measured]


def _draw_features(clients, model, judged, made, folder, seed) -> Drawn:
  """Of real and synthetic images, by the extractor of the first client."""
  classifier = trees.take(judged[SUBJECT].deployed[0], 0)
  features = jax.jit(model.features)
  test = clients.source.test
  chosen = np.random.default_rng(seed).permutation(len(test.labels))
  chosen = np.sort(chosen[:_MOST_REAL])
  real, generated = (
    Examples(np.asarray(features(classifier, jnp.asarray(images))), labels)
    for images, labels in (
      (test.inputs[chosen], test.labels[chosen]),
      (made.examples.inputs, made.examples.labels),
    )
  )
  return feature_pictures.draw_feature_map(
    real,
    generated,
    folder / 'features.png',
    class_names=clients.source.class_names,
    seed=seed,
  )

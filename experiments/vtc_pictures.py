"""The pictures of a comparison of personal classifiers."""

from collections.abc import Mapping, Sequence
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.vtc_judge import Clients, Judged
from experiments.vtc_methods import SUBJECT
from experiments.vtc_synthesis import Made
from fedjax_gen import trees
from fedjax_gen.data.examples import Examples
from fedjax_gen.evaluation import (
  class_pictures,
  feature_pictures,
  federation_pictures,
)
from fedjax_gen.evaluation.gallery import Drawn
from fedjax_gen.models.classifiers import Classifier
from fedjax_gen.running.training import TrainResult

_MOST_REAL = 600  # in a map of features


def draw(
  folder: pathlib.Path,
  clients: Clients,
  models: Sequence[Classifier],
  judged: Mapping[str, Judged],
  metrics: Mapping[str, Mapping[str, float]],
  results: Mapping[str, TrainResult],
  made: Made,
  num_rounds: int,
  *,
  seed: int,
) -> list[Drawn]:
  """Draws what there is to be seen of the methods that ran.

  Args:
    folder: where to write; made if it is not there.
    clients: who holds what.
    models: the classifier of each fleet.
    judged: by method what its clients were right about.
    metrics: by method, as in the results.
    results: of training, by method.
    made: FedVTC's synthetic images.
    num_rounds: of training.
    seed: of the choice of points.

  Raises:
    DiskFullError: the disk is full.
  """
  folder.mkdir(parents=True, exist_ok=True)
  source = clients.source
  num, measured = clients.partition.num_clients, clients.measured_clients
  architectures = clients.architecture_of_client
  sent = {
    name: num * num_rounds * (values['bytes_up'] + values['bytes_down'])
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
    class_pictures.draw_missing_classes(
      {
        name: next(iter(judged[name].correct.values()))
        for name in (SUBJECT, 'local')
        if name in judged
      },
      np.bincount(source.test.labels, minlength=source.num_classes),
      clients.split.train.counts(source.train.labels, source.num_classes)[
        measured
      ],
      folder / 'missing_classes.png',
      class_names=source.class_names,
      client_names=[f'{number} {architectures[number]}' for number in measured],
    ),
  ]
  if len(made.examples.labels):
    drawn.append(
      class_pictures.draw_class_images(
        source.test,
        {SUBJECT: made.examples},
        folder / 'synthetic.png',
        class_names=source.class_names,
      )
    )
    drawn.append(_draw_features(clients, models[0], judged, made, folder, seed))
  sections = ['methods', 'methods', 'methods', 'classes', 'synthetic',
              'features']  # fmt: skip
  return [
    picture._replace(section=section)
    for picture, section in zip(drawn, sections, strict=False)
  ]


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

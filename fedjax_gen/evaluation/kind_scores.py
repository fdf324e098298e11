"""Scores of generated series and of generated rows of tables.

Each kind has its scores, on held-out real examples and as many generated ones.
They use the encoding that models see, except for those of `sdmetrics`, which
use the user's columns.
"""

from collections.abc import Callable
import importlib.util
import warnings

import numpy as np
from sklearn import ensemble, linear_model
import threadpoolctl

from fedjax_gen.data.examples import DataSource, Examples
from fedjax_gen.errors import InputError
from fedjax_gen.evaluation import checks, neighbours
from fedjax_gen.evaluation.networks import judges

_MOST_ROWS = 2000  # sdmetrics takes every pair of columns
_LAGS = 8


def measure(
  source: DataSource,
  generated: np.ndarray,
  labels: np.ndarray,
  *,
  seed: int = 0,
  by_training: bool = False,
) -> dict[str, float]:
  """Scores of generated examples of a source of series or of a table.

  Args:
    source: encoded; its test split is what generated examples are compared
      with.
    generated: `[m, ...]` encoded.
    labels: `[m]` that they were asked for.
    seed: of draws and classifiers.
    by_training: whether to compare with training examples too, which no
      privacy of the model covers.

  Returns:
    Of both `discriminative_score`. Of series `predictive_mae`,
    `autocorrelation_distance` and `spectrum_distance`. Of tables
    `tstr_boosting` (with classes), with `sdmetrics` installed `column_shapes`
    and `pair_trends`, and with `by_training` `dcr_share`.

  Raises:
    InputError: the source is of another kind, or shapes differ.
  """
  if source.codec is None:
    raise InputError(
      f'Expected encoded series or rows, got the {source.kind.name} of '
      f'{source.name}.'
    )
  found = Examples(generated, labels)
  score = {'series': _series, 'table': _table}[source.kind.name]
  real = source.test
  metrics = {
    'discriminative_score': discriminative_score(
      real.inputs, generated, seed=seed
    ),
    **score(source, found, seed),
  }
  if by_training:
    metrics['dcr_share'] = neighbours.dcr_share(
      generated, source.train.inputs, real.inputs, seed=seed
    )
  return metrics


def discriminative_score(
  real: np.ndarray, generated: np.ndarray, *, seed: int = 0
) -> float:
  """How well a classifier tells generated from real examples it has not seen.

  `|accuracy - 1/2|`: 0 for what cannot be told from real, 1/2 for what always
  can. A convolutional (series) or dense (rows) classifier takes the place of
  the recurrent one of the source.

  Args:
    real: `[n, ...]` encoded.
    generated: `[m, ...]`. Of the larger set as many are drawn as the other has;
      two thirds train the classifier.
    seed: of the draw and the classifier.

  Raises:
    InputError: shapes differ, or fewer than six of either.

  Reference: Yoon, Jarrett, van der Schaar, "Time-series Generative Adversarial
    Networks", 2019, section 5.
  """
  checks.examples_alike(real=real, generated=generated)
  size = min(len(real), len(generated))
  if size < 6:
    raise InputError(f'Expected at least 6 examples of either, got {size}.')
  rng = np.random.default_rng(seed)
  drawn = [
    part[rng.permutation(len(part))[:size]] for part in (real, generated)
  ]
  cut = 2 * size // 3
  inputs = np.concatenate([part[:cut] for part in drawn])
  held = np.concatenate([part[cut:] for part in drawn])
  classifier = judges.train(
    inputs,
    np.repeat([0, 1], cut),
    2,
    seed=seed,
    recipe=judges.Recipe(num_steps=400),
  )
  accuracy = classifier.accuracy(held, np.repeat([0, 1], size - cut))
  return abs(accuracy - 0.5)


def predictive_mae(real: np.ndarray, generated: np.ndarray) -> float:
  """Error of a forecast of the next step, learnt from generated series.

  The next step of all channels is a linear function of the last eight, fitted
  by ridge regression to generated series and tested on real ones; the mean
  absolute error is in standard deviations of the channels. Fitted to real
  series it is what a perfect generator would score. A linear forecast takes the
  place of the recurrent network of the source.

  Args:
    real: `[n, T, C]` encoded.
    generated: `[m, T, C]`.

  Raises:
    InputError: shapes differ, or series have fewer than ten steps.

  Reference: Yoon et al., 2019, section 5.
  """
  checks.examples_alike(real=real, generated=generated)
  if real.shape[1] < _LAGS + 2:
    raise InputError(
      f'Expected series of at least {_LAGS + 2} steps, got {real.shape[1]}.'
    )

  def lagged(series):
    steps = series.shape[1] - _LAGS
    past = np.concatenate(
      [series[:, lag : lag + steps] for lag in range(_LAGS)], axis=-1
    )
    return past.reshape(-1, past.shape[-1]), series[:, _LAGS:].reshape(
      -1, series.shape[-1]
    )

  model = linear_model.Ridge(1.0).fit(*lagged(generated))
  past, following = lagged(real)
  return float(np.abs(model.predict(past) - following).mean())


def autocorrelation_distance(real: np.ndarray, generated: np.ndarray) -> float:
  """Mean absolute difference of autocorrelations, of all channels and lags.

  Lags go up to half a window; a channel's autocorrelation is over all series.

  Args:
    real: `[n, T, C]` encoded.
    generated: `[m, T, C]`.
  """
  checks.examples_alike(real=real, generated=generated)

  def of(series):
    centred = series - series.mean(axis=1, keepdims=True)
    power = np.maximum((centred**2).mean(axis=(0, 1)), 1e-12)
    lags = range(1, series.shape[1] // 2 + 1)
    return (
      np.stack(
        [
          (centred[:, lag:] * centred[:, :-lag]).mean(axis=(0, 1))
          for lag in lags
        ]
      )
      / power
    )

  return float(np.abs(of(real) - of(generated)).mean())


def spectrum_distance(real: np.ndarray, generated: np.ndarray) -> float:
  """Mean absolute difference of log power spectra, in decibels.

  Args:
    real: `[n, T, C]` encoded.
    generated: `[m, T, C]`.
  """
  checks.examples_alike(real=real, generated=generated)

  def of(series):
    power = np.abs(np.fft.rfft(series, axis=1)[:, 1:]) ** 2
    return 10 * np.log10(power.mean(axis=0) + 1e-9)

  return float(np.abs(of(real) - of(generated)).mean())


def boosting_accuracy(
  train: Examples, test: Examples, *, seed: int = 0
) -> float:
  """Accuracy of gradient boosting, trained on one set, tested on the other."""
  if len(np.unique(train.labels)) < 2:
    return float(np.mean(test.labels == train.labels[0]))
  model = ensemble.HistGradientBoostingClassifier(
    max_iter=60, random_state=seed
  )
  # Its threads wait for each other where other work has the cores.
  with threadpoolctl.threadpool_limits(1):
    model.fit(train.inputs, train.labels)
    return float(model.score(test.inputs, test.labels))


def _series(source: DataSource, found: Examples, seed: int) -> dict[str, float]:
  del seed
  assert source.schema is not None
  # Flags are no signals.
  signals = slice(len(source.schema.columns))
  real, generated = (part.inputs[..., signals] for part in (source.test, found))
  scores: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    'autocorrelation_distance': autocorrelation_distance,
    'spectrum_distance': spectrum_distance,
  }
  if real.shape[1] >= _LAGS + 2:
    scores['predictive_mae'] = predictive_mae
  return {name: score(real, generated) for name, score in scores.items()}


def _table(source: DataSource, found: Examples, seed: int) -> dict[str, float]:
  metrics = {}
  if source.num_classes > 1:
    metrics['tstr_boosting'] = boosting_accuracy(found, source.test, seed=seed)
  if importlib.util.find_spec('sdmetrics') is not None:
    metrics |= _quality(source, found)
  return metrics


def _quality(source: DataSource, found: Examples) -> dict[str, float]:
  """Column shapes and pair trends of `sdmetrics`, 1 at best."""
  import pandas as pd  # noqa: PLC0415, an extra

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # where reports are is to change
    from sdmetrics.reports import single_table  # noqa: PLC0415, an extra

  assert source.codec is not None
  frames = []
  for part in (source.test, found):
    raw = source.codec.decode(part.inputs[:_MOST_ROWS])
    columns = source.codec.columns(raw)
    frame = pd.DataFrame(columns)
    frame = frame.mask(frame == '')
    for place, column in enumerate(source.codec.schema.columns):
      if column.is_number:  # a date is compared as a number of days
        frame[column.name] = raw[:, place]
    if source.num_classes > 1:
      names = np.asarray(source.class_names, object)
      frame['(class)'] = names[part.labels[:_MOST_ROWS]]
    frames.append(frame)
  kinds = {
    column.name: 'numerical' if column.is_number else 'categorical'
    for column in source.codec.schema.columns
  }
  if source.num_classes > 1:
    kinds['(class)'] = 'categorical'
  metadata = {'columns': {n: {'sdtype': kind} for n, kind in kinds.items()}}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of columns that are constant
    report = single_table.QualityReport()
    report.generate(*frames, metadata, verbose=False)
    scores = report.get_properties().set_index('Property')['Score']
  properties = {
    'Column Shapes': 'column_shapes',
    'Column Pair Trends': 'pair_trends',
  }
  return {
    name: float(scores[property])
    for property, name in properties.items()
    if np.isfinite(scores.get(property, np.nan))
  }

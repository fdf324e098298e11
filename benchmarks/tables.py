"""The tables of the results book: what is run, and how it is shown."""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np
from scipy import stats


class Cell(NamedTuple):
  """A command that is run once a seed.

  Attributes:
    name: of its files.
    arguments: of the program; `{inputs}` is the folder of input files.
    seeds: of its runs.
    module: that is run; empty for the program of the table.
  """

  name: str
  arguments: tuple[str, ...]
  seeds: tuple[int, ...]
  module: str = ''


class Record(NamedTuple):
  """One run, as its file has it; see `results.record`."""

  table: str
  cell: str
  seed: int
  command: str
  commit: str
  date: str
  seconds: int
  machine: str
  methods: Mapping[str, Mapping[str, float]]


class Table(NamedTuple):
  """A table of the docs.

  Attributes:
    name: on the command line, and of its folder.
    page: where it stands.
    program: in `experiments`.
    metrics: that are recorded.
    cells: what is run.
    render: from records to Markdown.
  """

  name: str
  page: str
  program: str
  metrics: tuple[str, ...]
  cells: tuple[Cell, ...]
  render: Callable[[Sequence[Record]], str]


def values(
  records: Sequence[Record], cell: str, method: str, metric: str
) -> dict[int, float]:
  """By seed, in percent, of the cells that begin so."""
  return {
    r.seed: 100 * r.methods[method][metric]
    for r in records
    if r.cell.startswith(f'{cell}-') and metric in r.methods.get(method, {})
  }


def mean_and_spread(found: Mapping[int, float]) -> str:
  """Mean and standard deviation over seeds; a dash for nothing."""
  if not found:
    return '–'
  numbers = np.array(list(found.values()))
  spread = numbers.std(ddof=1) if len(numbers) > 1 else 0.0
  return f'{numbers.mean():.1f} ± {spread:.1f}'


class Difference(NamedTuple):
  """Of two methods over the seeds that both have.

  Attributes:
    mean: of the first less the second.
    error: its standard error.
    p_value: of a paired t-test, two-sided.
    seeds: how many.
  """

  mean: float
  error: float
  p_value: float
  seeds: int


def difference(
  first: Mapping[int, float], second: Mapping[int, float]
) -> Difference:
  """A paired comparison: seeds draw the partition, the same for both."""
  seeds = sorted(set(first) & set(second))
  deltas = np.array([first[seed] - second[seed] for seed in seeds])
  if len(deltas) < 2 or not deltas.std():
    return Difference(float(deltas.mean()), 0.0, 1.0, len(deltas))
  error = deltas.std(ddof=1) / np.sqrt(len(deltas))
  found = stats.ttest_1samp(deltas, 0.0)
  return Difference(
    float(deltas.mean()), float(error), float(found.pvalue), len(deltas)
  )


_ALONE = 'synthetic_balanced_accuracy'
_METRICS = (
  'accuracy', 'balanced_accuracy', 'balanced_accuracy_worst', _ALONE, 'epsilon',
  'delta',
)  # fmt: skip
_ROWS = (
  'ClassGaussians', 'DP-MERF', 'FedHypeVAE', 'FedHypeVAE-clients',
  'FedHypeVAE-pretrained', 'FedHypeVAE-pretrained-clients', 'DP-CVAE',
  'DP-CVAE-pretrained', 'DP-CGAN', 'FedAvg', 'FedProx',
)  # fmt: skip
_TRAINED = ('FedHypeVAE', 'DP-CVAE')
_NOT_PRETRAINED = ('FedHypeVAE', 'FedHypeVAE-clients')
_EPSILONS = ('8', '3', '1', 'none')


def _score(records: Sequence[Record], cell: str, row: str) -> dict[int, float]:
  """Of what is shared alone: of the classifier itself, for FedAvg."""
  metric = 'balanced_accuracy' if row in ('FedAvg', 'FedProx') else _ALONE
  return values(records, cell, row, metric)


def _num_seeds(records: Sequence[Record], cell: str) -> int:
  """Of the part of a cell that has fewest."""
  seeds: dict[str, int] = {}
  for record in records:
    if record.cell.startswith(f'{cell}-'):
      seeds[record.cell] = seeds.get(record.cell, 0) + 1
  return min(seeds.values(), default=0)


def by_epsilon(title: str, prefix: str, records: Sequence[Record]) -> list[str]:
  """A table of rows by epsilon, for cells named `PREFIX-EPSILON`."""
  cells = [f'{prefix}-{e}' for e in _EPSILONS]
  present = [
    c for c in cells if any(r.cell.startswith(f'{c}-') for r in records)
  ]
  if not present:
    return []
  heads = [
    'no privacy' if c.endswith('none') else f'ε = {c.rpartition("-")[2]}'
    for c in present
  ]
  seeds = ', '.join(
    f'{_num_seeds(records, cell)} ({head})'
    for head, cell in zip(heads, present, strict=True)
  )
  lines = [
    f'{title}. Seeds: {seeds}.',
    '',
    f'| | {" | ".join(heads)} |',
    f'| --- |{" --- |" * len(heads)}',
  ]
  for row in _ROWS:
    found = [_score(records, cell, row) for cell in present]
    if any(found):
      cells_text = ' | '.join(mean_and_spread(f) for f in found)
      lines.append(f'| {row} | {cells_text} |')
  return [*lines, '']


def best_against(
  records: Sequence[Record],
  cell: str,
  baseline: str,
  among: Callable[[str], bool],
) -> str:
  """The best of some rows against a baseline, as a sentence."""
  against = _score(records, cell, baseline)
  scores = {
    row: found
    for row in _ROWS
    if among(row) and (found := _score(records, cell, row))
  }
  if not scores or not against:
    return ''
  best = max(scores, key=lambda row: np.mean(list(scores[row].values())))
  found = difference(scores[best], against)
  verdict = (
    'above' if found.mean > 2 * found.error > 0
    else 'below' if found.mean < -2 * found.error
    else 'no different by two standard errors'
  )  # fmt: skip
  return (
    f'{best} less {baseline}: {found.mean:+.1f} ± {found.error:.1f} points '
    f'(standard error, {found.seeds} seeds, paired t-test p = '
    f'{found.p_value:.2g}): {verdict}.'
  )


_DATA = {
  'mnist': ('MNIST, Dirichlet 0.3', ('--partition=dirichlet', '--alpha=0.3')),
  'mnist_iid': ('MNIST, iid', ('--partition=iid',)),
  'pneumonia': (
    'PneumoniaMNIST, Dirichlet 0.3', ('--partition=dirichlet', '--alpha=0.3'),
  ),
  'cifar': (
    'CIFAR subset, Dirichlet 0.3', ('--partition=dirichlet', '--alpha=0.3'),
  ),
  'digit_sources': (
    'Two real sources of digits, MNIST and UCI, five clients each',
    ('--partition=natural', '--num_clients=0'),
  ),
  'cifar_shifts': (
    'CIFAR subset in six made domains, two clients each',
    ('--partition=natural', '--num_clients=0'),
  ),
}  # fmt: skip
_COMMON = ('--preset=mnist_embeddings', '--delta=1e-5', '--accountant=rdp')
# Of four schedules each, the best by synthetic data alone on MNIST with a seed
# that the table does not have.
_SCHEDULES = {
  'once': ('--methods=ClassGaussians,DP-MERF,FedAvg',),
  'hype': (
    '--methods=FedHypeVAE', '--batch_size=256', '--rounds=75',
    '--rounds_per_step=75', '--learning_rate=1e-2',
    '--encoder_learning_rate=1e-2',
  ),
  'cvae': (
    '--methods=DP-CVAE', '--batch_size=2000', '--rounds=30',
    '--rounds_per_step=30', '--learning_rate=2e-2',
    '--encoder_learning_rate=2e-2',
  ),
  'pretrained': (
    '--methods=FedHypeVAE-pretrained,DP-CVAE-pretrained',
    '--gaussians_share=0.9', '--batch_size=256', '--rounds=20',
    '--rounds_per_step=20', '--learning_rate=1e-3',
    '--encoder_learning_rate=1e-3',
  ),
}  # fmt: skip


def _cell(data: str, epsilon: str, schedule: str) -> Cell:
  file = data.removesuffix('_iid')
  privacy = (
    ('--privacy=none',) if epsilon == 'none' else (f'--epsilon={epsilon}',)
  )
  return Cell(
    f'{data}-{epsilon}-{schedule}',
    (
      *_COMMON, f'--data={{inputs}}/{file}.npz', *_DATA[data][1], *privacy,
      *_SCHEDULES[schedule],
    ),
    tuple(range(5)),
  )  # fmt: skip


def _cells() -> tuple[Cell, ...]:
  """The most telling first: a recording may end early."""
  trained = [
    _cell(data, epsilon, schedule)
    for epsilon, data in (
      ('8', 'mnist'), ('8', 'cifar_shifts'), ('1', 'mnist'), ('none', 'mnist'),
      ('3', 'mnist'),
    )
    for schedule in _SCHEDULES
  ]  # fmt: skip
  once = [
    _cell(data, epsilon, 'once')
    for epsilon, data in itertools.product(('8', '1', '3', 'none'), _DATA)
    if epsilon in ('8', '1') or data == 'mnist'
  ]
  cells = [*trained, *once]
  return tuple({cell.name: cell for cell in cells}.values())


def _embeddings(records: Sequence[Record]) -> str:
  lines: list[str] = []
  for data, (title, _) in _DATA.items():
    lines += by_epsilon(title, data, records)
    texts = [
      best_against(records, f'{data}-8', baseline, among)
      for baseline, among in (
        ('ClassGaussians', lambda row: row.startswith(_TRAINED)),
        ('DP-CVAE', lambda row: row in _NOT_PRETRAINED),
      )
    ]
    lines += [f'At ε = 8, {text}' for text in texts if text]
    lines.append('')
  return '\n'.join(lines)


_PERSONAL_METRICS = (
  'accuracy', 'accuracy_worst', 'missing_class_accuracy', 'local_accuracy',
  'bytes_up', 'bytes_down', 'classifier_steps',
)  # fmt: skip
_PERSONAL_ROWS = (
  'FedVTC', 'ClassImages', 'ClassImages, no noise', 'FedAvg-small',
  'FML-shared', 'FedKD-shared', 'FedAvg', 'CCVR', 'FedGH', 'FedProto', 'FML',
  'local',
)  # fmt: skip
_PERSONAL_DATA = {
  'mnist': (
    'MNIST, 4,000 images, Dirichlet 0.1',
    ('--preset=mnist', '--data_dir={inputs}'),
  ),
  'mnist_1': (
    'MNIST, 4,000 images, Dirichlet 1.0',
    ('--preset=mnist', '--data_dir={inputs}', '--alpha=1.0'),
  ),
  'fashion': (
    'Fashion-MNIST, 4,000 images, Dirichlet 0.1',
    ('--preset=mnist', '--data=fashion_mnist', '--data_dir={inputs}'),
  ),
  'pneumonia': (
    'PneumoniaMNIST, 4,000 images, Dirichlet 0.1',
    ('--preset=mnist', '--data={inputs}/pneumoniamnist_28.npz'),
  ),
  'cifar': (
    'CIFAR subset, 4,000 images, Dirichlet 0.1',
    ('--preset=cifar10_subset', '--data_dir={inputs}'),
  ),
}  # fmt: skip
_TRIVIAL = 'ClassImages,FedAvg-small,local,FML'


def _personal_cells() -> tuple[Cell, ...]:
  cells = []
  for data, (_, arguments) in _PERSONAL_DATA.items():
    cells += [
      Cell(
        f'{data}-trivial', (*arguments, f'--baselines={_TRIVIAL}'), (0, 1, 2)
      ),
      Cell(
        f'{data}-no_noise',
        (*arguments, '--baselines=ClassImages', '--images_noise=0'),
        (0, 1, 2),
      ),
    ]
  return tuple(cells)


def _personal(records: Sequence[Record]) -> str:
  """A table for each data set, and FedVTC against each trivial baseline."""
  lines: list[str] = []
  for data, (title, _) in _PERSONAL_DATA.items():
    of_data = [r for r in records if r.cell.startswith(f'{data}-')]
    if not of_data:
      continue
    renamed = [
      record._replace(methods={'ClassImages, no noise':
                               record.methods['ClassImages']})
      if record.cell.endswith('no_noise') else record
      for record in of_data
    ]  # fmt: skip
    columns = {
      'accuracy': 'accuracy', 'never seen': 'missing_class_accuracy',
      'worst client': 'accuracy_worst', 'own test': 'local_accuracy',
    }  # fmt: skip
    seeds = sorted({record.seed for record in of_data})
    lines += [
      f'{title}. Seeds: {", ".join(map(str, seeds))}.',
      '',
      f'| | {" | ".join(columns)} | steps | up and down a round |',
      '| --- |' + ' --- |' * (len(columns) + 2),
    ]
    for row in _PERSONAL_ROWS:
      found = [values(renamed, data, row, m) for m in columns.values()]
      if not any(found):
        continue
      costs = [
        record.methods[row] for record in renamed if row in record.methods
      ]
      steps = np.mean([cost['classifier_steps'] for cost in costs])
      sent = np.mean([c['bytes_up'] + c['bytes_down'] for c in costs])
      cells = ' | '.join(mean_and_spread(scores) for scores in found)
      lines.append(f'| {row} | {cells} | {steps:.0f} | {sent / 1e3:,.1f} kB |')
    lines.append('')
    own = values(renamed, data, 'FedVTC', 'accuracy')
    texts = [
      f'{_against(own, values(renamed, data, row, "accuracy"))} against {row}'
      for row in ('ClassImages', 'FedAvg-small', 'FML-shared')
      if values(renamed, data, row, 'accuracy')
    ]
    lines += [f'FedVTC: {"; ".join(texts)}.', '']
  return '\n'.join(lines)


def _against(first: Mapping[int, float], second: Mapping[int, float]) -> str:
  found = difference(first, second)
  return f'{found.mean:+.1f} ± {found.error:.1f} points'


class _Row(NamedTuple):
  """A line of a table of scores: who made the examples, and in which cells."""

  title: str
  cell: str
  method: str


class _Score(NamedTuple):
  """A column of a table of scores."""

  title: str
  metric: str
  scale: float
  digits: int


def _scores(
  records: Sequence[Record], rows: Sequence[_Row], scores: Sequence[_Score]
) -> list[str]:
  """Rows by scores, mean and, of several seeds, standard deviation."""
  lines = [
    f'| | {" | ".join(score.title for score in scores)} |',
    f'| --- |{" --- |" * len(scores)}',
  ]
  for row in rows:
    texts = []
    for score in scores:
      found = [
        r.methods[row.method][score.metric] * score.scale
        for r in records
        if r.cell.startswith(row.cell)
        and score.metric in r.methods.get(row.method, {})
      ]
      spread = (
        f' ± {np.std(found, ddof=1):.{score.digits}f}' if len(found) > 1 else ''
      )
      texts.append(
        f'{np.mean(found):.{score.digits}f}{spread}' if found else '–'
      )
    if set(texts) != {'–'}:
      lines.append(f'| {row.title} | {" | ".join(texts)} |')
  return [*lines, '']


def _num_seeds_of(records: Sequence[Record], cell: str) -> int:
  return len({r.seed for r in records if r.cell.startswith(cell)})


# People who take no part, by seed. Settings were tried on others, 9 and 10.
_HELD_OUT = (('person 1', 'person 2'), ('person 3', 'person 4'),
             ('person 5', 'person 6'))  # fmt: skip
_WATCH_METRICS = (
  'tstr_accuracy', 'predictive_mae', 'spectrum_distance',
  'autocorrelation_distance', 'discriminative_score', 'dcr_share',
)  # fmt: skip
_WATCH_SCORES = (
  _Score('accuracy on new people, %', 'tstr_accuracy', 100, 1),
  _Score('forecast error', 'predictive_mae', 1, 3),
  _Score('spectrum, dB', 'spectrum_distance', 1, 1),
  _Score('told from real', 'discriminative_score', 1, 2),
)
_WATCH_ROWS = (
  _Row('real windows of the eight', 'flow', 'real_data'),
  _Row('federated flow in latents', 'flow', 'federated'),
  _Row('federated VAE', 'vae', 'federated'),
  _Row('central VAE', 'vae', 'central'),
  _Row('a VAE of one person alone, mean of three', 'vae', 'local'),
  _Row('Gaussians of classes, pooled', 'flow', 'class_gaussians'),
  _Row('copies of marginals, pooled', 'flow', 'marginal_copies'),
)


def _watch_cells() -> tuple[Cell, ...]:
  cells = []
  for seed, people in enumerate(_HELD_OUT):
    held_out = f'--test_clients={",".join(people)}'
    cells += [
      Cell(f'flow-{seed}', ('--preset=watch', held_out), (seed,)),
      Cell(
        f'vae-{seed}',
        (
          '--preset=watch', held_out, '--generator=vae', '--beta=0.3',
          '--latent_size=32', '--server_average=0',
          '--methods=federated,central,local', '--num_local_models=3',
        ),
        (seed,),
      ),
    ]  # fmt: skip
  return tuple(cells)


def _watch(records: Sequence[Record]) -> str:
  """Who made the windows, by score."""
  lines = [
    f'Seeds: {_num_seeds_of(records, "flow")} (flow), '
    f'{_num_seeds_of(records, "vae")} (VAE), each with two other people who '
    'take no part.',
    '',
  ]
  return '\n'.join(lines + _scores(records, _WATCH_ROWS, _WATCH_SCORES))


_INSURANCE_METRICS = (
  'column_shapes', 'pair_trends', 'dcr_share', 'discriminative_score',
  'epsilon',
)  # fmt: skip
_INSURANCE_SCORES = (
  _Score('column shapes, %', 'column_shapes', 100, 1),
  _Score('pair trends, %', 'pair_trends', 100, 1),
  _Score('nearer to training, %', 'dcr_share', 100, 1),
  _Score('told from real', 'discriminative_score', 1, 2),
)
_INSURANCE_ROWS = (
  _Row('real rows for training', 'none', 'real_data'),
  _Row('federated flow in latents, no privacy', 'none', 'federated'),
  _Row('the same of each site alone, mean', 'none', 'local'),
  _Row('federated VAE, ε = 8', 'epsilon-8', 'federated'),
  _Row('federated VAE, ε = 1', 'epsilon-1', 'federated'),
  _Row('TVAE, pooled, no privacy', 'tvae', 'TVAE'),
  _Row('Gaussian, pooled', 'none', 'class_gaussians'),
  _Row('copies of marginals, pooled', 'none', 'marginal_copies'),
)


# The data are public: what a private run may not show is measured too.
_PRIVATE_TABLE = (
  '--privacy=record', '--delta=5e-6', '--show_real=true', '--generator=vae',
  '--latent_size=16', '--hidden_size=128', '--batch_size=256', '--rounds=15',
  '--rounds_per_step=5', '--eval_every=15', '--checkpoint_every=5',
  '--server_average=0',
)  # fmt: skip


def _insurance_cells() -> tuple[Cell, ...]:
  cells = []
  for seed in range(3):
    cells += [
      Cell(
        f'none-{seed}',
        ('--preset=insurance', '--methods=federated,local'),
        (seed,),
      ),
      Cell(
        f'tvae-{seed}',
        ('--data=rand_health', '--model=TVAE', '--epochs=50'),
        (seed,),
        'benchmarks.central_table',
      ),
      *(
        Cell(
          f'epsilon-{epsilon}-{seed}',
          ('--preset=insurance', *_PRIVATE_TABLE, f'--epsilon={epsilon}'),
          (seed,),
        )
        for epsilon in (8, 1)
      ),
    ]
  return tuple(cells)


def _insurance(records: Sequence[Record]) -> str:
  """Who made the rows, by score."""
  seeds = ', '.join(
    f'{_num_seeds_of(records, cell)} ({title})'
    for cell, title in (
      ('none', 'no privacy'), ('epsilon-8', 'ε = 8'), ('epsilon-1', 'ε = 1'),
      ('tvae', 'TVAE'),
    )
  )  # fmt: skip
  lines = [f'Seeds: {seeds}.', '']
  return '\n'.join(lines + _scores(records, _INSURANCE_ROWS, _INSURANCE_SCORES))


_FAMILIES = {
  'latent_flow': ('flow in latents', ()),
  'vae': ('VAE', ('--generator=vae', '--latent_size=16')),
  'gan': ('GAN', ('--generator=gan',)),
}
_DEALT = {
  'iid': ('iid', ()),
  'dirichlet': ('Dirichlet 0.3', ('--partition=dirichlet', '--alpha=0.3')),
}
_FAMILY_DATA = {'mnist': 'MNIST', 'fashion_mnist': 'Fashion-MNIST'}
_FAMILY_METRICS = (
  'tstr_accuracy',
  *(
    f'{metric}_{data}_classifier'
    for data in _FAMILY_DATA
    for metric in ('kid', 'fid')
  ),
)


def _family_cells() -> tuple[Cell, ...]:
  return tuple(
    Cell(
      f'{data}-{dealt}-{family}',
      (
        '--preset=mnist_latent_flow', f'--data={data}', '--data_dir={inputs}',
        '--eval_every=40', *how, *what,
      ),
      (0, 1, 2),
    )
    for data in _FAMILY_DATA
    for dealt, (_, how) in _DEALT.items()
    for family, (_, what) in _FAMILIES.items()
  )  # fmt: skip


def _families(records: Sequence[Record]) -> str:
  """Who made the images, by data and how they are dealt."""
  lines = []
  for data, title in _FAMILY_DATA.items():
    for dealt, (how, _) in _DEALT.items():
      cell = f'{data}-{dealt}'
      here = [r for r in records if r.cell.startswith(f'{cell}-')]
      if not here:
        continue
      seeds = {
        name: number
        for family, (name, _) in _FAMILIES.items()
        if (number := _num_seeds_of(here, f'{cell}-{family}'))
      }
      said = ', '.join(f'{number} ({name})' for name, number in seeds.items())
      rows = [_Row('real images', cell, 'real_data')] + [
        _Row(name, f'{cell}-{family}', 'federated')
        for family, (name, _) in _FAMILIES.items()
      ]
      scores = (
        _Score('accuracy of a classifier of them, %', 'tstr_accuracy', 100, 1),
        _Score('KID × 1000', f'kid_{data}_classifier', 1000, 2),
        _Score('FID', f'fid_{data}_classifier', 1, 2),
      )
      lines += [f'{title}, {how}. Seeds: {said}.', '']
      lines += _scores(here, rows, scores)
  return '\n'.join(lines)


TABLES = {
  table.name: table
  for table in [
    Table(
      'fedhypevae_embeddings',
      'docs/fedhypevae.md',
      'fedhypevae',
      _METRICS,
      _cells(),
      _embeddings,
    ),
    Table(
      'fedvtc_trivial',
      'docs/fedvtc.md',
      'fedvtc',
      _PERSONAL_METRICS,
      _personal_cells(),
      _personal,
    ),
    Table(
      'generators',
      'docs/flow.md',
      'fedvae',
      _FAMILY_METRICS,
      _family_cells(),
      _families,
    ),
    Table(
      'watch',
      'docs/signals_and_tables.md',
      'fedvae',
      _WATCH_METRICS,
      _watch_cells(),
      _watch,
    ),
    Table(
      'insurance',
      'docs/signals_and_tables.md',
      'fedvae',
      _INSURANCE_METRICS,
      _insurance_cells(),
      _insurance,
    ),
  ]
}

"""The four systems as small as they get with every part, for their tests.

A row of `SYSTEMS` is all that the common tests (`programs_test.py`) know of a
system. What is a system's alone stands in the file of its name.
"""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

import fedjax_gen
from fedjax_gen.evaluation.networks import features, judges
from fedjax_gen.studies.command.program import Program
from fedjax_gen.studies.fedhypevae import hype_methods, hype_study
from fedjax_gen.studies.fedvae import vae_study
from fedjax_gen.studies.fedvtc import vtc_study
from fedjax_gen.studies.fissionvae import fission_study


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """A system at its smallest.

  Attributes:
    name: of the program.
    program: what its command runs.
    write_data: writes its data into a folder.
    data: the file of them that runs read.
    small: flags of every run.
    whole: more flags of the one run that tests look at, `finished`.
    methods: what that trains, in order, two rounds but for those of `uploads`.
    uploads: methods of one round.
    rows: names in its table.
    subject: the method that `alone` trains alone.
    alone: flags of a run of `subject`.
    hosted: more flags where the population lies on the host, for methods that
      are in memory anyway.
    models: files of what `subject` trained.
    check_same: of what two runs of `subject` left beside them, in forms that
      may differ.
    other: a flag that makes another run, and what is said of the difference.
    log: where logs of training lie: a private run keeps them.
    files: what else a finished run leaves.
    shown: what its report names beside the methods.
    patch: makes parts quicker that are tested elsewhere.
  """

  name: str
  program: Program
  write_data: Callable[[Path], None]
  data: str
  small: tuple[str, ...]
  whole: tuple[str, ...]
  methods: tuple[str, ...]
  uploads: tuple[str, ...] = ()
  rows: tuple[str, ...]
  subject: str
  alone: tuple[str, ...]
  hosted: tuple[str, ...] = ()
  models: tuple[str, ...]
  check_same: Callable[[Path, Path], None] = lambda ours, theirs: None
  other: tuple[str, str]
  log: str = ''
  files: frozenset[str]
  shown: tuple[str, ...]
  patch: Callable[[pytest.MonkeyPatch], None] = lambda patch: None

  def rounds(self, method: str) -> int:
    """How many rounds a method has."""
    return 1 if method in self.uploads else 2


def _digits(num: int) -> tuple[np.ndarray, np.ndarray]:
  digits = datasets.load_digits()
  images = np.round(digits.images[:num] * (255 / 16)).astype(np.uint8)
  return images, digits.target[:num]


def _write_digits(folder: Path) -> None:
  """150 real digits."""
  images, labels = _digits(150)
  np.savez(folder / 'few.npz', x=images, y=labels)


def _train_briefly(patch: pytest.MonkeyPatch) -> None:
  train = judges.train

  def briefly(*args, recipe, **settings):
    return train(*args, recipe=recipe._replace(num_steps=60), **settings)

  patch.setattr(judges, 'train', briefly)


def _write_kinds(folder: Path) -> None:
  for name, num_train, num_test in (
    ('kinds', 64, 20),
    ('few', 16, 4),  # too few held out for an FID
  ):
    _write_two_kinds(folder / f'{name}.npz', num_train, num_test)


def _write_two_kinds(path: Path, num_train: int, num_test: int) -> None:
  """Digits, and the negatives of the same digits under the name of shapes.

  Equal numbers of both, so that programs compiled for one serve the other.
  """
  images, labels = _digits(num_train + num_test)
  arrays: dict[str, Any] = {}
  for split, rows in (
    ('train', slice(num_train)),
    ('test', slice(num_train, None)),
  ):
    own = images[rows]
    arrays |= {
      f'x_{split}': np.concatenate([own, 255 - own]),
      f'y_{split}': np.tile(labels[rows], 2),
      f'groups_{split}': np.repeat(['digits', 'shapes'], len(own)),
    }
  np.savez(path, **arrays)


def _nearest_mean(name, inputs, labels, *test, **settings):
  """Stands for a trained classifier, which takes long to compile."""
  *_, num_classes = test
  means = np.stack(
    [inputs[labels == c].mean(axis=0).ravel() for c in range(num_classes)]
  )

  def pixels(images):
    return images[:, ::2, 0, 0] / np.float32(255)

  def probabilities(images):
    flat = images.reshape(len(images), -1)
    distances = ((flat[:, None] - means) ** 2).sum(axis=-1)
    return np.eye(num_classes, dtype=np.float32)[distances.argmin(axis=1)]

  return features.FeatureExtractor(
    f'{name}_classifier', pixels, probabilities, 'By the nearest mean.'
  )


def _judge_by_means(patch: pytest.MonkeyPatch) -> None:
  patch.setattr(features, 'classifier_extractor', _nearest_mean)


def _write_embeddings(folder: Path, num: int = 180) -> None:
  """Two classes, four features, in two domains that are far apart."""
  rng = np.random.default_rng(0)
  labels, domains = np.arange(num) % 2, np.arange(num) // 2 % 2
  inputs = 0.5 * rng.normal(size=(num, 4))
  inputs[:, 0] += 2 * labels
  inputs[:, 1] += 2 * domains
  np.savez(
    folder / 'embeddings.npz',
    x=inputs.astype(np.float32),
    y=labels,
    groups=np.array(['east', 'west'])[domains],
  )


FEDVAE = System(
  name='fedvae',
  program=vae_study.PROGRAM,
  write_data=_write_digits,
  data='few.npz',
  small=(
    '--rounds=2',
    '--rounds_per_step=1',
    '--eval_every=2',
    '--checkpoint_every=1',
    '--num_clients=3',
    '--num_samples=20',
    '--importance_samples=2',
    '--channels=4',
    '--hidden_size=8',
    '--latent_size=2',
    '--local_epochs=1',
  ),
  whole=('--methods=federated,central',),
  methods=('federated', 'central'),
  rows=('federated', 'central', 'real_data'),
  subject='federated',
  alone=('--methods=federated',),
  hosted=('--methods=federated,local',),
  models=('models/federated.msgpack',),
  other=('--beta=0.5', 'fedvae.beta: 1.0 there, 0.5 here'),
  files=frozenset(
    f'samples/{name}.png'
    for name in (
      'samples_federated', 'samples_real', 'federated_round_0002',
      'reconstructions', 'nearest_central', 'tsne_latents_federated',
      'partition',
    )
  )
  | {'inputs.json', 'models/federated.json', 'models/central.msgpack'},
  shown=('real_data', 'test_elbo', 'Inception Score'),
  patch=_train_briefly,
)  # fmt: skip

_GROUPED = ('FedVAE', 'L+D', 'L+D+het', 'local', 'central', 'fedgan')

# Groups of two and of four clients, of which four take part, in fleets of two
# architectures.
FISSIONVAE = System(
  name='fissionvae',
  program=fission_study.PROGRAM,
  write_data=_write_kinds,
  data='kinds.npz',
  small=(
    '--clients_per_group=2,4',
    '--sampling=uniform',
    '--cohort_size=4',
    '--model=mlp',
    '--families=mlp,conv',
    '--channels=4',
    '--gan_channels=4',
    '--hidden_size=8',
    '--latent_size=4',
    '--norm=none',
    '--local_epochs=1',
    '--rounds=2',
    '--rounds_per_step=1',
    '--eval_every=2',
    '--checkpoint_every=1',
    '--num_samples=500',  # as many as curves have, so that less is compiled
  ),
  whole=(f'--methods={",".join(_GROUPED)}',),
  methods=_GROUPED,
  rows=(*_GROUPED, 'real_data'),
  subject='L+D+het',
  alone=('--methods=L+D+het',),
  models=('models/L+D+het.msgpack',),
  other=(
    '--prior_distance=2',
    'fissionvae.prior_distance: 4.0 there, 2.0 here',
  ),
  files=frozenset(
    f'samples/{name}.png'
    for name in (
      'groups', 'partition', 'reconstructions_group_0',
      'reconstructions_group_1',
    )
  )
  | {
    path
    for method in _GROUPED
    for path in (
      f'models/{method}.json', f'models/{method}.msgpack',
      f'methods/{method}.json',
    )
  }
  | {'inputs.json', 'methods/real_data.json'},
  shown=('digits', 'shapes'),
  patch=_judge_by_means,
)  # fmt: skip

_EMBEDDED = hype_methods.DEFAULT
_EMBEDDED_TRAINED = tuple(name for name in _EMBEDDED if name != 'FedLambda')

FEDHYPEVAE = System(
  name='fedhypevae',
  program=hype_study.PROGRAM,
  write_data=_write_embeddings,
  data='embeddings.npz',
  small=(
    '--partition=iid',
    '--num_clients=3',
    '--hidden_sizes=8',
    '--latent_size=2',
    '--hyper_size=8',
    '--code_size=3',
    '--mmd_samples=2',
    '--batch_size=8',
    '--gan_hidden_sizes=8',
    '--gan_latent_size=2',
    '--merf_features=20',
    '--merf_steps=5',
    '--pretrain_steps=5',
    '--rounds=2',
    '--rounds_per_step=1',
    '--eval_every=2',
    '--checkpoint_every=1',
    '--linear_rounds=2',
    '--meta_steps=5',
    '--meta_samples=8',
    '--synthetic_per_class=20',
    '--head_epochs=20',
    '--accountant=rdp',  # quicker than pld
  ),
  # Noise that repeats, and a report with everything.
  whole=('--noise_seed=1', '--show_real'),
  methods=_EMBEDDED_TRAINED,
  uploads=('ClassGaussians', 'DP-MERF'),
  rows=tuple(
    row
    for name in (*_EMBEDDED, 'local')
    for row in ((name, f'{name}-clients') if name == 'FedHypeVAE' else (name,))
  ),
  subject='FedHypeVAE',
  alone=('--methods=FedHypeVAE', '--noise_seed=1', '--show_real'),
  # The codes of clients are in the second.
  models=(
    'release/models/FedHypeVAE.msgpack',
    'release/models/FedHypeVAE-clients.msgpack',
  ),
  other=('--epsilon=5', 'privacy.epsilon: 8.0 there, 5.0 here'),
  log='private/',
  files=frozenset(
    f'private/samples/{name}.png'
    for name in ('partition', 'embeddings', 'clients', 'codes', 'way')
  )
  | {
    f'release/models/{name}.msgpack'
    for name in ('FedHypeVAE', 'DP-CVAE', 'ClassGaussians', 'DP-MERF')
  }
  | {'private/inputs.json', 'release/ledger.json'},
  shown=('local', 'Who gains'),
)  # fmt: skip


def _predict_alike(ours: Path, theirs: Path) -> None:
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
  for client in range(3):
    np.testing.assert_array_equal(
      *(
        fedjax_gen.load_clients(path, 'FedVTC').predict(images, client=client)
        for path in (ours, theirs)
      )
    )


_PERSONAL = ('FedVTC', 'FedVTC-no_dm', 'local', 'FedProto', 'CCVR')

FEDVTC = System(
  name='fedvtc',
  program=vtc_study.PROGRAM,
  write_data=_write_digits,
  data='few.npz',
  small=(
    '--num_clients=3',
    '--partition=classes',
    '--classes_per_client=4',
    '--architectures=mlp,mlp',
    '--width=0.01',
    '--feature_size=4',
    '--vtc_channels=8',
    '--synthetic_per_class=2',
    '--rounds=2',
    '--rounds_per_step=1',
    '--eval_every=1',
    '--checkpoint_every=1',
    '--test_fraction=0.3',
  ),
  # FedVTC beside three others, with an attack.
  whole=('--baselines=local,FedProto,CCVR', '--ablations=no_dm', '--attack'),
  methods=_PERSONAL,
  rows=_PERSONAL,
  subject='FedVTC',
  alone=('--baselines=none',),
  models=('models/FedVTC.msgpack',),
  check_same=_predict_alike,
  other=('--feature_size=5', 'feature_size: 4 there, 5 here'),
  files=frozenset(
    f'samples/{name}.png'
    for name in (
      'methods', 'curves', 'bytes', 'missing_classes', 'synthetic', 'features',
      'partition',
    )
  )
  | {'inputs.json'},
  shown=('What the statistics give away',),
)  # fmt: skip

SYSTEMS = {
  system.name: system for system in (FEDVAE, FISSIONVAE, FEDHYPEVAE, FEDVTC)
}

"""Each study trains over sites as it does in a simulation."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest

pytest.importorskip('cryptography', reason='needs the extra flower')
pytest.importorskip('Crypto', reason='needs the extra flower')

from fedjax_gen.deployment import collecting, roster as rosters  # noqa: E402
from fedjax_gen.deployment.securing import Securing  # noqa: E402
from fedjax_gen.errors import InputError  # noqa: E402
from fedjax_gen.privacy import ledger  # noqa: E402
from fedjax_gen.studies import options  # noqa: E402
from fedjax_gen.studies.deployed import coordinating, tasks  # noqa: E402
from fedjax_gen.studies.fedhypevae import hype_study  # noqa: E402
from fedjax_gen.studies.fedvae import vae_study  # noqa: E402
from fedjax_gen.studies.fedvtc import vtc_study  # noqa: E402
from fedjax_gen.studies.fissionvae import fission_study  # noqa: E402
from tests.deployment import federations  # noqa: E402

_DIGITS = options.DataConfig(num_examples=90, num_test_examples=20)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
  monkeypatch.setattr(collecting, '_PAUSE', 0.0)
  monkeypatch.setattr(rosters, '_PAUSE', 0.0)


def _changed(study, **changes):
  """The configurations that `coordinate` has, as small as they get."""
  configs = tasks.ROWS[study].configs
  return configs._replace(
    **{
      name: dataclasses.replace(getattr(configs, name), **fields)
      for name, fields in changes.items()
    }
  )


def _fedvae(**privacy):
  return vae_study.STUDY, _changed(
    'fedvae',
    data=dataclasses.asdict(_DIGITS),
    vae={'model': 'mlp', 'latent_size': 2, 'hidden_size': 4},
    federation={'num_clients': 3},
    privacy=privacy,
    run={'rounds': 2},
  )


def _fissionvae(method):
  return fission_study.STUDY, _changed(
    'fissionvae',
    data={'data': 'digits_and_shapes', 'num_examples': 120,
          'num_test_examples': 40},
    vae={'model': 'mlp', 'latent_size': 2, 'hidden_size': 4},
    federation={'clients_per_group': (3, 3)},
    comparison={'methods': (method,)},
    run={'rounds': 2},
  )  # fmt: skip


def _fedhypevae(privacy='record_joint'):
  return hype_study.STUDY, _changed(
    'fedhypevae',
    data={'data': 'gaussian_domains', 'num_examples': 200,
          'num_test_examples': 50},
    federation={'partition': 'iid', 'num_clients': 3},
    privacy={'privacy': privacy},
    run={'rounds': 2},
  )  # fmt: skip


def _fedvtc():
  return vtc_study.STUDY, _changed(
    'fedvtc',
    data=dataclasses.asdict(_DIGITS),
    federation={'num_clients': 6, 'partition': 'iid'},
    classifier={'architectures': ('mlp', 'cnn'), 'feature_size': 4,
                'width': 0.1},
    training={'local_epochs': 1.0},
    fedvtc={'synthetic_per_class': 2},
    run={'rounds': 2},
  )  # fmt: skip


@pytest.mark.parametrize(
  ('make', 'methods', 'secured'),
  [
    (lambda: _fissionvae('L'), ['L'], False),
    (lambda: _fissionvae('D'), ['D'], True),
    (lambda: _fissionvae('L+D'), ['L+D'], True),
    (_fedhypevae, ['FedHypeVAE', 'FedHypeVAE-moments'], False),
    (lambda: _fedhypevae('none'), ['FedHypeVAE'], True),
    (_fedvtc, ['FedVTC'], True),
  ],
)  # fmt: skip
def test_over_sites_it_is_the_simulation(tmp_path, make, methods, secured):
  study, asked = make()
  compared = study.build(asked, 1)
  first = next(iter(compared.methods.values()))
  federation = federations.Federation(
    tmp_path / 'sites', first.algorithm, first.datasets
  )
  nodes = [
    (fleet, row)
    for fleet, data in enumerate(first.datasets)
    for row in range(data.num_clients)
  ]
  sizes = [int(first.datasets[f].sizes[r]) for f, r in nodes]
  name = study_name(study)
  groups = (
    [f for f, _ in nodes]
    if name == 'fedvtc'
    else [int(first.datasets[f].groups[r]) for f, r in nodes]
  )
  sent = json.loads(
    json.dumps(tasks.sent(name, asked, compared.source, sizes, groups))
  )
  built = tasks.built(sent)
  # What the coordinator builds of sizes and groups alone.
  layout = coordinating._layout(sizes, 'a, b', compared.source, groups)
  layout.save(tmp_path / 'sites.npz')
  changes = {
    'partition': 'sites',
    'partition_file': str(tmp_path / 'sites.npz'),
    'num_clients': len(sizes),
    'clients_per_group': (),
  }
  there = study.build(
    asked._replace(federation=dataclasses.replace(asked.federation, **changes)),
    1,
  )
  assert set(methods) <= set(built)
  for method in methods:
    at_sites = built[method]
    simulated = at_sites.algorithm
    if method in compared.methods:
      simulated = compared.methods[method].algorithm
      federation.algorithm = there.methods[method].algorithm
    else:
      federation.algorithm = simulated
    federation.study = lambda config, task=at_sites: {federations.METHOD: task}
    federation.securing = Securing() if secured else None
    federation.begin(tmp_path / method)
    state, metrics = federation.run(2)
    assert all(cohort.present.all() for cohort in metrics.cohorts)
    expected, _ = federations.simulated(simulated, first.datasets, 2)
    chex.assert_trees_all_close(
      jax.device_get(state.server), expected.server, rtol=2e-5, atol=2e-6
    )


def study_name(study):
  return {
    fission_study.STUDY: 'fissionvae',
    hype_study.STUDY: 'fedhypevae',
    vtc_study.STUDY: 'fedvtc',
    vae_study.STUDY: 'fedvae',
  }[study]


def test_clients_are_protected_by_shares_of_noise_under_a_secure_sum(tmp_path):
  shares = {'privacy': 'client', 'noise_placement': 'distributed',
            'clip_norm': 1e-3, 'epsilon': 20.0, 'max_dropouts': 1,
            'colluding': 0}  # fmt: skip
  study, asked = _fedvae(**shares)
  asked = asked._replace(
    federation=dataclasses.replace(asked.federation, num_clients=4)
  )
  compared = study.build(asked, 1)
  method = compared.methods['federated']
  [data] = method.datasets
  sizes = np.asarray(data.sizes).tolist()
  sent = tasks.sent('fedvae', asked, compared.source, sizes)
  [task] = tasks.built(json.loads(json.dumps(sent))).values()
  plan = method.protection.plan
  assert task.num_shares == plan.num_shares == 3
  assert task.event == plan.event
  config = coordinating.CoordinateConfig(sites=4)
  with pytest.raises(InputError, match='secured=true with noise in shares'):
    coordinating._securing(config, {'federated': task})
  securing = coordinating._securing(
    dataclasses.replace(config, secured=True), {'federated': task}
  )
  assert securing.threshold == 3
  federation = federations.Federation(
    tmp_path / 'secured', method.algorithm, method.datasets
  )
  federation.study = lambda config: {federations.METHOD: task}
  federation.begin(tmp_path / 'secured')
  federation.securing = securing
  state, _ = federation.run(1)
  expected, _ = federations.simulated(method.algorithm, method.datasets, 1)
  chex.assert_trees_all_close(
    jax.device_get(state.server), expected.server, rtol=2e-5, atol=2e-6
  )
  # The mean moved by noise of what the plan says, far above the clipped part.
  start = federation.coordinator().init(federations.INIT)
  moved = jax.tree.map(
    lambda a, b: a - b, state.server.variables, start.server.variables
  )
  rows = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
  stddev = plan.noise_multiplier * plan.max_norm
  # Four shares, three of which are the noise that is charged.
  wanted = stddev * (4 / 3) ** 0.5 / plan.expected_cohort
  assert abs(rows.std() / wanted - 1) < 0.15
  # A site that counts on the shares of others must know who they are.
  federation.options['budget'] = ledger.ledger(1, 50.0, 1e-4)
  federation.begin(tmp_path / 'unknown')
  with pytest.raises(collecting.TooFewError, match='Expected peers that this'):
    federation.run(1)
  del federation.options['budget']
  # No message by itself, and no sum of too few, whoever asks.
  federation.securing = Securing(threshold=3)
  federation.study = lambda config: {
    federations.METHOD: task._replace(num_shares=4)
  }
  federation.begin(tmp_path / 'fewer')
  with pytest.raises(collecting.TooFewError, match='sum of 4 sites or more'):
    federation.run(1)
  federation.begin(tmp_path / 'plain')
  federation.least = 1
  federation.securing = None
  with pytest.raises(collecting.TooFewError, match='share of the noise alone'):
    federation.run(1)


def test_noise_of_the_coordinator_spends_no_budget():
  # Of noise that it cannot see added a site cannot be sure.
  _, asked = _fedvae(privacy='client', epsilon=20.0)
  source = options.load_source(asked.data, seed=0)
  sent = tasks.sent('fedvae', asked, source, [30, 30, 30])
  [task] = tasks.built(sent).values()
  assert task.event is None and task.num_shares == 0


@pytest.mark.parametrize(
  ('study', 'changes', 'cause'),
  [
    ('fedhypevae', {'privacy': {'privacy': 'client',
                                'noise_placement': 'distributed'}},
     'the server adds the noise'),
    ('fissionvae', {'comparison': {'methods': ('L+D+het',)}},
     'one architecture'),
    ('fissionvae', {'discovery': {'groups': 'discovered'}}, 'groups=given'),
    ('fedhypevae', {'comparison': {'methods': ('FedLambda',)}}, 'methods'),
    ('fedvtc', {}, 'a site for each of 3 architectures'),
    ('fedvae', {'privacy': {'privacy': 'record',
                            'noise_placement': 'distributed'}}, 'local'),
  ],
)  # fmt: skip
def test_what_cannot_run_between_machines_is_refused_by_name(
  study, changes, cause
):
  asked = _changed(study, **changes)
  data = {'fedhypevae': 'gaussian_domains', 'fissionvae': 'digits_and_shapes'}
  source = options.load_source(
    options.DataConfig(data.get(study, 'digits'), num_examples=60), seed=0
  )
  sent = tasks.sent(study, asked, source, [20, 20, 20])
  with pytest.raises(InputError, match=cause):
    tasks.built(sent)

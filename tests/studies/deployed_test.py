"""Studies between machines, as far as they need no other machine."""

import dataclasses
import json

import jax
import numpy as np
import pytest

pytest.importorskip('cryptography', reason='needs the extra flower')
pytest.importorskip('Crypto', reason='needs the extra flower')

from fedjax_gen.data.partition import Partition  # noqa: E402
from fedjax_gen.deployment import agreement as study_lib
from fedjax_gen.errors import InputError  # noqa: E402
from fedjax_gen.studies import options  # noqa: E402
from fedjax_gen.studies.command import main  # noqa: E402
from fedjax_gen.studies.deployed import coordinating, serving, tasks  # noqa: E402
from fedjax_gen.studies.fedvae import vae_study  # noqa: E402

_SIZES = [60, 40, 50]


def _asked(**privacy):
  defaults = vae_study.Configs()
  return defaults._replace(
    data=options.DataConfig(num_examples=100, num_test_examples=50),
    vae=dataclasses.replace(
      defaults.vae, model='mlp', latent_size=2, hidden_size=4
    ),
    privacy=dataclasses.replace(defaults.privacy, **privacy),
    comparison=vae_study.ComparisonConfig(methods=('federated',)),
  )


def _shapes(algorithm):
  node = study_lib.Node(0, 1, 0, 40)
  return jax.eval_shape(algorithm.server.init, jax.random.key(0)), (
    study_lib.view_shapes(algorithm, node)
  )


@pytest.mark.parametrize('privacy', ['none', 'record'])
def test_a_site_builds_what_the_coordinator_trains(tmp_path, privacy):
  asked = _asked(privacy=privacy)
  source = options.load_source(asked.data, seed=0)
  # More examples at sites than the coordinator has.
  layout = coordinating._layout(_SIZES, 'a, b, c', source, [0, 0, 0])
  layout.save(tmp_path / 'sites.npz')
  with pytest.raises(InputError, match='rows twice'):
    Partition.load(tmp_path / 'sites.npz')
  # As `coordinate` asks for it: the study's own configurations, one more.
  configs = coordinating.program_of(vae_study.PROGRAM).configs
  assert configs[:-1] == vae_study.PROGRAM.configs._replace(
    run=configs.run, comparison=configs.comparison
  )
  here = asked._replace(
    federation=dataclasses.replace(
      asked.federation,
      partition='sites',
      partition_file=str(tmp_path / 'sites.npz'),
    )
  )
  compared = vae_study.build(here, 1)
  sent = tasks.sent('fedvae', asked, source, _SIZES)
  task = tasks.built(json.loads(json.dumps(sent)))['federated']
  method = compared.methods['federated']
  assert _shapes(task.algorithm) == _shapes(method.algorithm)
  np.testing.assert_array_equal(method.datasets[0].sizes, _SIZES)
  if privacy == 'none':
    assert task.event is None
  else:
    assert task.event == method.protection.plan.event


@pytest.mark.parametrize(
  ('change', 'cause'),
  [
    ({'study': 'other'}, "studies fedvae, .*got 'other'"),
    ({'sizes': None}, 'configuration of fedvae'),
    ({'configs': {'vae': {'wings': 2}}}, 'wings'),
    ({'groups': None}, 'configuration of fedvae'),
    ({'sizes': [1 << 30] * 3}, '3221225472 examples'),
    ({'sizes': [1 << 40] * 3}, 'configuration of fedvae'),
    ({'groups': [0, -1, 0]}, 'at least 0'),
    ({'configs': {'federation': {'sampling': 'poisson'}}}, 'sampling=all'),
  ],
)
def test_another_study_is_refused(change, cause):
  source = options.load_source(_asked().data, seed=0)
  sent = tasks.sent('fedvae', _asked(), source, _SIZES)
  with pytest.raises(InputError, match=cause):
    tasks.built(sent | change)


def test_a_dry_run_says_what_would_leave(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(serving.flower_processes, 'check_installed', lambda: None)
  source = options.load_source(_asked().data, seed=0)
  study = tmp_path / 'study.json'
  here = options.load_source(options.DataConfig(), seed=0)
  sizes = [len(here.train.labels), *_SIZES]
  sent = tasks.sent('fedvae', _asked(), source, sizes)
  study.write_text(json.dumps(sent))
  site = [
    'site', '--dry_run', '--data=digits', f'--state={tmp_path / "site"}',
    f'--study={study}', '--secured_only',
  ]  # fmt: skip
  assert main.execute(site) == 0
  said = capsys.readouterr().out
  assert 'training examples of shape [8, 8, 1]' in said
  assert 'masked in a secure sum' in said
  [task] = tasks.built(sent).values()
  message, _ = _shapes(task.algorithm)
  for leaf in jax.tree.leaves(message.variables):
    assert f': float32{list(leaf.shape)}' in said
  study.write_text(json.dumps(sent | {'input_shape': [28, 28, 1]}))
  assert main.execute(site) == 2
  assert 'see image_size' in capsys.readouterr().err
  # Room in batches would be too small for a site that is larger than all say.
  study.write_text(json.dumps(tasks.sent('fedvae', _asked(), source, _SIZES)))
  assert main.execute(site) == 2
  assert 'the sizes of sites to have' in capsys.readouterr().err


def test_what_is_missing_is_said_before_anything_starts(tmp_path, capsys):
  assert main.execute(['coordinate', 'embed']) == 2
  assert 'one of fedvae' in capsys.readouterr().err
  assert main.execute(['coordinate', 'fedvae', '--help']) == 0
  assert '--site_keys' in capsys.readouterr().out
  with pytest.raises(InputError, match='insecure=true'):
    coordinating.CoordinateConfig(insecure=True, site_keys='keys')


def test_a_table_is_refused_before_anyone_is_asked():
  source = options.load_source(options.DataConfig(data='wine'), seed=0)
  with pytest.raises(InputError, match='images or features.*table'):
    tasks.sent('fedvae', _asked(), source, _SIZES)

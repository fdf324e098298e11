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


_ROWS = [
  ('20', 'f', '1.5', 'ill'), ('30', 'm', '', 'well'), ('40', 'f', '2.5', 'ill'),
  ('50', 'm', '3.5', 'well'), ('60', 'f', '4.5', 'ill'),
  ('25', 'm', '1', 'ill'),
]  # fmt: skip
_NAMES = ('age', 'sex', 'dose', 'state')


def _written(path, rows, names=_NAMES):
  places = [_NAMES.index(name) for name in names]
  lines = [','.join(row[place] for place in places) for row in rows]
  path.write_text('\n'.join([','.join(names), *lines]) + '\n')
  return options.DataConfig(str(path), label_column='state', test_fraction=0.4)


def _encoding(folder, data):
  asked = _asked()._replace(data=data)
  return coordinating._agreed(asked, folder, lambda text: None)


def test_sites_read_a_table_as_the_coordinator_does(tmp_path):
  pytest.importorskip('pandas', reason='needs the extra tables')
  public = _encoding(tmp_path, _written(tmp_path / 'public.csv', _ROWS))
  source = options.load_source(public, seed=0)
  sent = json.loads(
    json.dumps(tasks.sent('fedvae', _asked(), source, [3, 2, 2]))
  )
  [task] = tasks.built(sent).values()
  layout = tasks._spec(sent).layout
  assert layout == source.codec.layout
  # All columns in another order, one more, and one class of the two.
  well = [row for row in _ROWS if row[-1] == 'well'] * 2
  asked = _written(tmp_path / 'site.csv', well, ('dose', 'state', 'age', 'sex'))
  asked = dataclasses.replace(asked, encoding=public.encoding)
  here = options.load_source(asked, seed=0)
  [at_site] = tasks.at_site(sent, here).values()
  prepared = at_site.prepare(serving.one_client(here))
  classes = source.class_names
  assert (prepared.labels == classes.index('well')).all()
  decoded = source.codec.columns(
    source.codec.decode(np.asarray(prepared.inputs))
  )
  assert list(decoded) == ['age', 'sex', 'dose']
  assert set(decoded['sex']) == {'m'}
  assert set(decoded['age']) == {30, 50}
  assert (np.isnan(decoded['dose']) == (decoded['age'] == 30)).all()
  # The same table in a simulation.
  assert _shapes(at_site.algorithm) == _shapes(task.algorithm)
  alone = vae_study.build(
    _asked()._replace(
      data=asked,
      federation=dataclasses.replace(
        _asked().federation, partition='iid', num_clients=2
      ),
    ),
    1,
  )
  np.testing.assert_array_equal(alone.source.train.inputs, here.train.inputs)


@pytest.mark.parametrize(
  ('rows', 'names', 'cause'),
  [
    ([('20', 'x', '1', 'ill')], _NAMES, "line 2.*'sex'.*got 'x'"),
    ([('', 'f', '1', 'ill'), _ROWS[0]], _NAMES, "line 2.*'age'.*never missing"),
    ([('2.5', 'f', '1', 'ill')], _NAMES, "whole number in column 'age'"),
    ([('20', 'f', '1', 'ill')], ('age', 'sex', 'state'), "got 'dose'"),
    ([('20', 'f', '', 'dead')], _NAMES, 'classes among ill, well.*has dead'),
  ],
)
def test_a_site_with_another_table_is_told_where(tmp_path, rows, names, cause):
  pytest.importorskip('pandas', reason='needs the extra tables')
  public = _encoding(tmp_path, _written(tmp_path / 'public.csv', _ROWS))
  source = options.load_source(public, seed=0)
  sent = tasks.sent('fedvae', _asked(), source, [3])
  asked = _written(tmp_path / 'site.csv', rows * 4, names)
  with pytest.raises(InputError, match=cause):
    tasks.at_site(
      sent,
      options.load_source(
        dataclasses.replace(asked, encoding=public.encoding), seed=0
      ),
    )
  with pytest.raises(InputError, match='file of columns and scales'):
    wine = options.load_source(options.DataConfig('wine'), seed=0)
    tasks.at_site(sent | {'sizes': [len(wine.train.labels)]}, wine)


def test_sites_read_series_as_the_coordinator_does(tmp_path):
  drawn = np.random.default_rng(0)
  values = drawn.normal(3.0, 2.0, (20, 8, 2))
  np.savez(tmp_path / 'public.npz', x=values, channels=['x', 'y'])
  np.savez(tmp_path / 'site.npz', x=values[..., ::-1], channels=['y', 'x'])
  public = _encoding(
    tmp_path, options.DataConfig(f'series:{tmp_path / "public.npz"}')
  )
  source = options.load_source(public, seed=0)
  site = dataclasses.replace(public, data=f'series:{tmp_path / "site.npz"}')
  here = options.load_source(site, seed=0)
  np.testing.assert_array_equal(here.train.inputs, source.train.inputs)
  assert abs(source.train.inputs.mean()) < 0.1
  values[0, 0, 0] = np.nan
  np.savez(tmp_path / 'site.npz', x=values, channels=['x', 'y'])
  with pytest.raises(InputError, match="'x': expected no missing values"):
    options.load_source(site, seed=0)
  with pytest.raises(InputError, match='expected a series, got the image'):
    options.load_source(dataclasses.replace(site, data='digits'), seed=0)


def test_a_private_run_pays_for_no_ranges_that_are_public(tmp_path):
  data = _encoding(tmp_path, options.DataConfig('wine'))
  compared = vae_study.build(_asked(privacy='record')._replace(data=data), 1)
  [history] = set(compared.protection.ledger.histories)
  assert len(history) == 1

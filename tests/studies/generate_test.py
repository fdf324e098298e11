"""Samples of a finished run, by command and in three lines of Python."""

import shutil

import jax
import numpy as np
from PIL import Image
import pytest

import fedjax_gen
from fedjax_gen.data import sources
from fedjax_gen.evaluation import pictures
from fedjax_gen.models.vae import DataSpec, VaeConfig, build_vae
from fedjax_gen.running.saves import saving, trained_model
from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import generate_samples


@pytest.fixture
def execute(monkeypatch, capsys, tmp_path):
  """Runs a command line; returns its status, output and errors."""
  monkeypatch.chdir(tmp_path)

  def execute(*args):
    status = program.execute(generate_samples.PROGRAM, ['generate', *args])
    captured = capsys.readouterr()
    return status, captured.out, captured.err

  return execute


@pytest.fixture(scope='module')
def grouped(tmp_path_factory):
  """A run whose models have groups, of 2 and of 6 training examples."""
  workdir = tmp_path_factory.mktemp('runs') / 'fissionvae'
  config = VaeConfig(model='mlp', hidden_size=8, latent_size=2)
  part = sources.Examples(
    np.zeros((8, 4, 4, 1), np.uint8),
    np.array([1, 1, 0, 2, 0, 2, 0, 2], np.int32),
    groups=np.array([0, 0, 1, 1, 1, 1, 1, 1], np.int32),
  )
  source = sources.DataSource(
    'toy', part, part, ('a', 'b', 'c'), group_names=('shapes', 'digits')
  )
  vae = build_vae(config, DataSpec(source.input_shape, 3))
  for seed, name in enumerate(('H+L+D', 'L+D')):
    variables = [vae.init(jax.random.key(2 * seed + g)) for g in range(2)]
    saving.save_groups(workdir, name, 2 * [config], source, variables)
  return workdir


def test_generated_groups_are_read_back_as_groups(grouped, execute):
  status, out, err = execute(f'--workdir={grouped}', '--num=24')
  assert (status, err) == (0, '')
  assert '24 examples of L+D: synthetic.npz' in out
  images, labels = fedjax_gen.load(grouped).sample(24)
  with np.load('synthetic.npz', allow_pickle=False) as file:
    assert set(file.files) == {'x', 'y', 'classes', 'groups'}
    np.testing.assert_array_equal(file['x'], images)
    np.testing.assert_array_equal(file['y'], labels)
    assert file['groups'].tolist() == 6 * ['shapes'] + 18 * ['digits']
  source = sources.load('synthetic.npz')
  assert source.class_names == ('a', 'b', 'c')
  assert set(source.group_names) == {'shapes', 'digits'}
  parts = (source.train, source.test)
  labels, groups = (
    np.concatenate([getattr(part, name) for part in parts])
    for name in ('labels', 'groups')
  )
  shapes = groups == source.group_names.index('shapes')
  assert shapes.sum() == 6
  assert set(labels[shapes]) == {1}
  assert set(labels[~shapes]) == {0, 2}


@pytest.mark.parametrize('asked', ['digits', '1'])
def test_one_group_of_a_method_can_be_asked_for(grouped, execute, asked):
  args = (f'--workdir={grouped}', '--method=H+L+D', f'--group={asked}')
  status, out, _ = execute(*args, '--num=6', '--seed=2')
  assert status == 0
  assert '6 examples of H+L+D' in out
  model = fedjax_gen.load(grouped, 'H+L+D')
  images, labels = model.sample(6, seed=2, group='digits')
  with np.load('synthetic.npz') as file:
    np.testing.assert_array_equal(file['x'], images)
    np.testing.assert_array_equal(file['y'], labels)
    assert file['groups'].tolist() == 6 * ['digits']


def test_a_name_of_digits_is_a_name_before_it_is_a_number(grouped):
  groups = tuple(trained_model.Group(name, 0.5, (0,)) for name in '10')
  model = fedjax_gen.load(grouped)._replace(groups=groups)
  assert generate_samples._group(model, '1') == '1'
  assert generate_samples._group(model, '2') == 2
  assert generate_samples._group(model, 'x') == 'x'
  assert generate_samples._group(model, '') is None


@pytest.mark.parametrize(
  ('args', 'rows', 'columns'),
  [
    ((), 2, 10),
    (('--num=7',), 2, 3),
    (('--num=1',), 2, 1),
    (('--group=digits',), 10, 10),
  ],
)
def test_a_picture_has_a_row_for_each_group(
  grouped, execute, monkeypatch, args, rows, columns
):
  drawn = []
  draw = pictures._write

  def note_and_draw(rows, *rest):
    drawn.extend(rows)
    draw(rows, *rest)

  monkeypatch.setattr(pictures, '_write', note_and_draw)
  status, out, _ = execute(f'--workdir={grouped}', '--out=a.png', *args)
  assert status == 0
  assert f'{rows * columns} examples of L+D: a.png' in out
  assert [len(row.inputs) for row in drawn] == rows * [columns]
  with Image.open('a.png') as image:
    assert image.size[1] > 72 * rows
  if rows == 2:
    assert [row.title for row in drawn] == ['shapes', 'digits']
    model = fedjax_gen.load(grouped)
    for row in drawn:
      expected, _ = model.sample(columns, group=row.title)
      np.testing.assert_array_equal(row.inputs, expected)


def test_a_wrong_group_is_answered_with_the_right_ones(
  grouped, finished, execute, tmp_path
):
  for group in ('letters', '2'):
    for out in ('a.npz', 'a.png'):
      status, _, err = execute(
        f'--workdir={grouped}', f'--group={group}', f'--out={out}'
      )
      assert status == 2
      assert 'shapes, digits, the groups of L+D' in err
  status, _, err = execute(f'--workdir={finished.workdir}', '--group=digits')
  assert status == 2
  assert "a model that knows groups with group='digits'" in err
  assert not list(tmp_path.iterdir())


def test_generated_data_are_a_data_set_like_any_other(finished, execute):
  status, out, err = execute(f'--workdir={finished.workdir}', '--num=25')
  assert (status, err) == (0, '')
  assert '25 examples of federated: synthetic.npz' in out
  source = sources.load('synthetic.npz')
  inputs = np.concatenate([source.train.inputs, source.test.inputs])
  assert inputs.shape == (25, 8, 8, 1)
  assert inputs.dtype == np.uint8
  assert source.class_names == tuple('0123456789')
  labels = np.concatenate([source.train.labels, source.test.labels])
  np.testing.assert_array_equal(np.sort(labels), np.sort(np.arange(25) % 10))


def test_the_command_and_three_lines_of_python_agree(finished, execute):
  execute(f'--workdir={finished.workdir}', '--num=12', '--seed=3')
  model = fedjax_gen.load(finished.workdir)
  images, labels = model.sample(12, seed=3)
  with np.load('synthetic.npz') as file:
    np.testing.assert_array_equal(file['x'], images)
    np.testing.assert_array_equal(file['y'], labels)


def test_the_same_seed_writes_the_same_bytes(finished, execute, tmp_path):
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    args = (f'--workdir={finished.workdir}', f'--seed={seed}', '--num=5')
    assert execute(*args, f'--out={name}.npz')[0] == 0
  first, same, other = ((tmp_path / f'{n}.npz').read_bytes() for n in 'abc')
  assert first == same != other


def test_one_class_of_one_method_can_be_asked_for(finished, execute):
  args = (f'--workdir={finished.workdir}', '--num=4')
  assert execute(*args, '--label=3', '--method=central')[0] == 0
  with np.load('synthetic.npz') as file:
    np.testing.assert_array_equal(file['y'], [3, 3, 3, 3])
    central = fedjax_gen.load(finished.workdir, 'central')
    expected, _ = central.sample(4, labels=np.full(4, 3))
    np.testing.assert_array_equal(file['x'], expected)


@pytest.mark.parametrize('name', ['grid.png', 'new/GRID.PNG'])
def test_a_picture_is_written_and_parents_made(finished, execute, name):
  status, out, _ = execute(f'--workdir={finished.workdir}', f'--out={name}')
  assert status == 0
  assert f'100 examples of federated: {name}' in out
  with Image.open(name) as image:
    assert image.format == 'PNG'
    assert min(image.size) > 300


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['--workdir='], '--workdir=DIR'),
    (['--workdir=/none/such'], '/none/such/models'),
    (['--num=0'], 'num=0'),
    (['--num=many'], 'whole number'),
    (['--label=10'], 'label < 10, the number of classes, got label=10'),
    (['--label=-2'], 'label=-2'),
    (['--seed=-1'], 'seed=-1'),
    (['--seed=4294967296'], 'seed < 2**31'),
    (['--method=local'], 'central, federated, the models in'),
    (['--out=synthetic.txt'], "got out='synthetic.txt'"),
    (['--out='], "got out=''"),
    (['--out=folder.npz'], "got out='folder.npz'"),
    (['--out=file/a.npz'], "Cannot write out='file/a.npz'"),
    (['--nim=3'], 'Did you mean --num?'),
  ],
)
def test_a_mistake_is_answered_in_a_line_and_writes_nothing(
  finished, execute, tmp_path, args, words
):
  (tmp_path / 'folder.npz').mkdir()
  (tmp_path / 'file').write_text('mine')
  status, out, err = execute(f'--workdir={finished.workdir}', '--num=3', *args)
  assert (status, out) == (2, '')
  assert words in err
  assert len(err.splitlines()) == 1
  assert {path.name for path in tmp_path.rglob('*')} == {'folder.npz', 'file'}


def test_a_damaged_model_is_named(finished, execute, tmp_path):
  shutil.copytree(finished.workdir / 'models', tmp_path / 'run/models')
  path = tmp_path / 'run/models/federated.msgpack'
  path.write_bytes(path.read_bytes()[:100])
  status, _, err = execute('--workdir=run')
  assert status == 2
  assert 'run/models/federated' in err
  assert 'Traceback' not in err


def test_an_unconditional_model_takes_no_label(execute, tmp_path):
  config = VaeConfig(model='mlp', hidden_size=4, conditional=False)
  part = sources.Examples(
    np.zeros((1, 4, 4, 1), np.uint8), np.zeros(1, np.int32)
  )
  source = sources.DataSource('toy', part, part, ('a', 'b'))
  vae = build_vae(config, DataSpec(source.input_shape, 2))
  variables = vae.init(jax.random.key(0))
  saving.save_model(tmp_path / 'run', 'federated', config, source, variables)
  status, _, err = execute('--workdir=run', '--label=1', '--num=2')
  assert status == 2
  assert 'unconditional' in err
  assert execute('--workdir=run', '--num=2')[0] == 0
  with np.load('synthetic.npz') as file:
    assert set(file.files) == {'x'}


def test_help_is_for_newcomers(execute):
  status, out, _ = execute('--help')
  assert status == 0
  assert out.startswith('Samples from the model that a finished run trained.')
  assert out.count('python -m experiments.generate') == 5
  assert max(map(len, out.splitlines())) <= 80

"""Training and tables as a notebook shows them."""

import io

import chex
import jax
import numpy as np
import pytest

from fedjax_gen.algorithms import fedvae
from fedjax_gen.data import partition
from fedjax_gen.data.federated import federated_dataset
from fedjax_gen.errors import InputError
from fedjax_gen.federated import rounds
from fedjax_gen.models import vae as vaes
from fedjax_gen.running import notebook


def test_rounds_in_several_calls_are_those_of_one_and_are_told():
  data = federated_dataset(
    np.ones((6, 3), np.float32),
    np.zeros(6, np.int32),
    partition.iid(6, 2, seed=0),
  )
  config = vaes.VaeConfig(model='mlp', latent_size=2, hidden_size=4)
  vae = vaes.build_vae(config, vaes.DataSpec((3,), 1))
  algorithm = fedvae.fedvae(fedvae.Config(batch_size=2), vae)
  run = rounds.round_runner(algorithm)

  def start():
    return rounds.init_state(algorithm, [data], jax.random.key(0))

  whole, metrics = run(start(), [data], jax.random.key(1), 3)
  told = io.StringIO()
  state, history = notebook.train(
    'toy', run, start(), [data], jax.random.key(1), 3,
    rounds_per_call=2, stream=told,
  )  # fmt: skip
  chex.assert_trees_all_equal(state, whole)
  np.testing.assert_allclose(
    history['loss'], metrics.clients[0]['loss'].mean(axis=1), rtol=1e-6
  )
  assert history['loss_per_client'].shape == (3, 2)
  assert 'toy: 2/3' in told.getvalue() and 'toy: 3/3' in told.getvalue()


def test_a_number_of_rounds_that_is_none_is_refused():
  with pytest.raises(InputError, match='rounds_per_call to be'):
    notebook.train('x', None, None, [], None, 3, rounds_per_call=0)


def test_tables_have_four_digits_and_say_what_was_not_measured():
  table = notebook.compared({'fid': 0.347, 'elbo': 24.6}, {'fid': 0.3471234})
  assert repr(table).split('\n') == [
    '      recorded  this run',
    'fid   0.347     0.3471',
    'elbo  24.6      not measured',
  ]


def test_tables_show_names_as_text_and_not_as_html():
  table = notebook.Table(('', 'n'), [('<b>', 10_000)])
  assert table._repr_html_() == (
    '<table><tr><th></th><th>n</th></tr>'
    '<tr><td>&lt;b&gt;</td><td>10,000</td></tr></table>'
  )


def test_a_row_of_another_length_is_refused():
  with pytest.raises(InputError, match='Expected 2 cells'):
    notebook.Table(('', 'n'), [('a', 1), ('b',)])

"""What a comparison of personal classifiers says of trivial baselines."""

import pytest

from fedjax_gen.studies.fedvtc import vtc_methods, vtc_tables


@pytest.mark.parametrize('best', vtc_methods.TRIVIAL)
def test_a_trivial_baseline_that_is_better_is_recommended(best):
  metrics = {'FedVTC': {'accuracy': 0.7}, 'local': {'accuracy': 0.95}}
  assert vtc_tables.advice(metrics | {best: {'accuracy': 0.6}}) == ''
  text = vtc_tables.advice(metrics | {best: {'accuracy': 0.9}})
  assert best in text
  assert '90.0%' in text and '70.0%' in text


def test_nothing_is_recommended_where_numbers_are_not_shown():
  assert vtc_tables.advice({}) == ''
  hidden = {'FedVTC': {'epsilon': 8.0}, 'ClassImages': {'bytes_up': 3.0}}
  assert vtc_tables.advice(hidden) == ''
  assert vtc_tables.advice({'ClassImages': {'accuracy': 0.9}}) == ''


def test_shared_models_are_rows_of_their_methods():
  rows = vtc_methods.shared_rows(['FedVTC', 'FML', 'local'])
  assert rows == {'FML-shared': 'FML'}
  assert 'on its own' in vtc_methods.in_words('FML-shared')

"""Curves of scale."""

from benchmarks import curves


def test_curves_are_of_a_clients_share():
  row = curves._row('clients', 30, [3.0, 1.0, 9.0], 30)
  assert row['milliseconds_per_client'] == 100
  population = {
    'cohort': 10,
    'memory_1000': {'seconds': [[0.1], [0.3, 0.2]]},
    'host_2000': {'seconds': [[0.5]]},
    'memory_ratio': 1.0,
  }
  rows = curves._of_population(population)
  assert [
    (row['series'], row['population'], row['milliseconds_per_client'])
    for row in rows
  ] == [('memory', 1000, 20), ('host', 2000, 50)]
  assert 'host 2,000' in curves._table('population', rows)


def test_the_picture_of_curves_is_the_same_for_the_same_points(tmp_path):
  points = {
    'clients': [curves._row('clients', n, [n / 1e3], n) for n in (10, 100)],
    'devices': [curves._row('devices', n, [1 / n], 100) for n in (1, 2)],
  }
  pictures = []
  for name in ('first.svg', 'second.svg'):
    curves.draw(points, str(tmp_path / name))
    pictures.append((tmp_path / name).read_bytes())
  assert pictures[0] == pictures[1]
  points['devices'][0]['milliseconds_per_client'] *= 2
  curves.draw(points, str(tmp_path / 'other.svg'))
  assert (tmp_path / 'other.svg').read_bytes() != pictures[0]

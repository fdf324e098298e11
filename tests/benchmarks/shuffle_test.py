"""What is timed as an epoch's order is one, for each client its own."""

import numpy as np

from benchmarks import shuffle


def test_every_client_gets_a_permutation_of_its_own():
  orders = np.asarray(shuffle.orders(size=17, clients=3)())
  assert orders.shape == (3, 17)
  np.testing.assert_array_equal(
    np.sort(orders, axis=1), np.tile(np.arange(17), (3, 1))
  )
  assert (orders[0] != orders[1]).any()


def test_a_row_for_each_size(monkeypatch, capsys):
  monkeypatch.setattr(shuffle.ours, 'build', lambda task, option: lambda: None)
  shuffle.main(['--sizes=8,16', '--repeats=1'])
  rows = capsys.readouterr().out.splitlines()[2:]
  assert [int(row.split()[0]) for row in rows] == [8, 16]

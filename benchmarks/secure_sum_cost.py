"""What a secure sum costs: CPU seconds and bytes, of a node and the server.

python -m benchmarks.secure_sum_cost --sizes=100000,1000000 --nodes=3,10,20

All steps of `deployment.masked_sum` in one process; one node in ten, at least
one, sends no vector, where the threshold allows it. Vectors are not counted as
whole numbers in hexadecimal: they travel as they are.
"""

from collections.abc import Callable, Iterator
import os
import time
from typing import Any

from absl import app, flags
import numpy as np

from fedjax_gen.deployment import masked_sum, masking
from fedjax_gen.privacy.secure_sum import FixedPoint

_SIZES = flags.DEFINE_list('sizes', ['100000', '1000000'], 'd, of a vector')
_NODES = flags.DEFINE_list('nodes', ['3', '10', '20'], 'nodes of a sum')
_BITS = flags.DEFINE_integer('bits', 62, 'of the numbers that are sent')


class _Clock:
  """CPU seconds of nodes and of the server."""

  def __init__(self):
    self.nodes = self.server = 0.0

  def node(self, call: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a step of a node."""
    started = time.process_time()
    result = call(*arguments)
    self.nodes += time.process_time() - started
    return result

  def lead(self, call: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a step of the server."""
    started = time.process_time()
    result = call(*arguments)
    self.server += time.process_time() - started
    return result


def cost(num_nodes: int, size: int, bits: int) -> dict[str, float]:
  """One sum: CPU seconds and bytes of a node, CPU seconds of the server."""
  levels = ((1 << bits) - 1) // (2 * num_nodes)
  identities = [os.urandom(32) for _ in range(num_nodes)]
  terms = masked_sum.Terms(
    'cost',
    num_nodes,
    masked_sum.usual_threshold(num_nodes),
    FixedPoint(1.0, levels, num_nodes, bits),
    size,
    tuple(map(masking.identity, identities)),
  )
  num_lost = min(max(num_nodes // 10, 1), num_nodes - terms.threshold)
  everyone, values, clock = range(num_nodes), np.ones(size), _Clock()
  nodes, adverts, sent = {}, {}, {}
  for i in everyone:
    nodes[i], adverts[i] = clock.node(
      masked_sum.advertise, terms, i, os.urandom(32), identities[i]
    )
  for i in everyone:
    nodes[i], sent[i] = clock.node(masked_sum.share, terms, nodes[i], adverts)
  inboxes = clock.lead(masked_sum.routed, terms, sent)
  masked, signatures, told = {}, {}, {}
  for i in everyone[num_lost:]:
    nodes[i], masked[i] = clock.node(
      masked_sum.mask, terms, nodes[i], inboxes[i], values
    )
  for i in masked:
    nodes[i], signatures[i] = clock.node(
      masked_sum.agree, terms, nodes[i], list(masked), identities[i]
    )
  for i in masked:
    told[i] = clock.node(masked_sum.unmask, terms, nodes[i], signatures)
  total = clock.lead(masked_sum.total, terms, adverts, sent, masked, told)
  np.testing.assert_allclose(total, len(masked), rtol=1e-6)
  last = max(masked)
  return {
    'lost': num_lost,
    'node_seconds': clock.nodes / num_nodes,
    'server_seconds': clock.server,
    'vector_bytes': masked[last].nbytes,
    'other_bytes': sum(map(len, sent[last].values()))
    + sum(map(len, adverts[last])) + 64
    + 32 * num_nodes,
  }  # fmt: skip


def rows() -> Iterator[str]:
  """A table of all that flags ask for, a line at a time."""
  yield '| d | nodes | lost | node, s | server, s | vector, bytes | others |'
  yield '| ---: | ---: | ---: | ---: | ---: | ---: | ---: |'
  for size in map(int, _SIZES.value):
    for number in map(int, _NODES.value):
      found = cost(number, size, _BITS.value)
      yield (
        f'| {size:,} | {number} | {found["lost"]} | '
        f'{found["node_seconds"]:.2f} | {found["server_seconds"]:.2f} | '
        f'{found["vector_bytes"]:,} | {found["other_bytes"]:,} |'
      )


def main(unused_argv) -> None:
  """Prints the table."""
  for row in rows():
    print(row, flush=True)


if __name__ == '__main__':
  app.run(main)

"""The client app and the server app: relays to processes of ours.

The same in Flower's simulation and in its deployment. They import no JAX: a
message costs Flower's own process, and no compilation.
"""

from collections.abc import Sequence
import json

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
import numpy as np

from fedjax_gen.deployment.flower import loopback

ACTION = 'fedjax_gen'
_RECORD = 'message'
FOLDER = 'meeting-folder'
"""Name in the node's and the run's configuration; see `local.listening`."""


def client_app() -> ClientApp:
  """Hands each message to the site's process, and its answer back."""
  app = ClientApp()

  @app.query(ACTION)
  def relay(message: Message, context: Context) -> Message:
    with loopback.connected(str(context.node_config[FOLDER])) as site:
      site.send_bytes(_bytes(message))
      return Message(_record(site.recv_bytes()), reply_to=message)

  return app


def server_app() -> ServerApp:
  """Does with the grid what the coordinator's process asks it to."""
  app = ServerApp()

  @app.main()
  def main(grid: Grid, context: Context) -> None:
    folder = str(context.run_config[FOLDER])
    with loopback.connected(folder) as coordinator:
      while True:
        try:
          asked = json.loads(coordinator.recv_bytes())
        except EOFError:
          return  # the coordinator has ended
        if asked['do'] == 'end':
          return
        header, blobs = _DO[asked['do']](grid, asked, coordinator)
        coordinator.send_bytes(json.dumps(header).encode())
        for blob in blobs:
          coordinator.send_bytes(blob)

  return app


def _nodes(grid: Grid, asked, coordinator):
  del asked, coordinator
  return {'nodes': [str(node) for node in grid.get_node_ids()]}, ()


def _send(grid: Grid, asked, coordinator):
  messages = [
    Message(
      _record(coordinator.recv_bytes()),
      dst_node_id=int(node),
      message_type=f'query.{ACTION}',
      ttl=float(asked['seconds']),
    )
    for node in asked['nodes']
  ]
  return {'ids': list(grid.push_messages(messages))}, ()


def _poll(grid: Grid, asked, coordinator):
  del coordinator
  found: Sequence[Message] = list(grid.pull_messages(asked['ids']))
  header = [
    {
      'id': message.metadata.reply_to_message_id,
      'error': message.error.reason if message.has_error() else None,
    }
    for message in found
  ]
  blobs = [_bytes(message) for message in found if not message.has_error()]
  return {'replies': header}, blobs


_DO = {'nodes': _nodes, 'send': _send, 'poll': _poll}


def _record(text: bytes) -> RecordDict:
  return RecordDict({_RECORD: ArrayRecord([np.frombuffer(text, np.uint8)])})


def _bytes(message: Message) -> bytes:
  [array] = message.content[_RECORD].to_numpy_ndarrays()
  return array.tobytes()

"""What a client of Flower's simulation does: a `ClientApp` with PyTorch.

As in Flower's `quickstart-pytorch`. It is imported by the actors, which keep
what an app may keep: the model's object, and the clients' images, pages of one
file that all processes map.
"""

import functools

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
import numpy as np
import torch

from benchmarks.contestants import torch_models

app = ClientApp()


@app.train()
def train(message, context):
  """A client's epoch: a step for each batch, with a new optimizer."""
  config = message.content['config']
  model = _model(config['name'])
  model.load_state_dict(message.content['arrays'].to_torch_state_dict())
  row = context.node_config['partition-id']
  data = [torch.from_numpy(array[row]) for array in _mapped(config['files'])]
  losses = torch_models.train(config['name'], model, data, config['batch'])
  metrics = {
    'num-examples': len(data[0]),
    'steps': len(losses),
    'loss': float(torch.stack(losses).mean()),
  }
  content = {
    'arrays': ArrayRecord(model.state_dict()),
    'metrics': MetricRecord(metrics),
  }
  return Message(RecordDict(content), reply_to=message)


@functools.cache
def _model(name):
  """The process's model, whose parameters each message brings anew."""
  torch.set_num_threads(1)
  return torch_models.model(name)


@functools.cache
def _mapped(files):
  """What all clients have, of files whose names commas separate."""
  # Copy on write, of which there is none: PyTorch warns of arrays that may
  # not be written.
  return [np.load(file, mmap_mode='c') for file in files.split(',')]

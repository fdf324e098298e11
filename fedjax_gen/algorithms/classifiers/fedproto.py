"""FedProto: clients share class means of features and are pulled to them.

Yue Tan, Guodong Long, Lu Liu, Tianyi Zhou, Qinghua Lu, Jing Jiang, Chengqi
Zhang, "FedProto: federated prototype learning across heterogeneous clients",
AAAI 2022; arXiv 2105.00243.

Published: a client sends the mean of its features of each class, the server
averages them by class, weighted by examples, and clients descend cross-entropy
plus lambda times the distance of local and global prototypes. The nearest
prototype predicts.

The authors' code weights every client alike, and so do HtFLlib and FL-bench;
here that is an option. The code, as ours, measures the distance for each
example and as a mean of squares. It takes means of features as they were while
the client trained; ours are those of the extractor that has been trained, by a
pass of their own. HtFLlib reports an accuracy of 0 before there are prototypes;
here no class is known then, nobody is pulled, and the head predicts as ever.
"""

from collections.abc import Sequence
import dataclasses
import functools

from fedjax_gen import fields
from fedjax_gen.federated.own_models import personal
from fedjax_gen.federated.own_models.personal import Method, Model
from fedjax_gen.federated.statistics import prototypes


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """What FedProto adds."""

  fedproto_lambda: float = fields.non_negative(
    10.0,
    'lambda, of the squared distance to the prototype as a mean over '
    'features and batch; 10 in HtFLlib, 1 in the authors’ code. The 0.1 of '
    'the literature is of the Euclidean norm',
  )
  fedproto_average: str = fields.option(
    'count',
    'how class means are averaged: by the clients’ examples of the '
    'class (paper), or every holder alike (the authors’ code)',
    choices=('count', 'uniform'),
  )


def fedproto(
  config: Config,
  training: personal.Config,
  models: Sequence[Model],
  num_clients: Sequence[int],
) -> Method:
  """Own classifiers, prototypes of all."""
  personal.equal_heads(models)
  server = prototypes.averaging_server(
    models[0].num_classes, models[0].feature_size
  )
  client = functools.partial(
    prototypes.client_program,
    training,
    weight=config.fedproto_lambda,
    send=lambda sums, client: prototypes.summed_means(
      sums, config.fedproto_average
    ),
  )
  return personal.method(
    server, models, num_clients, client, prototypes.deployment
  )

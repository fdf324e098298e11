"""What a run of FedVTC saves: a generator, and all classifiers."""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from fedjax_gen.federated.blocks import Blocks
from fedjax_gen.federated.own_models.deployment import Method
from fedjax_gen.models.classification.classifiers import ClassifierConfig
from fedjax_gen.models.vtc import VtcConfig
from fedjax_gen.running.saves import saved_clients, saving
from fedjax_gen.studies.fedvtc import vtc_synthesis
from fedjax_gen.studies.fedvtc.vtc_judge import Clients, Judge, Judged
from fedjax_gen.studies.fedvtc.vtc_methods import SUBJECT, MainMethod
from fedjax_gen.types import Tree, Variables


def save_generator(
  workdir: str | os.PathLike,
  config: VtcConfig,
  subject: MainMethod,
  state: Any,
  clients: Clients,
) -> None:
  """Saves what makes images of classes, for `fedjax_gen.load`.

  Nothing is saved where nobody has reported a class.

  Args:
    workdir: folder of the run.
    config: which generator.
    subject: FedVTC, as it was trained.
    state: after training.
    clients: who holds what.
  """
  gaussians = state.server.gaussians
  if not np.asarray(gaussians.known).any():
    return
  generators = vtc_synthesis.generators(subject, state, clients)
  holdings = None
  if len(generators) > 1:
    source = clients.source
    holdings = clients.split.train.counts(
      source.train.labels, source.num_classes
    )
  saving.save_vtc(
    workdir, SUBJECT, config, clients.source, generators, gaussians, holdings
  )


def judged_and_saved(
  workdir: str | os.PathLike,
  name: str,
  config: ClassifierConfig,
  judge: Judge,
  method: Method,
  blocks: Blocks,
  state: Any,
  clients: Clients,
) -> Judged:
  """Measures a method and saves what its clients predict with.

  Args:
    workdir: folder of the run.
    name: of the method.
    config: which classifiers.
    judge: who measures.
    method: the method.
    blocks: its clients; see `Engine.blocks`.
    state: after training.
    clients: who holds what.
  """
  if any('shared' in deployment.rules for deployment in method.deployments):
    return judge.everything(method, blocks, state)  # no client has its own
  if not clients.is_on_host:
    judged = judge.everything(method, blocks, state)
    save_classifiers(workdir, config, {name: judged}, clients)
    return judged
  writer = saved_clients.ClientsWriter(
    workdir, name, config, clients.source, clients.measured_numbers
  )

  def keep(fleet, block, deployed):
    own = block.cut(_classifier(deployed))
    places = np.searchsorted(clients.measured[fleet], block.cut(block.rows))
    writer.put(fleet, places, own)

  judged = judge.everything(method, blocks, state, keep)
  writer.close()
  return judged


def save_classifiers(
  workdir: str | os.PathLike,
  config: ClassifierConfig,
  judged: Mapping[str, Judged],
  clients: Clients,
) -> None:
  """Saves what clients predict with, for `fedjax_gen.load_clients`.

  Args:
    workdir: folder of the run.
    config: which classifiers.
    judged: by method, what was deployed.
    clients: who holds what.
  """
  for name, of_method in judged.items():
    saved_clients.save_clients(
      workdir, name, config, clients.source, clients.measured_numbers,
      [_classifier(deployed) for deployed in of_method.deployed],
    )  # fmt: skip


def _classifier(deployed: Tree) -> Variables:
  """The client's own among what it deploys.

  FML and FedKD also deploy a shared model, which does not predict.
  FedProto and FedTGP deploy prototypes and predict by those; kept is what
  predicts by the head; the results have the accuracy of the head too.
  """
  return deployed.get('classifier', deployed)

"""What a run of FedVTC leaves to be used: a generator."""

import os
from typing import Any

import numpy as np

from experiments import vtc_synthesis
from experiments.vtc_judge import Clients
from experiments.vtc_methods import SUBJECT, Subject
from fedjax_gen.models.vtc import VtcConfig
from fedjax_gen.running import saved


def save_generator(
  workdir: str | os.PathLike,
  config: VtcConfig,
  subject: Subject,
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
  saved.save_vtc(
    workdir, SUBJECT, config, clients.source, generators, gaussians, holdings
  )

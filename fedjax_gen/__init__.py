"""fedjax_gen: federated generative models in JAX.

    import fedjax_gen

    model = fedjax_gen.load('runs/fedvae')      # a finished run
    images, labels = model.sample(10_000, seed=0)

    clients = fedjax_gen.load_clients('runs/fedvtc')
    probabilities = clients.predict(images, client=3)

The parts, from the ground up: `losses` and `models` (pure functions),
`data` (from files to federations), `federated` (the engine), `algorithms`
(one paper, one file), `evaluation` (what samples are worth) and `running`
(work directories, checkpoints, reports).
"""

from fedjax_gen.errors import InputError
from fedjax_gen.version import __version__

__all__ = ['InputError', '__version__', 'load', 'load_clients']


def load(workdir, method=None):
  """Loads the model that a run trained; see `running.saved.load_model`.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    method: which of its models; `load_model` says which if not given.

  Returns:
    A `fedjax_gen.running.trained_model.TrainedModel`, whose
    `sample(num, seed=0)` gives uint8 images and labels.

  Raises:
    InputError: there is no such model, or its files are damaged.
  """
  # Imported here so that `import fedjax_gen` costs nothing.
  from fedjax_gen.running import saved

  return saved.load_model(workdir, method)


def load_clients(workdir, method=''):
  """Loads clients' own classifiers; see `running.saved_clients.load_clients`.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    method: of which method; `load_clients` says of which if not given.

  Returns:
    A `fedjax_gen.running.saved_clients.ClientModels`, whose
    `predict(images, client=0)` gives probabilities of classes.

  Raises:
    InputError: there is no such method, or its files are damaged.
  """
  from fedjax_gen.running import saved_clients

  return saved_clients.load_clients(workdir, method)

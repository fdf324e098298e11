"""fedjax_gen: federated generative models in JAX.

    import fedjax_gen

    done = fedjax_gen.run('fedvae', workdir='runs/fedvae', rounds=20)
    model = fedjax_gen.load('runs/fedvae')      # of a finished run
    images, labels = model.sample(10_000, seed=0)

    clients = fedjax_gen.load_clients('runs/fedvtc')
    probabilities = clients.predict(images, client=3)

The parts, from the ground up: `losses` and `models` (pure functions),
`data` (from files to federations), `federated` (the engine), `privacy`
(noise, clipping, accounting), `algorithms` (one paper, one file),
`evaluation` (metrics and pictures), `running` (work directories, checkpoints,
reports) and `studies` (the four systems, run and compared).
"""

from fedjax_gen.errors import InputError
from fedjax_gen.version import __version__

__all__ = ['InputError', '__version__', 'load', 'load_clients', 'run']


def run(name, **flags):
  """Runs a study, as the command `fedjax-gen NAME` does.

  Args:
    name: fedvae, fissionvae, fedhypevae or fedvtc.
    **flags: those of the command line, by their names: `--rounds=20` is
      `rounds=20`, a list of names a sequence.

  Returns:
    A `fedjax_gen.studies.command.calling.Finished`: metrics, models, pictures
    and the path of the report. A notebook shows the main ones.

  Raises:
    InputError: a mistake in the flags or the data; see `calling.run`.

  Example:
    >>> done = run('fedvae', rounds=20)  # doctest: +SKIP
    >>> done.metrics['federated']['test_elbo']  # doctest: +SKIP
    >>> images, labels = done.load().sample(100, seed=0)  # doctest: +SKIP
  """
  # Imported here so that `import fedjax_gen` costs nothing.
  from fedjax_gen.studies.command import calling

  return calling.run(name, **flags)


def load(workdir, method=None):
  """Loads the model that a run trained; see `running.saves.saved.load_model`.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    method: which of its models; `load_model` says the default.

  Returns:
    A `fedjax_gen.running.saves.trained_model.TrainedModel`: its
    `sample(num, seed=0)` gives uint8 images and labels.

  Raises:
    InputError: there is no such model, or its files are damaged.
  """
  # Imported here so that `import fedjax_gen` costs nothing.
  from fedjax_gen.running.saves import saved

  return saved.load_model(workdir, method)


def load_clients(workdir, method=''):
  """Loads clients' own classifiers; see
  `running.saves.saved_clients.load_clients`.

  Args:
    workdir: folder of the run, as given to `--workdir`.
    method: the method that trained them; `load_clients` says the default.

  Returns:
    A `fedjax_gen.running.saves.saved_clients.ClientModels`: its
    `predict(images, client=0)` gives probabilities of classes.

  Raises:
    InputError: there is no such method, or its files are damaged.
  """
  from fedjax_gen.running.saves import saved_clients

  return saved_clients.load_clients(workdir, method)

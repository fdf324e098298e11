"""One command for all programs: `fedjax-gen NAME --flag=value ...`.

In a clone of the repository `python -m experiments.NAME` is the same.
"""

from collections.abc import Sequence
import difflib
import importlib
import signal
import sys
import textwrap

from fedjax_gen import version
from fedjax_gen.studies.command import program

# With the sentences of their help, which are not imported for this list: a
# program brings JAX.
PROGRAMS = {
  'fedvae': 'Trains one VAE over clients that keep their images (FedVAE).',
  'fissionvae': (
    'Trains VAEs over groups of clients with different kinds of images '
    '(FissionVAE).'
  ),
  'fedhypevae': (
    'Trains personal generators of embeddings privately (FedHypeVAE).'
  ),
  'fedvtc': (
    'Lets clients with different models learn from shared statistics (FedVTC).'
  ),
  'embed': 'Turns images into embeddings with a frozen encoder.',
  'generate': 'Samples from the model that a finished run trained.',
  'coordinate': 'coordinate NAME: a study with other machines as its clients.',
  'site': 'Trains on data of this machine, as a coordinator asks.',
}
_MODULES = {
  'fedvae': 'fedvae.vae_study',
  'fissionvae': 'fissionvae.fission_study',
  'fedhypevae': 'fedhypevae.hype_study',
  'fedvtc': 'fedvtc.vtc_study',
  'embed': 'tools.embed_images',
  'generate': 'tools.generate_samples',
  'site': 'deployed.serving',
}
_COORDINATE = 'coordinate'


def main() -> None:
  """Runs the program that the command line names, and exits."""
  # Ctrl-C while JAX is imported ends it without a traceback: there is nothing
  # to save. The program itself takes signals over.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  sys.exit(execute(sys.argv[1:]))


def execute(args: Sequence[str]) -> int:
  """Runs `NAME --flag=value ...` and returns its exit status."""
  name, *rest = args or ['--help']
  if name in ('-h', '-help', '--help'):
    print(_help())
    return 0
  if name == '--version':
    print(f'fedjax-gen {version.__version__}')
    return 0
  if name == _COORDINATE:
    return _coordinate(rest)
  if name not in PROGRAMS:
    close = difflib.get_close_matches(name, PROGRAMS, n=1)
    hint = f' Did you mean {close[0]}?' if close else ''
    print(
      f'fedjax-gen: There is no program {name!r}.{hint} There are: '
      f'{", ".join(PROGRAMS)}.',
      file=sys.stderr,
    )
    return 2
  command = f'{program.COMMAND} {name}'
  return program.execute(program_of(name), [command, *rest])


def program_of(name: str) -> program.Program:
  """The program with a name of `PROGRAMS`; imports JAX."""
  module = importlib.import_module(f'fedjax_gen.studies.{_MODULES[name]}')
  return module.PROGRAM


def _coordinate(args: Sequence[str]) -> int:
  """Runs `coordinate NAME --flag=value ...`."""
  from fedjax_gen.studies.deployed import coordinating

  name, *rest = args or ['']
  if name not in coordinating.STUDIES:
    print(
      f'fedjax-gen: Expected coordinate NAME, one of '
      f'{", ".join(coordinating.STUDIES)}, got {name!r}. Others run between '
      'machines from Python: docs/deployment.md.',
      file=sys.stderr,
    )
    return 2
  command = f'{program.COMMAND} {_COORDINATE} {name}'
  study = coordinating.program_of(program_of(name))
  return program.execute(study, [command, *rest])


def _help() -> str:
  programs = '\n'.join(
    textwrap.fill(f'  {name:12}{sentence}', 80, subsequent_indent=14 * ' ')
    for name, sentence in PROGRAMS.items()
  )
  return f"""\
Trains, and samples from, generative models of data that may not be pooled.

Examples:
  fedjax-gen fedvae --workdir=runs/fedvae
      Trains on handwritten digits, in about a minute.
  fedjax-gen generate --workdir=runs/fedvae --num=10000
      Ten thousand of its images into synthetic.npz.
  fedjax-gen fedvae --help
      All flags of a program.

Programs:
{programs}

Each is `python -m experiments.NAME` too. --version shows the version."""

"""Samples from the model that a finished run trained.

python -m experiments.generate --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import generate_samples

if __name__ == '__main__':
  program.run(generate_samples.PROGRAM)

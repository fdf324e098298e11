"""FissionVAE: VAEs over groups of clients with different kinds of images.

python -m experiments.fissionvae --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.fissionvae import fission_study

if __name__ == '__main__':
  program.run(fission_study.PROGRAM)

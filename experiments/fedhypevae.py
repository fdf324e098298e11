"""FedHypeVAE: personal generators of embeddings, under differential privacy.

python -m experiments.fedhypevae --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedhypevae import hype_study

if __name__ == '__main__':
  program.run(hype_study.PROGRAM)

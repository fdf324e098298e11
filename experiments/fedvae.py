"""FedVAE: one VAE averaged over clients, next to central and local training.

python -m experiments.fedvae --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvae import vae_study

if __name__ == '__main__':
  program.run(vae_study.PROGRAM)

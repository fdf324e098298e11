"""Turns images into embeddings with a frozen encoder.

python -m experiments.embed --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import embed_images

if __name__ == '__main__':
  program.run(embed_images.PROGRAM)

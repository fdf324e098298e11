"""FedVTC: clients with different models learn from shared statistics.

python -m experiments.fedvtc --help
"""

from fedjax_gen.studies.command import program
from fedjax_gen.studies.fedvtc import vtc_study

if __name__ == '__main__':
  program.run(vtc_study.PROGRAM)

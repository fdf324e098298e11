"""The command line of all programs."""

import os
import sys

# Where processes come together JAX's C++ tells each failure of one in dozens of
# lines in all the others; `running.distributed.processes` has the words. Read
# when JAX is imported, which the programs do first of all.
if any(flag.lstrip('-').startswith(('coordinator', 'distributed'))
       for flag in sys.argv[1:]):  # fmt: skip
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1000')

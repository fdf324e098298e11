# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A table of six sites
#
# The RAND Health Insurance Experiment followed 5,912 people at six sites. Each
# site keeps its rows. You will see the columns that are found, a synthetic
# table of all sites next to the real one, and what differential privacy costs.
#
# About 6 minutes on two CPU cores. Nothing is downloaded but packages with the
# study and with measures of tables, if they are not there, and on Colab what
# the library needs.
# [docs/signals_and_tables.md](../docs/signals_and_tables.md) has all numbers.

# %%
# The same in every notebook. On Colab it installs the library: from REPOSITORY,
# if one is named, else from the wheel or the zipped folder that you uploaded.
# The JAX, NumPy, protobuf and TensorFlow of Colab stay as they are.
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

REPOSITORY = ''  # what pip can install, as git+https://...
SMALL = os.environ.get('FEDJAX_GEN_NOTEBOOK') == 'small'  # for a quick test

if 'COLAB_RELEASE_TAG' in os.environ:
  uploaded = sorted(map(str, pathlib.Path().glob('fedjax_gen*.[wz]*')))
  if not (REPOSITORY or uploaded):
    raise FileNotFoundError(
      'Upload fedjax_gen-...-any.whl or fedjax_gen.zip (Files, on the left), '
      'then run this cell again.'
    )
  kept = re.compile('(jax.*|libtpu|numpy|protobuf|tensorflow.*)==')
  found = importlib.metadata.distributions()
  pins = {f'{d.metadata["Name"]}=={d.version}' for d in found}
  pins = sorted(pin for pin in pins if kept.match(pin.lower()))
  pathlib.Path('constraints.txt').write_text('\n'.join(pins))
  pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
  source = REPOSITORY or uploaded[-1]
  subprocess.run([*pip, '-c', 'constraints.txt', source], check=True)

import fedjax_gen

print('fedjax_gen', fedjax_gen.__version__)

# %%
# The study is a file of statsmodels; sdmetrics compares tables.
import importlib.util

for package in ['pandas', 'statsmodels', 'sdmetrics']:
  if importlib.util.find_spec(package) is None:
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, package], check=True)

# %% [markdown]
# ## The table
#
# Kinds of columns are found, and a file corrects them (`schema=`). All years of
# a person are for training, or all held out.

# %%
from IPython.display import Image

from fedjax_gen.data import sources

source = sources.load('rand_health')
print(*source.notes, sep='\n')
print(*source.schema.columns[:6], sep='\n')

# %%
from fedjax_gen.data import partition

sites = partition.natural(source.train.users)
sites.plot(source.train.labels, source.class_names, 'sites.png')
Image('sites.png', width=420)

# %% [markdown]
# ## Training
#
# The preset `insurance`; `local` is each site alone.

# %%
flags = {}
if SMALL:
  flags = {
    'generator': 'vae', 'rounds': 2, 'rounds_per_step': 1,
    'latent_size': 4, 'hidden_size': 16, 'num_local_models': 1,
    'num_examples': 600, 'num_test_examples': 9, 'num_samples': 10,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedvae', preset='insurance', methods=['federated', 'local'],
  workdir='runs/insurance', **flags,
)  # fmt: skip
done

# %% [markdown]
# `column_shapes` and `pair_trends` are the quality report of `sdmetrics`, 1 at
# best. `dcr_share` is the share of generated rows that lie nearer to a training
# than to a held-out row: 0.5 is no copying. Copies of marginals have the best
# columns, and no relation between them.

# %%
Image(done.path / 'samples/samples_all.png')

# %% [markdown]
# ## A synthetic table

# %%
import pandas as pd

synthetic = pd.DataFrame(done.load().columns(1000, seed=1))
synthetic.to_csv('synthetic.csv', index=False)
synthetic.head()

# %% [markdown]
# ## Every record protected
#
# `epsilon` counts all that is released of a record: the histograms of columns
# and every round. The names of columns and categories are public.

# %%
private = fedjax_gen.run(
  'fedvae', preset='insurance', methods=['federated'], privacy='record',
  epsilon=8.0, delta=1e-5, workdir='runs/insurance_private', **flags,
)  # fmt: skip
private

# %% [markdown]
# ## Next
#
# * your own table: `data='patients.csv', client_column='site'`;
# * [signals of a watch](watch.ipynb).

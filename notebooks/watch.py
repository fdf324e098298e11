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
# # Signals of a watch
#
# Ten people wear a smartwatch and do seven exercises of the shoulder. No
# recording leaves its owner. You will see the windows that models are trained
# on, windows that a federated model makes, and how well a classifier that was
# trained on those alone knows the exercises of two people who took no part.
#
# About 6 minutes on two CPU cores. Nothing is downloaded but a package of 14 MB
# with the recordings, if it is not there, and on Colab what the library needs.
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
# The recordings are a file of this package; its code is not used.
import importlib.util

for package in ['seglearn']:
  if importlib.util.find_spec(package) is None:
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, package], check=True)

# %% [markdown]
# ## The recordings
#
# 50 steps a second, six channels: the accelerometer and the gyroscope. They are
# cut into windows of two seconds, and no window crosses a recording, a person
# or the border between training and test.

# %%
from IPython.display import Image
from matplotlib import pyplot as plt
import numpy as np

from fedjax_gen.data import sources

PEOPLE = ['person 9', 'person 10']  # who take no part

source = sources.load('watch', test_clients=PEOPLE)
print(*source.notes, sep='\n')
train = source.train
figure, axes = plt.subplots(2, 4, figsize=(9, 3.2), sharex=True, sharey=True)
for label, axis in zip(range(7), axes.flat, strict=False):
  axis.plot(train.inputs[train.labels == label][0][:, :3], linewidth=0.8)
  axis.set_title(source.class_names[label], fontsize=8)
axes.flat[-1].axis('off')
figure.tight_layout()
figure.savefig('windows.png', dpi=110)
plt.close(figure)
Image('windows.png')

# %% [markdown]
# ## Training
#
# The preset `watch`: eight people train one autoencoder, then a flow over its
# latents, by averaging. What is normalised, is so by histograms that are summed
# over people.

# %%
flags = {}
if SMALL:
  flags = {
    'generator': 'vae', 'rounds': 2, 'rounds_per_step': 1,
    'channels': [8, 8], 'latent_size': 4, 'hidden_size': 16,
    'num_examples': 300, 'num_test_examples': 9, 'num_samples': 10,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedvae', preset='watch', test_clients=PEOPLE, workdir='runs/watch', **flags
)
done

# %% [markdown]
# `tstr_accuracy` is that of a classifier of windows: trained on generated ones,
# tested on real ones of the two. `real_data` is what real windows of the other
# eight teach it. Two trivial ways to make windows, which look at all recordings
# in one place, show what a model has to beat: `class_gaussians` and
# `marginal_copies`.

# %%
Image(done.path / 'samples/samples_all.png')

# %% [markdown]
# ## Windows of one exercise, in a file
#
# In the units of the watch, as `sources.load('series:synthetic.npz')` reads
# them.

# %%
made, labels = done.load().sample(200, seed=1)
print(made.shape, np.bincount(labels))
np.savez_compressed(
  'synthetic.npz', x=made, y=labels, classes=np.array(source.class_names)
)

# %% [markdown]
# ## Next
#
# * your own recordings: an npz file with `x` `[n, T, C]` and `users`, or a
#   table with a row for each step and `--window`;
# * [a table of six sites](insurance.ipynb);
# * every window protected: `privacy='record', epsilon=8`
#   ([docs/privacy.md](../docs/privacy.md)).

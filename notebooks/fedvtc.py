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
# # FedVTC: clients with different models teach each other
#
# Nine clients have classifiers of three architectures, so no server can average
# them, and most clients have seen only a few of the ten digits. They share the
# means and the spread of their features; a small generator turns these into
# images, and from the images a client learns classes that it never saw.
# You will see who knows what before and after, the images, and the accuracy
# next to the one recorded in [docs/fedvtc.md](../docs/fedvtc.md#results).
#
# About a minute on two CPU cores. Nothing is downloaded but, on Colab, what the
# library needs.

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

# %% [markdown]
# ## What travels
#
# The extractor $g_k$ of client $k$ turns an image into features, its head turns
# features into a class. The client sends sums, from which the server computes
# the mean $c^y$ of each class over *all* clients and one spread $\sigma$,
# exactly. The generator $\psi$ turns draws $v \sim \mathcal N(c^y, \sigma^2)$
# into images, and each client fine-tunes its classifier $f_k$ on
#
# $$\mathrm{CE}\left(f_k(\psi(v)), y\right)$$
#
# for every class $y$ that some client holds.
#
# ## Training
#
# Labels are dealt by a Dirichlet distribution of 0.1: most clients lack most
# classes. A fifth of every client's images is held out. Clients of one
# architecture are a *fleet*: one mapped program, three in a round. `local` is
# every client alone, from the same initial classifiers, with its examples in
# the same order.

# %%
flags = {}
if SMALL:
  flags = {
    'rounds': 2, 'num_clients': 4, 'architectures': ['cnn', 'mlp'],
    'feature_size': 16, 'vtc_width': 0.1, 'synthetic_per_class': 10,
    'num_examples': 300,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedvtc', baselines=['local'], workdir='runs/fedvtc', **flags
)
done

# %%
from IPython.display import Image

Image(done.path / 'samples/partition.png', width=520)

# %% [markdown]
# ## Who knows what
#
# Each client predicts all held-out digits with its own classifier.

# %%
import matplotlib.pyplot as plt

from fedjax_gen.data import sources

test = sources.load('digits').test
figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), layout='constrained')
for axes, name in zip(panels, ('local', 'FedVTC'), strict=True):
  clients = done.load_clients(name)
  right = [
    clients.predict(test.inputs, client).argmax(axis=1) == test.labels
    for client in range(clients.num_clients)
  ]
  by_class = [
    [row[test.labels == digit].mean() for digit in range(10)] for row in right
  ]
  image = axes.imshow(by_class, cmap='Blues', vmin=0, vmax=1)
  axes.set(title=name, xlabel='class', xticks=range(10))
panels[0].set(ylabel='client')
figure.colorbar(image, ax=panels, label='share of right answers')
plt.show()

# %% [markdown]
# Alone, a client knows the classes that it holds and nothing else. With FedVTC
# it answers for classes that it has no image of.

# %%
from fedjax_gen.running import notebook

PAGE = 'docs/fedvtc.md'
RECORDED = {'local': 37.7, 'FedVTC': 71.9}
measured = {name: 100 * done.metrics[name]['accuracy'] for name in RECORDED}
notebook.compared(RECORDED, measured)

# %% [markdown]
# ## The images that taught them
#
# Draws from the Gaussian of each class, through the generator. Blurred class
# means are enough for digits; of photographs they teach little.

# %%
Image(done.path / 'samples/synthetic.png')

# %% [markdown]
# Class means give no privacy: the mean of one record *is* that record's
# features. [docs/fedvtc.md](../docs/fedvtc.md#what-statistics-give-away)
# attacks them.
#
# ## Next
#
# * other methods on the same clients: `baselines='all'`;
# * other architectures: any of `EXTRACTORS` in
# `fedjax_gen.models.classification.extractors`; * [an algorithm of your
# own](own_algorithm.ipynb).

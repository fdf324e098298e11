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
# # FissionVAE: clients with different kinds of images
#
# Half of the clients hold digits, the other half drawn shapes. One averaged VAE
# blends the two. FissionVAE shares the encoder and gives each group of clients
# a prior and a decoder of its own. You will see both models, what each
# generates for one kind, where the kinds lie in latent space, and the numbers
# next to those recorded in
# [docs/fissionvae.md](../docs/fissionvae.md#results).
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
# ## What is shared, and by whom
#
# Five clients hold digits, five hold shapes. The group is public: each client
# tells the server its group. (Unknown groups can be
# [discovered](../docs/fissionvae.md#discovering-groups).) A client of group $g$
# minimises
#
# $$-\log p_g(x \mid z) + \mathrm{KL}\left(q(z \mid x) \,\|\,
# \mathcal N(\mu_g, I)\right),$$
#
# with one encoder $q$ for everyone, a decoder $p_g$ for its group and a mean
# $\mu_g$ that stays fixed. The server averages encoders over all clients and
# decoders within each group. Methods are named by what groups have for
# themselves: L the prior, D the decoder. Without either it is FedVAE.

# %%
flags = {}
if SMALL:
  flags = {
    'rounds': 2, 'model': 'mlp', 'norm': 'none', 'hidden_size': 32,
    'num_test_examples': 18, 'num_samples': 20,
  }  # fmt: skip
done = fedjax_gen.run(
  'fissionvae', methods=['FedVAE', 'L+D'], workdir='runs/fissionvae', **flags
)
done

# %% [markdown]
# A group costs its clients four bytes: its number, from which they know their
# prior. `done.report` shows the bytes, and everything else.
#
# ## Ask for one kind
#
# FedVAE has one model and ignores the question. L+D has a model for each group,
# with the same encoder.

# %%
from IPython.display import Image

Image(done.path / 'samples/groups.png')

# %% [markdown]
# ## Where the groups lie
#
# Posterior means of held-out images, in the two directions in which they vary
# most. A group with a prior of its own has a place of its own.

# %%
import matplotlib.pyplot as plt
import numpy as np

from fedjax_gen.data import sources
from fedjax_gen.models import elbo

source = sources.load('digits_and_shapes')
test = source.test
figure, panels = plt.subplots(1, 2, figsize=(8, 3.5), layout='constrained')
for axes, name in zip(panels, done.metrics, strict=False):
  trained = done.load(name)
  # The encoder is the same for both groups.
  means, _ = elbo.reconstruct(
    trained.functions[0], trained.variables[0], test.inputs, test.labels
  )
  centred = np.asarray(means - means.mean(axis=0))
  _, _, directions = np.linalg.svd(centred, full_matrices=False)
  places = centred @ directions[:2].T
  for group, marker in enumerate('o^'):
    mine = places[test.groups == group]
    axes.scatter(*mine.T, s=8, marker=marker, label=source.group_names[group])
  axes.set(title=name, xticks=[], yticks=[])
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## How good it is
#
# * `fid_...`: distance to held-out images of both groups, lower is better;
# * `group_leakage`: share of the samples of one kind that a classifier takes
#   for the other kind; a model that ignores the question leaks half.

# %%
from fedjax_gen.running import notebook

PAGE = 'docs/fissionvae.md'
RECORDED = {
  'FedVAE': {'fid_digits_and_shapes_classifier': 1.064, 'group_leakage': 0.501},
  'L+D': {'fid_digits_and_shapes_classifier': 0.825, 'group_leakage': 0},
}
notebook.compared(RECORDED['FedVAE'], done.metrics['FedVAE'])

# %%
notebook.compared(RECORDED['L+D'], done.metrics['L+D'])

# %% [markdown]
# ## Use it

# %%
images, _ = done.load('L+D').sample(100, group='shapes', seed=0)
print(images.shape, images.dtype)

# %% [markdown]
# ## Next
#
# * all variants and baselines: `methods=['FedVAE', 'L', 'D', 'L+D', 'H+L+D',
#   'fedgan']`;
# * decoders of different architectures: `methods=['L+D+het']`;
# * [your own kinds of images](own_data.ipynb): `data='groups:my_images'`.

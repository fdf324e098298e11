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
# # FedVAE: one autoencoder, trained where the images are
#
# Ten clients train one variational autoencoder (VAE) on handwritten digits. No
# image is sent; only copies of the model travel. You will see who holds what,
# how the model is trained, the digits that it generates, and how good they are:
# next to the numbers recorded in [docs/fedvae.md](../docs/fedvae.md#results),
# and next to a model that was trained on all images in one place.
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
# ## The model, and a round
#
# A client encodes an image $x$ to a Gaussian $q(z \mid x)$ over 16 latents and
# decodes a draw $z$ of it. It minimises
#
# $$-\log p(x \mid z) + \mathrm{KL}\left(q(z \mid x) \,\|\,
# \mathcal N(0, I)\right).$$
#
# A round has three steps:
#
# 1. the server sends the model $w$ to the clients;
# 2. client $k$ trains it on its own $n_k$ images, to $w_k$, and sends
#    $w - w_k$;
# 3. the server averages what it receives:
#    $w \leftarrow w - \sum_k n_k\,(w - w_k) \,/ \sum_k n_k$.
#
# ## Training
#
# `fedjax_gen.run` is the command `python -m experiments.fedvae`, with the flags
# as arguments. 1,797 digits of 8 × 8 pixels come with scikit-learn. A fifth is
# held out; the rest is given to ten clients at random. `central` is the model
# that the data in one place would have given, with as many steps in a round as
# one client makes.

# %%
flags = {}
if SMALL:
  flags = {
    'rounds': 2, 'model': 'mlp', 'norm': 'none', 'hidden_size': 32,
    'num_test_examples': 9, 'num_samples': 20, 'importance_samples': 2,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedvae', methods=['federated', 'central'], workdir='runs/fedvae', **flags
)
done

# %% [markdown]
# The table has everything that was measured. `done.report` is a page with all
# of it explained, curves and bytes included. Call the cell again: a finished
# run is not run again, and an interrupted one resumes.
#
# ## Who holds what, and what the model generates

# %%
from IPython.display import Image

Image(done.path / 'samples/partition.png', width=520)

# %%
Image(done.path / 'samples/samples_federated.png')

# %% [markdown]
# ## The parts of the model
#
# A trained model is a value with pure functions. Encode the two held-out threes
# that differ most, walk from one code to the other, and decode on the way: what
# lies between two codes is a digit too.

# %%
import numpy as np

from fedjax_gen.data import sources
from fedjax_gen.evaluation import pictures
from fedjax_gen.models import elbo, vae

test = sources.load('digits').test
trained = done.load('federated')
model, variables = trained.vae, trained.variables
threes = test.inputs[test.labels == 3]
labels = np.full(len(threes), 3)
means, _ = elbo.reconstruct(model, variables, threes, labels)
distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
start, end = np.unravel_index(distances.argmax(), distances.shape)
share = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
outputs, _ = model.decode(
  variables,
  {'z': (1 - share) * means[start] + share * means[end]},
  labels[:8],
)
between = np.asarray(vae.to_pixels(model.likelihood.mean(outputs)))
way = np.concatenate([threes[start][None], between, threes[end][None]])
pictures.image_rows({'real, between, real': way}, 'way.png')
Image('way.png')

# %% [markdown]
# ## How good it is
#
# * `test_elbo`: a lower bound on the log-likelihood of held-out digits, nats
#   per image, higher is better;
# * `fid_digits_classifier`: distance between features of generated and held-out
#   images, lower is better;
# * `tstr_accuracy`: accuracy on real digits of a classifier that was trained on
#   generated digits only.
#
# The recorded numbers are of one seed on two x86-64 cores. Other machines round
# differently, and training amplifies that: expect the second digit to differ.

# %%
from fedjax_gen.running import notebook

PAGE = 'docs/fedvae.md'
RECORDED = {
  'federated': {
    'test_elbo': 24.4, 'fid_digits_classifier': 0.318, 'tstr_accuracy': 0.922,
  },
  'central': {
    'test_elbo': 22.0, 'fid_digits_classifier': 0.478, 'tstr_accuracy': 0.919,
  },
}  # fmt: skip
notebook.compared(RECORDED['federated'], done.metrics['federated'])

# %%
notebook.compared(RECORDED['central'], done.metrics['central'])

# %% [markdown]
# ## Use it
#
# The model needs neither this notebook nor the clients. Elsewhere
# `fedjax_gen.load('runs/fedvae')` reads it.

# %%
images, labels = done.load().sample(1000, seed=0)
print(images.shape, images.dtype, np.bincount(labels))

# %% [markdown]
# ## Next
#
# * clients that differ: `partition='dirichlet', alpha=0.1`, or
#   [FissionVAE](fissionvae.ipynb);
# * every image protected: `privacy='record', epsilon=8`
#   ([docs/privacy.md](../docs/privacy.md));
# * [your own images](own_data.ipynb).

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
# how the loss falls, what the model draws beside real digits, and how good that
# is beside the numbers recorded in
# [docs/fedvae.md](../docs/fedvae.md#results), and beside a model that was
# trained with all images in one place.
#
# About a minute on two CPU cores; nothing is downloaded but, on Colab, the
# library itself.

# %%
# The same in every notebook. On Colab it installs the library; what Colab has
# of JAX, NumPy, protobuf and TensorFlow stays as it is.
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

SOURCE = 'git+https://github.com/THE_OWNER/fedjax_gen'
SMALL = os.environ.get('FEDJAX_GEN_NOTEBOOK') == 'small'  # for a quick test

if 'COLAB_RELEASE_TAG' in os.environ:
  kept = re.compile('(jax.*|libtpu|numpy|protobuf|tensorflow.*)==')
  found = importlib.metadata.distributions()
  pins = {f'{d.metadata["Name"]}=={d.version}' for d in found}
  pins = sorted(pin for pin in pins if kept.match(pin.lower()))
  pathlib.Path('constraints.txt').write_text('\n'.join(pins))
  pip = [sys.executable, '-m', 'pip', 'install', '--quiet']
  subprocess.run([*pip, '-c', 'constraints.txt', SOURCE], check=True)

import jax

from fedjax_gen.federated import mapping

devices = mapping.Mapping(mesh=mapping.clients_mesh())  # all there are
print(f'JAX {jax.__version__} on {jax.devices()}')

# %% [markdown]
# ## Who holds what
#
# 1,797 digits of 8 × 8 pixels come with scikit-learn. A fifth is held out, the
# rest is dealt to ten clients at random. `partition` has other ways to deal:
# by class, by a Dirichlet, by user.

# %%
from IPython.display import Image

from fedjax_gen.data import federated, partition, sources

source = sources.load('digits')
train = source.train
clients = partition.iid(len(train.labels), 10, seed=0)
clients.plot(train.labels, source.class_names, 'clients.png')
Image('clients.png', width=520)

# %% [markdown]
# ## The model
#
# A client encodes an image $x$ to a Gaussian $q(z \mid x)$ over eight latents
# and decodes a draw of it. It descends
#
# $$-\log p(x \mid z) + \mathrm{KL}\left(q(z \mid x) \,\|\,
# \mathcal N(0, I)\right),$$
#
# starting from the model $w$ that the server sent, and sends back by how much
# its training changed it. With $n_k$ images at client $k$ the server does
#
# $$w \leftarrow w - \frac{\sum_k n_k\,(w - w_k)}{\sum_k n_k}.$$

# %%
from fedjax_gen.algorithms import fedvae
from fedjax_gen.federated import rounds
from fedjax_gen.models import vae

config = vae.VaeConfig()  # convolutions, and the class as a condition
if SMALL:
  config = vae.VaeConfig(model='mlp', norm='none', hidden_size=32)
model = vae.build_vae(
  config, vae.DataSpec(source.input_shape, source.num_classes)
)
training = fedvae.Config()  # two passes a round, batches of 32, Adam 2e-3
algorithm = fedvae.fedvae(training, model)
data = federated.federated_dataset(train.inputs, train.labels, clients)
[traffic] = rounds.traffic(algorithm, [data])
print(
  f'A client receives {traffic.bytes_down:,} bytes a round and sends '
  f'{traffic.bytes_up:,}; its images are {train.inputs.nbytes // 10:,}.'
)

# %% [markdown]
# ## Training
#
# A round (all clients' training, the average, the server's step) is one
# compiled program, and so are ten rounds. All devices that there are share the
# clients.

# %%
from fedjax_gen.running import notebook

ROUNDS = 4 if SMALL else 50
init_key, run_key = jax.random.split(jax.random.key(0))


def trained(name, algorithm, data, mapping):
  state = rounds.init_state(algorithm, [data], init_key)
  run = rounds.round_runner(algorithm, mapping=mapping)
  return notebook.train(
    name, run, state, [data], run_key, ROUNDS, rounds_per_call=ROUNDS // 2
  )


state, history = trained('FedVAE', algorithm, data, devices)

# %% [markdown]
# Beside it the model that pooled data would have given: one client that holds
# everything, with as many steps in a round as a client of the federation makes.

# %%
pooled = fedvae.central(training, model, jax.device_get(data.sizes))
central, central_history = trained(
  'central', pooled, data.merged(), mapping.Mapping()
)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3), layout='constrained')
axes.plot(history['loss'], label='FedVAE, mean over clients')
axes.plot(central_history['loss'], '--', label='central')
axes.set(xlabel='round', ylabel='training loss (nats)')
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What it draws
#
# From the prior, one class a column. Real digits are held-out ones.

# %%
import numpy as np

from fedjax_gen.evaluation import pictures, vaes
from fedjax_gen.models import elbo

generator = elbo.of_vae(model)
models = {
  'FedVAE': state.server.variables,
  'central': central.server.variables,
}
asked = np.arange(10)
rows = {
  'real': source.test.inputs[
    [np.flatnonzero(source.test.labels == digit)[0] for digit in asked]
  ]
}
for name, variables in models.items():
  for seed in range(2):
    rows[f'{name}, {seed + 1}'] = vaes.sample_images(
      generator, variables, asked, seed=seed
    )
pictures.image_rows(rows, 'samples.png')
Image('samples.png')

# %% [markdown]
# The way between two held-out threes, those that differ most in their latents:
# what lies between two codes is a digit as well.

# %%
threes = source.test.inputs[source.test.labels == 3]
labels = np.full(len(threes), 3)
means, _ = elbo.reconstruct(model, models['FedVAE'], threes, labels)
distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
start, end = np.unravel_index(distances.argmax(), distances.shape)
share = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
outputs, _ = model.decode(
  models['FedVAE'],
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
# * `fid_digits_classifier`: distance of features of generated and held-out
#   images, lower is better;
# * `tstr_accuracy`: a classifier that saw generated images only, tested on real
#   ones.
#
# Recorded numbers are of one seed, on two x86-64 cores. On another machine last
# bits differ, and training carries them on: expect the second digit to move.

# %%
PAGE = 'docs/fedvae.md'
RECORDED = {
  'FedVAE': {
    'test_elbo': 24.4, 'fid_digits_classifier': 0.335, 'tstr_accuracy': 0.922,
  },
  'central': {
    'test_elbo': 22.0, 'fid_digits_classifier': 0.51, 'tstr_accuracy': 0.919,
  },
}  # fmt: skip

extractor = None  # of features; it is trained on the real digits
if not SMALL:
  extractor = vaes.extractor_builder('classifier', source, seed=0)()
evaluation = vaes.EvaluationConfig(importance_samples=0)
measured = {
  name: vaes.evaluate_vaes(
    generator, [variables], source, extractor, evaluation, seed=0
  )
  for name, variables in models.items()
}
notebook.compared(RECORDED['FedVAE'], measured['FedVAE'])

# %%
notebook.compared(RECORDED['central'], measured['central'])

# %% [markdown]
# ## Keep it, and use it
#
# A saved model needs neither this notebook nor the clients.

# %%
import fedjax_gen
from fedjax_gen.running import saving

saving.save_model('runs/notebook', 'FedVAE', config, source, models['FedVAE'])
model_again = fedjax_gen.load('runs/notebook', 'FedVAE')
images, labels = model_again.sample(1000, seed=0)
print(images.shape, images.dtype, np.bincount(labels))

# %% [markdown]
# ## Next
#
# * the same as a command, with a report: `python -m experiments.fedvae`;
# * clients that differ: `partition.dirichlet(train.labels, 10, alpha=0.1,
#   seed=0)` in the first cell, or [FissionVAE](fissionvae.ipynb);
# * [your own images](own_data.ipynb).

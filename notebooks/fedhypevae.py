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
# # FedHypeVAE: a generator for each client, made from a short code
#
# Clients hold embeddings that differ from one domain to the next. They train
# one *hypernetwork*: it turns a client's code of 32 numbers into the decoder
# that suits this client. You will see how a client that comes later gets its
# generator without any training, next to the numbers recorded in
# [docs/fedhypevae.md](../docs/fedhypevae.md#newcomers); then the same under
# differential privacy, and what privacy costs.
#
# About two minutes on two CPU cores. Nothing is downloaded but, on Colab, what
# the library needs.

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
# ## Data with known moments
#
# 32 features, five classes, ten clients: two in each of five domains, which see
# the classes through an affine map of their own. Only the first client of each
# domain takes part in training; their records go into a file.

# %%
import matplotlib.pyplot as plt
import numpy as np

from fedjax_gen.data import sources

train = sources.load('gaussian_domains').train
firsts, seconds = range(0, 10, 2), range(1, 10, 2)
present = train.users % 2 == 0
np.savez(
  'firsts.npz',
  x=train.inputs[present],
  y=train.labels[present],
  users=train.users[present] // 2,
)


def records(client, late=False):
  """Records of a client; the last fifth, kept for tests, if late."""
  rows = np.random.default_rng(client).permutation(
    np.flatnonzero(train.users == client)
  )
  first, last = np.split(rows, [4 * len(rows) // 5])
  rows = last if late else first
  return train.inputs[rows], train.labels[rows]


centred = train.inputs - train.inputs.mean(axis=0)
axes_of_data = np.linalg.svd(centred[::10], full_matrices=False)[2][:2]
figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
for client, marker in zip(firsts, 'o^sDv', strict=True):
  inputs, labels = records(client)
  places = inputs[labels == 0] @ axes_of_data.T
  axes.scatter(*places.T, s=8, marker=marker, label=f'domain {client // 2}')
axes.set(title='Class 0: the same class, five domains', xticks=[], yticks=[])
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The model, and training
#
# Client $i$ keeps an encoder and a code $v_i$. The hypernetwork $h$, which all
# clients share, turns the code into scales $d$ and shifts $s$ for each layer of
# a shared decoder, and into a Gaussian prior for each class:
#
# $$x \mapsto (x W)\, d(v_i) + b + s(v_i), \qquad
# p_i(z \mid y) = \mathcal N\left(\mu_y(v_i), \sigma_y^2(v_i)\right).$$
#
# Clients send gradients of $h$ alone. First without privacy.

# %%
flags = {'data': 'firsts.npz', 'num_clients': 0, 'methods': ['FedHypeVAE']}
if SMALL:
  flags |= {
    'rounds': 2, 'hidden_sizes': [8], 'latent_size': 2, 'hyper_size': 8,
    'code_size': 3, 'mmd_samples': 2, 'meta_steps': 5, 'accountant': 'rdp',
    'synthetic_per_class': 20, 'head_epochs': 20,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedhypevae', privacy='none', workdir='runs/fedhypevae', **flags
)
done

# %% [markdown]
# ## A client that comes later
#
# The second client of each domain was never trained. It computes means and
# variances of its own classes and fits the code that generates embeddings with
# these moments. Nothing is sent, and the hypernetwork stays as it is.

# %%
import jax
import jax.numpy as jnp

from fedjax_gen.models.hyper import hypernetwork, meta_code

fit_key, draw_key = jax.random.split(jax.random.key(1))
fitting = meta_code.MetaConfig(meta_steps=20 if SMALL else 500)


def fitted(trained, clients, most=None):
  """The code for the class moments of some clients' records."""
  parts = [records(client) for client in clients]
  inputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
  of_class = [inputs[labels == label][:most] for label in range(5)]
  moments = meta_code.ClassMoments(
    jnp.array([len(rows) for rows in of_class], jnp.float32),
    jnp.stack([rows.mean(axis=0) for rows in of_class]),
    jnp.stack([rows.var(axis=0) for rows in of_class]),
  )
  hyper = trained.variables['hyper']
  return meta_code.fit_code(
    trained.functions, hyper, moments, fit_key, fitting
  )[0]


def generated(trained, code, per_class=500):
  """Embeddings from the decoder of a code, and their labels."""
  model, hyper = trained.functions, trained.variables['hyper']
  labels = np.tile(np.arange(5, dtype=np.int32), per_class)
  personal = model.personalise(hyper, code)
  made = hypernetwork.generate(
    model, hyper, personal, jnp.asarray(labels), draw_key
  )
  return np.asarray(made), labels


# %% [markdown]
# What it is worth: the accuracy of a linear classifier that was trained on
# generated embeddings, on records of the newcomer that nothing has seen. The
# *neutral* code is fitted to the moments of the clients that took part.

# %%
from fedjax_gen.evaluation import heads
from fedjax_gen.running import notebook

PAGE = 'docs/fedhypevae.md'
RECORDED = {
  'neutral code': 81.7,
  'own code, 5 records a class': 88.1,
  'own code, all records': 89.0,
  'its own records, no generator': 96.3,
}


def accuracy(inputs, labels, client):
  head = heads.train_head(inputs, labels, 5)
  real, expected = records(client, late=True)
  chosen = heads.probabilities(head, real).argmax(axis=1)
  return 100 * float(np.mean(chosen == expected))


trained = done.load('FedHypeVAE')
neutral = generated(trained, fitted(trained, firsts))
newcomers = seconds[:1] if SMALL else seconds
by_client = [
  (
    accuracy(*neutral, client),
    accuracy(*generated(trained, fitted(trained, [client], 5)), client),
    accuracy(*generated(trained, fitted(trained, [client])), client),
    accuracy(*records(client), client),
  )
  for client in newcomers
]
means = np.mean(by_client, axis=0).tolist()
notebook.compared(RECORDED, dict(zip(RECORDED, means, strict=True)))

# %% [markdown]
# The same as a picture: records of a newcomer, and what its code generates.

# %%
client = seconds[0]
figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout='constrained')
made = {
  'its records': records(client),
  'neutral code': neutral,
  'its own code': generated(trained, fitted(trained, [client], 5)),
}
for axes, (name, (inputs, labels)) in zip(panels, made.items(), strict=True):
  places = inputs[:600] @ axes_of_data.T
  axes.scatter(*places.T, s=6, c=labels[:600], cmap='viridis')
  axes.set(title=name, xticks=[], yticks=[], xlim=(-9, 9), ylim=(-9, 9))
plt.show()

# %% [markdown]
# ## Under differential privacy
#
# Now the gradient of each record is clipped, and noise is added before anything
# leaves the client. The noise is chosen for the whole run, so that the privacy
# loss of each record stays within $\varepsilon$ at $\delta = 10^{-4}$. It comes
# from the operating system's entropy: run it twice, and numbers differ. The
# models lie in `release`, with a ledger of the privacy loss.

# %%
rows = []
for epsilon in (8,) if SMALL else (8, 2):
  private = fedjax_gen.run(
    'fedhypevae', epsilon=epsilon, workdir=f'runs/epsilon_{epsilon}', **flags
  )
  trained = private.load('FedHypeVAE')
  own = [
    accuracy(*generated(trained, fitted(trained, [client])), client)
    for client in newcomers
  ]
  rows.append((
    f'epsilon {epsilon}', private.metrics['FedHypeVAE']['epsilon'],
    float(np.mean(own)),
  ))  # fmt: skip
notebook.Table(('', 'privacy loss', 'own code: accuracy'), rows)

# %% [markdown]
# The newcomer's own moments stay at home and need no noise. The neutral code of
# a run is fitted to moments that clients release; a part of the budget,
# `moments_share`, pays for them.
#
# ## Next
#
# * other methods under the same budget: leave out `methods`;
# * embeddings of your own images:
#   `python -m experiments.embed --data=my_images`;
# * [which mode promises what to whom](../docs/privacy.md).

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
# # FedHypeVAE: a generator for each client, made of a short code
#
# Clients hold embeddings that differ from one domain to the next. They train
# one *hypernetwork*, which makes of a client's code of 32 numbers the decoder
# that suits it. You will see how a client that comes later gets its generator
# without any training, beside the numbers recorded in
# [docs/fedhypevae.md](../docs/fedhypevae.md#newcomers); then the same under
# differential privacy, and what that costs.
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
# ## Data whose every moment is known
#
# 32 features, five classes, five domains that see the classes through an affine
# map of their own; two clients in each domain. Of every client's records 64%
# are trained on and 20% are for tests.

# %%
import matplotlib.pyplot as plt
import numpy as np

from fedjax_gen.data import federated, heldout, partition, sources

source = sources.load('gaussian_domains')
train = source.train
everyone = partition.natural(train.users)
split = heldout.split_clients(everyone, train.labels, seed=0)


def records(part, client):
  rows = getattr(split, part).rows(client)
  return train.inputs[rows], train.labels[rows]


centred = train.inputs - train.inputs.mean(axis=0)
axes_of_data = np.linalg.svd(centred[::10], full_matrices=False)[2][:2]
figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
for client, marker in zip(range(0, 10, 2), 'o^sDv', strict=True):
  inputs, labels = records('train', client)
  places = inputs[labels == 0] @ axes_of_data.T
  axes.scatter(*places.T, s=8, marker=marker, label=f'domain {client // 2}')
axes.set(title='Class 0: the same class, five domains', xticks=[], yticks=[])
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The model
#
# Every client $i$ has an encoder and a code $v_i$, which it keeps. The
# hypernetwork $h$ of all makes of the code scales $d$ and shifts $s$ for each
# layer of a shared decoder, and a Gaussian prior for each class:
#
# $$x \mapsto (x W)\, d(v_i) + b + s(v_i), \qquad
# p_i(z \mid y) = \mathcal N\left(\mu_y(v_i), \sigma_y^2(v_i)\right).$$
#
# Clients send gradients of $h$ alone.

# %%
from fedjax_gen.models import hypernetwork, vae

config = hypernetwork.HyperVaeConfig()
if SMALL:
  config = hypernetwork.HyperVaeConfig(
    latent_size=4, hidden_sizes=(16,), code_size=4, hyper_size=16
  )
model = hypernetwork.build_hyper_vae(
  config, vae.DataSpec(source.input_shape, source.num_classes)
)

# %% [markdown]
# ## Train with one client of every domain
#
# The second client of each domain stays away until later. Without privacy at
# first: a plan says how records are sampled, and adds no noise.

# %%
from fedjax_gen.algorithms import fedhypevae
from fedjax_gen.federated import rounds
from fedjax_gen.privacy import plan as plans
from fedjax_gen.running import notebook

ROUNDS = 4 if SMALL else 200
hype = fedhypevae.Config(mmd_samples=2) if SMALL else fedhypevae.Config()
firsts, seconds = np.arange(0, 10, 2), np.arange(1, 10, 2)
data = federated.federated_dataset(
  train.inputs, train.labels, split.train
).select(firsts)
init_key, run_key = jax.random.split(jax.random.key(0))


def planned(**privacy):
  return plans.record_plan(
    plans.PrivacyConfig('record', **privacy),
    np.asarray(split.train.sizes),
    batch_size=hype.batch_size,
    epochs=hype.epochs,
    rounds=ROUNDS,
  )


def trained(name, mode, plan):
  algorithm = fedhypevae.fedhypevae(hype, model, mode, plan)
  print(rounds.traffic(algorithm, [data])[0])
  state = rounds.init_state(algorithm, [data], init_key)
  run = rounds.round_runner(algorithm, mapping=devices)
  return notebook.train(
    name, run, state, [data], run_key, ROUNDS, rounds_per_call=ROUNDS // 2
  )


state, history = trained('FedHypeVAE', 'none', planned(epsilon=float('inf')))

# %% [markdown]
# ## A client that comes later
#
# It was never trained. At home it computes means and variances of its classes
# and looks for the code whose embeddings have them; nothing is sent, and the
# hypernetwork stays as it is.

# %%
import jax.numpy as jnp

from fedjax_gen.models import meta_code

fit_key, draw_key = jax.random.split(jax.random.key(1))
fitting = meta_code.MetaConfig(meta_steps=20 if SMALL else 500)


def fitted(hyper, clients, most=None):
  """The code of the class moments of some clients' records."""
  parts = [records('train', client) for client in clients]
  inputs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
  of_class = [inputs[labels == label][:most] for label in range(5)]
  moments = meta_code.ClassMoments(
    jnp.array([len(rows) for rows in of_class], jnp.float32),
    jnp.stack([rows.mean(axis=0) for rows in of_class]),
    jnp.stack([rows.var(axis=0) for rows in of_class]),
  )
  return meta_code.fit_code(model, hyper, moments, fit_key, fitting)[0]


def generated(hyper, code, per_class=500):
  labels = np.tile(np.arange(5, dtype=np.int32), per_class)
  personal = model.personalise(hyper, code)
  made = hypernetwork.generate(
    model, hyper, personal, jnp.asarray(labels), draw_key
  )
  return np.asarray(made), labels


# %% [markdown]
# What that is worth: a linear classifier of generated embeddings, tested on
# records of the newcomer that nothing saw. The *neutral* code is fitted to the
# moments of those who were there.

# %%
from fedjax_gen.evaluation import heads

PAGE = 'docs/fedhypevae.md'
RECORDED = {
  'neutral code': 81.7,
  'own code, 5 records a class': 88.1,
  'own code, all records': 89.0,
  'its own records, no generator': 96.3,
}


def accuracy(inputs, labels, client):
  head = heads.train_head(inputs, labels, 5)
  real, asked = records('test', client)
  chosen = heads.probabilities(head, real).argmax(axis=1)
  return 100 * float(np.mean(chosen == asked))


hyper = state.server.variables
neutral = generated(hyper, fitted(hyper, firsts))
newcomers = seconds[:1] if SMALL else seconds
by_client = [
  {
    'neutral code': accuracy(*neutral, client),
    'own code, 5 records a class': accuracy(
      *generated(hyper, fitted(hyper, [client], 5)), client
    ),
    'own code, all records': accuracy(
      *generated(hyper, fitted(hyper, [client])), client
    ),
    'its own records, no generator': accuracy(
      *records('train', client), client
    ),
  }
  for client in newcomers
]
measured = {
  name: float(np.mean([row[name] for row in by_client])) for name in RECORDED
}
notebook.compared(RECORDED, measured)

# %% [markdown]
# The same in a picture: real records of a newcomer, and what its code makes.

# %%
client = int(seconds[0])
figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout='constrained')
made = {
  'its records': records('train', client),
  'neutral code': neutral,
  'its own code': generated(hyper, fitted(hyper, [client], 5)),
}
for axes, (name, (inputs, labels)) in zip(panels, made.items(), strict=True):
  places = inputs[:600] @ axes_of_data.T
  axes.scatter(*places.T, s=6, c=labels[:600], cmap='viridis')
  axes.set(title=name, xticks=[], yticks=[], xlim=(-9, 9), ylim=(-9, 9))
plt.show()

# %% [markdown]
# ## Under differential privacy
#
# Now every record's gradient is clipped and noise is added before anything
# leaves the client (`record_joint`). The plan chooses the noise for the whole
# run from $\varepsilon$ and counts what is spent, at $\delta = 10^{-4}$. Here
# the noise follows from a seed that everyone can read, so that $\varepsilon$ is
# *nominal*; the program draws it from the system's entropy.

# %%
accountant = 'rdp' if SMALL else 'pld'
table = []
for epsilon in (8.0,) if SMALL else (8.0, 2.0):
  plan = planned(epsilon=epsilon, accountant=accountant)
  private, _ = trained(f'epsilon {epsilon:g}', 'record_joint', plan)
  hyper = private.server.variables
  spent = plan.charged(plan.rounds).worst()
  assert spent <= epsilon + 1e-3
  table.append((
    f'epsilon {epsilon:g}', spent, plan.noise_multiplier,
    np.mean([
      accuracy(*generated(hyper, fitted(hyper, [client])), client)
      for client in newcomers
    ]),
  ))  # fmt: skip
notebook.Table(('', 'spent', 'noise / C', 'own code: accuracy'), table)

# %% [markdown]
# The newcomer's own moments stay at home and need no noise. A *neutral* code is
# fitted to moments that clients release, and those have to be paid for:
# `class_moments.class_sums` in [docs/fedhypevae.md](../docs/fedhypevae.md).
#
# ## Next
#
# * five methods beside it, under one budget:
#   `python -m experiments.fedhypevae`;
# * embeddings of your own images:
#   `python -m experiments.embed --data=my_images`;
# * [which mode promises what to whom](../docs/privacy.md).

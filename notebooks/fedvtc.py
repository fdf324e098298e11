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
# Nine clients have classifiers of three architectures, which nobody can
# average, and each has seen a few of the ten digits only. They share means and
# spread of their features; a small generator makes images of them, and from
# these a client learns classes that it never saw. You will see who knows what
# before and after, the images, and the accuracy beside that recorded in
# [docs/fedvtc.md](../docs/fedvtc.md#results).
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
# ## Who holds what, and which model
#
# Labels are dealt by a Dirichlet of 0.1: most clients lack most classes. A
# fifth of every client's images is held out.

# %%
from IPython.display import Image
import numpy as np

from fedjax_gen.data import federated, heldout, partition, sources

NUM_CLIENTS = 4 if SMALL else 9
source = sources.load('digits')
train, test = source.train, source.test
clients = partition.dirichlet(train.labels, NUM_CLIENTS, alpha=0.1, seed=0)
clients.plot(train.labels, source.class_names, 'clients.png')
Image('clients.png', width=520)

# %%
from fedjax_gen.models import classifiers, vae

spec = vae.DataSpec(source.input_shape, source.num_classes)
config = classifiers.ClassifierConfig(
  architectures=('cnn', 'mlp') if SMALL else ('cnn5', 'cnn', 'mlp'),
  feature_size=16 if SMALL else 64,
  width=0.25,
)
models = classifiers.build_classifiers(config, spec)
kinds = len(models)
split = heldout.split_clients(
  clients, train.labels, fractions=(0.2, 0.0), seed=0
)
data = federated.federated_dataset(train.inputs, train.labels, split.train)
# Client i has the i-th architecture, counted round; alike ones are a fleet.
numbers = [np.arange(NUM_CLIENTS)[first::kinds] for first in range(kinds)]
fleets = [data.select(members) for members in numbers]

# %% [markdown]
# ## What travels
#
# A client's extractor $g_k$ maps an image to features, its head to a class. It
# sends sums from which the server knows the mean $c^y$ of each class over *all*
# clients and one spread $\sigma$, exactly. The generator $\psi$ turns draws
# $v \sim \mathcal N(c^y, \sigma^2)$ into images, and each client fine-tunes
#
# $$\mathrm{CE}\left(f_k(\psi(v)), y\right)$$
#
# for every class $y$ that anybody holds.

# %%
from fedjax_gen.algorithms import fedvtc
from fedjax_gen.federated import class_traffic, personal
from fedjax_gen.models import vtc

training = personal.Config(
  local_epochs=2.0, batch_size=16, optimizer='adam', learning_rate=2e-3
)
generator = vtc.build_vtc(
  vtc.VtcConfig(vtc_width=0.1 if SMALL else 1.0), config.feature_size, spec
)
sizes = [len(members) for members in numbers]
methods = {
  'local': personal.local_only(training, models),
  'FedVTC': fedvtc.fedvtc(
    fedvtc.Config(synthetic_per_class=10 if SMALL else 60),
    training, models, sizes, generator,
  ),
}  # fmt: skip
for fleet, name in enumerate(config.architectures):
  sent = class_traffic.traffic(methods['FedVTC'].algorithm, fleets)[fleet]
  print(f'{name}: {sent.bytes_up:,.0f} bytes up, {sent.bytes_down:,.0f} down')

# %% [markdown]
# ## Training
#
# Every architecture is a fleet: one mapped program, three in a round. The
# methods start from the same classifiers and see examples in the same order.

# %%
from fedjax_gen.federated import rounds
from fedjax_gen.running import notebook

ROUNDS = 2 if SMALL else 20
init_key, run_key = jax.random.split(jax.random.key(0))
states = {}
for name, method in methods.items():
  state = rounds.init_state(method.algorithm, fleets, init_key)
  run = rounds.round_runner(method.algorithm, mapping=devices)
  states[name], _ = notebook.train(
    name, run, state, fleets, run_key, ROUNDS, rounds_per_call=ROUNDS // 2
  )

# %% [markdown]
# ## Who knows what now
#
# Every client is asked all held-out digits, with the model that it would
# predict with if training stopped here.

# %%
import jax.numpy as jnp

from fedjax_gen.federated import deployment

asked = np.bincount(test.labels, minlength=10)
deploy_key = jax.random.fold_in(jax.random.key(0), 1)


def right_answers(method, state):
  """Of every client and class, the share that it gets right, `[N, C]`."""
  deployed = deployment.deployer(method)(state, fleets, deploy_key)
  correct = [
    deployment.scorer(next(iter(kind.rules.values())), 10)(
      variables, jnp.asarray(test.inputs), jnp.asarray(test.labels),
      jnp.arange(len(test.labels))[None],
    )
    for kind, variables in zip(method.deployments, deployed, strict=True)
  ]  # fmt: skip
  return np.concatenate(correct)[np.argsort(np.concatenate(numbers))]


correct = {
  name: right_answers(method, states[name]) for name, method in methods.items()
}

# %%
import matplotlib.pyplot as plt

held = split.train.counts(train.labels, 10)
shown = {'examples held (log)': np.log1p(held)} | {
  name: right / asked for name, right in correct.items()
}
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout='constrained')
for axes, (name, values) in zip(panels, shown.items(), strict=True):
  image = axes.imshow(values, cmap='Blues', vmin=0)
  axes.set(title=name, xlabel='class', xticks=range(10))
panels[0].set(ylabel='client')
figure.colorbar(image, ax=panels, label='share of right answers')
plt.show()

# %% [markdown]
# Alone, a client knows the classes of its row on the left and nothing else.
# With FedVTC it answers for classes that it has no image of.

# %%
from fedjax_gen.evaluation import generalisation

PAGE = 'docs/fedvtc.md'
RECORDED = {'local': 37.7, 'FedVTC': 71.9}
measured = {
  name: generalisation.generalisation_metrics(right, asked, held)
  for name, right in correct.items()
}
notebook.compared(
  RECORDED, {name: 100 * row['accuracy'] for name, row in measured.items()}
)

# %%
metrics = ('accuracy', 'accuracy_worst', 'missing_class_accuracy')
notebook.Table(
  ('', *measured),
  [(metric, *(row[metric] for row in measured.values())) for metric in metrics],
)

# %% [markdown]
# ## The images that taught them
#
# Draws from the Gaussian of each class, through the generator. Blurred means of
# a class are enough for digits; of photographs they teach little.

# %%
from fedjax_gen.evaluation import pictures

server = states['FedVTC'].server
known = np.flatnonzero(np.asarray(server.gaussians.known))
rows = {
  'real': test.inputs[[np.argmax(test.labels == digit) for digit in known]]
}
for seed in range(3):
  latents = server.gaussians.sample(jnp.asarray(known), jax.random.key(seed))
  images = generator.decode(server.generator.variables, latents)
  rows[f'made, {seed + 1}'] = np.asarray(classifiers.to_pixels(images))
pictures.image_rows(rows, 'made.png')
Image('made.png')

# %% [markdown]
# A class mean is no privacy: of one record it *is* that record's features.
# [docs/fedvtc.md](../docs/fedvtc.md#what-statistics-give-away) attacks them.
#
# ## Next
#
# * ten other methods on the same clients:
#   `python -m experiments.fedvtc --baselines=all`;
# * other architectures: any of `EXTRACTORS` in `fedjax_gen.models.extractors`.

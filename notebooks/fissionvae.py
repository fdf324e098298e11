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
# a prior and a decoder of its own. You will see both, what each draws when it
# is asked for one kind, where the kinds lie in latent space, and the numbers
# beside those recorded in [docs/fissionvae.md](../docs/fissionvae.md#results).
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
# Five clients hold digits, five hold shapes. The group is public: a client
# tells it to the server. (Groups that nobody told can be
# [discovered](../docs/fissionvae.md#groups-that-nobody-told).)

# %%
from IPython.display import Image
import numpy as np

from fedjax_gen.data import federated, partition, sources
from fedjax_gen.evaluation import pictures

source = sources.load('digits_and_shapes')
train, test = source.train, source.test
clients = partition.by_group(train.groups, 5, seed=0)
data = federated.federated_dataset(train.inputs, train.labels, clients)
real = {
  f'real {name}': test.inputs[test.groups == group][::12][:10]
  for group, name in enumerate(source.group_names)
}
pictures.image_rows(real, 'real.png')
Image('real.png')

# %% [markdown]
# ## Who shares what
#
# A client of group $g$ descends
#
# $$-\log p_g(x \mid z) + \mathrm{KL}\left(q(z \mid x) \,\|\,
# \mathcal N(\mu_g, I)\right),$$
#
# with the encoder $q$ of all, the decoder $p_g$ of its group and a mean $\mu_g$
# that stays fixed. The server takes the mean of encoders over all clients and
# of decoders within each group. With nothing of their own it is FedVAE.

# %%
from fedjax_gen.algorithms import fissionvae
from fedjax_gen.federated import rounds
from fedjax_gen.models import vae

config = vae.VaeConfig(conditional=False)
if SMALL:
  config = vae.VaeConfig(
    conditional=False, model='mlp', norm='none', hidden_size=32
  )
model = vae.build_vae(
  config, vae.DataSpec(source.input_shape, source.num_classes)
)
methods = {
  name: fissionvae.fissionvae(fissionvae.Config(), [model, model], sharing)
  for name, sharing in {
    'FedVAE': fissionvae.Sharing(),
    'L+D': fissionvae.Sharing(priors=True, decoders=True),
  }.items()
}
for name, method in methods.items():
  [traffic] = rounds.traffic(method.algorithm, [data])
  print(f'{name}: {traffic.bytes_down:,} bytes down, {traffic.bytes_up:,} up')

# %% [markdown]
# A group costs its clients four bytes: its number, from which they know their
# prior.

# %%
from fedjax_gen.running import notebook

ROUNDS = 2 if SMALL else 30
init_key, run_key = jax.random.split(jax.random.key(0))
servers, losses = {}, {}
for name, method in methods.items():
  state = rounds.init_state(method.algorithm, [data], init_key)
  run = rounds.round_runner(method.algorithm, mapping=devices)
  state, history = notebook.train(
    name, run, state, [data], run_key, ROUNDS, rounds_per_call=ROUNDS // 2
  )
  servers[name], losses[name] = state.server, history['loss']

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3), layout='constrained')
for name, style in zip(losses, ('--', '-'), strict=True):
  axes.plot(losses[name], style, label=name)
axes.set(xlabel='round', ylabel='training loss (nats)')
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Ask for one kind
#
# FedVAE has one model and cannot be asked. L+D has a model for each group, of
# which the encoder is the same.

# %%
from fedjax_gen.evaluation import group_models

generators = {
  name: group_models.of_vaes(
    [
      group_models.GroupVae(model, method.variables(servers[name], group))
      for group in range(2)
    ]
  )
  for name, method in methods.items()
}
unasked = np.zeros(10, np.int32)  # classes: this model ignores them
rows = {
  f'{name}: {group_name}': generator.sample(
    group, unasked, jax.random.key(group)
  )
  for name, generator in generators.items()
  for group, group_name in enumerate(source.group_names)
}
pictures.image_rows(real | rows, 'samples.png')
Image('samples.png')

# %% [markdown]
# ## Where the groups live
#
# Posterior means of held-out images, in the two directions in which they vary
# most. With a prior of its own a group has a place of its own.

# %%
from fedjax_gen.models import elbo

figure, panels = plt.subplots(1, 2, figsize=(8, 3.5), layout='constrained')
for axes, (name, method) in zip(panels, methods.items(), strict=True):
  # The encoder is the same for both groups.
  means, _ = elbo.reconstruct(
    model, method.variables(servers[name], 0), test.inputs, test.labels
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
# * `group_leakage`: share of samples asked for as one kind that a classifier
#   takes for the other; a model that cannot be asked leaks half.

# %%
from fedjax_gen.evaluation import groups, vaes

PAGE = 'docs/fissionvae.md'
RECORDED = {
  'FedVAE': {'fid_digits_and_shapes_classifier': 1.064, 'group_leakage': 0.501},
  'L+D': {'fid_digits_and_shapes_classifier': 0.825, 'group_leakage': 0},
}

reference = None
if not SMALL:  # two classifiers, trained on the real images
  extractors = groups.GroupExtractors(
    vaes.extractor_builder('classifier', source, seed=0)(),
    groups.group_classifier(source, seed=0),
  )
  reference = groups.group_reference(source, extractors)
evaluation = vaes.EvaluationConfig(importance_samples=0)
measured = {
  name: group_models.evaluate(
    [generator], source, reference, evaluation, seed=0
  )
  for name, generator in generators.items()
}
notebook.compared(RECORDED['FedVAE'], measured['FedVAE'])

# %%
notebook.compared(RECORDED['L+D'], measured['L+D'])

# %%
notebook.Table(
  ('', *measured),
  [
    (metric, *(measured[name][metric] for name in measured))
    for metric in ('test_elbo', 'test_kl', 'latent_separation')
  ],
)

# %% [markdown]
# ## Next
#
# * all variants and baselines, with a report:
#   `python -m experiments.fissionvae --methods=FedVAE,L,D,L+D,H+L+D,fedgan`;
# * decoders of different architectures: pass another `model` for group 1, then
#   there are two fleets (`fissionvae.fleet_datasets`);
# * [your own kinds of images](own_data.ipynb), `groups:my_images`.

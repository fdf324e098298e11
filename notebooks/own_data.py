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
# # Your own data
#
# A folder for each client, pictures of any size, some grey, some in colour, and
# one file that is broken: this is how data really look. You will see what is
# read, which files are refused and why, who holds what, and then train and save
# synthetic images in one file. Change `FOLDER` to your own.
#
# About a minute on two CPU cores; nothing is downloaded but, on Colab, the
# library itself. [docs/own_data.md](../docs/own_data.md) has all that can be
# read.

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
# ## A folder that is not tidy
#
# Three clinics with a folder for each finding. One photographs in colour; all
# pictures have other sizes; one file is cut off, another is no picture at all.
# They are drawn here from scikit-learn's digits, so that the notebook needs no
# file of yours.

# %%
import numpy as np
from PIL import Image as Pictures
from sklearn import datasets

FOLDER = pathlib.Path('my_images')
PER_CLIENT = (20, 40, 60) if SMALL else (80, 160, 300)

drawn = np.random.default_rng(0)
digits = datasets.load_digits()
chosen = np.flatnonzero(digits.target < 3)
for number, size in enumerate(PER_CLIENT):
  for row in drawn.permutation(chosen)[:size]:
    pixels = (digits.images[row] * 15.9).astype(np.uint8)
    picture = Pictures.fromarray(pixels)
    picture = picture.resize(tuple(drawn.integers(14, 40, 2)))
    if number == 2:  # this clinic has a camera for colours
      tinted = [picture.point(lambda v, t=t: v * t // 3) for t in (3, 2, 1)]
      picture = Pictures.merge('RGB', tinted)
    name = ('zero', 'one', 'two')[digits.target[row]]
    path = FOLDER / f'clinic_{"abc"[number]}' / name / f'{row:04d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)

whole = next((FOLDER / 'clinic_a' / 'zero').glob('*.png'))
(whole.parent / 'broken.png').write_bytes(whole.read_bytes()[:60])
(FOLDER / 'clinic_b' / 'notes.txt').write_text('not a picture')
print(sum(path.is_file() for path in FOLDER.rglob('*')), 'files')

# %% [markdown]
# ## Read it
#
# `clients:` says that the first level of folders is clients. All pictures come
# to one size and, since some have colour, to RGB. Every decision is a note.

# %%
from fedjax_gen.data import sources

source = sources.load(f'clients:{FOLDER}', image_size=16)
print(source.input_shape, source.class_names, source.user_names)
print(*source.notes, sep='\n')
assert any('broken.png' in note for note in source.notes)

# %%
from IPython.display import Image

from fedjax_gen.evaluation import pictures

train = source.train
rows = {
  name: train.inputs[train.users == user][:: 1 + sum(train.users == user) // 10]
  for user, name in enumerate(source.user_names)
}
pictures.image_rows(rows, 'read.png')
Image('read.png')

# %% [markdown]
# ## Who holds what
#
# `natural` keeps the clients that there are. To study what skew does, deal the
# same images again, here by a Dirichlet of 0.3.

# %%
from fedjax_gen.data import partition

clients = partition.natural(train.users)
clients.plot(train.labels, source.class_names, 'natural.png')
Image('natural.png', width=420)

# %%
dealt = partition.dirichlet(train.labels, 6, alpha=0.3, seed=0)
dealt.plot(train.labels, source.class_names, 'dirichlet.png')
Image('dirichlet.png', width=420)

# %% [markdown]
# ## Kinds of images, and arrays
#
# The same tree read as `groups:` has kinds in place of clients, for
# [FissionVAE](fissionvae.ipynb). An npz file does without folders; wrong values
# are refused by the name of the array.

# %%
from fedjax_gen.errors import InputError

kinds = sources.load(f'groups:{FOLDER}', image_size=16)
print(kinds.group_names, np.bincount(kinds.train.groups))

np.savez(
  'my_arrays.npz',
  images=digits.images / 16,
  labels=digits.target,
  users=np.arange(len(digits.target)) % 7,
)
arrays = sources.load('my_arrays.npz')
print(arrays.input_shape, len(arrays.user_names), 'clients')

np.savez('wrong.npz', images=digits.images, labels=digits.target)
try:
  sources.load('wrong.npz')
except InputError as error:
  print('Refused:', error)

# %% [markdown]
# ## Train
#
# A VAE over the three clinics. `conditional=True` lets you ask for a finding
# later; data without class folders need `conditional=False`.

# %%
from fedjax_gen.algorithms import fedvae
from fedjax_gen.data import federated
from fedjax_gen.federated import rounds
from fedjax_gen.models import vae
from fedjax_gen.running import notebook

config = vae.VaeConfig(conditional=True)
if SMALL:
  config = vae.VaeConfig(model='mlp', norm='none', hidden_size=32)
model = vae.build_vae(
  config, vae.DataSpec(source.input_shape, source.num_classes)
)
algorithm = fedvae.fedvae(fedvae.Config(), model)
data = federated.federated_dataset(train.inputs, train.labels, clients)
init_key, run_key = jax.random.split(jax.random.key(0))
state = rounds.init_state(algorithm, [data], init_key)
run = rounds.round_runner(algorithm, mapping=devices)
ROUNDS = 4 if SMALL else 60
state, history = notebook.train(
  'FedVAE', run, state, [data], run_key, ROUNDS, rounds_per_call=ROUNDS // 4
)
assert history['loss'][-1] < history['loss'][0]

# %% [markdown]
# Is it any good? Held-out images were in no client's hands.

# %%
from fedjax_gen.evaluation import vaes
from fedjax_gen.models import elbo

generator, variables = elbo.of_vae(model), state.server.variables
bounds = vaes.held_out_bounds(generator, variables, source, seed=0)
asked = np.repeat(np.arange(source.num_classes), 10)
made = vaes.sample_images(generator, variables, asked, seed=0)
rows = {'held out': source.test.inputs[:10]} | {
  f'made: {name}': made[asked == label]
  for label, name in enumerate(source.class_names)
}
pictures.image_rows(rows, 'made.png')
print(f'test_elbo {bounds["test_elbo"]:.1f} nats per image')
Image('made.png')

# %% [markdown]
# ## Synthetic images in one file
#
# Under the names by which `sources.load` reads them back, here or anywhere.

# %%
labels = np.arange(1000) % source.num_classes
images = vaes.sample_images(generator, variables, labels, seed=1)
np.savez_compressed(
  'synthetic.npz', x=images, y=labels, classes=np.array(source.class_names)
)
again = sources.load('synthetic.npz')
print(again.input_shape, again.class_names, len(again.train.labels), 'to train')
assert again.class_names == source.class_names

# %% [markdown]
# ## Next
#
# * before you report a number: [what an honest split looks
#   like](../docs/own_data.md#what-an-honest-split-looks-like);
# * the same as a command: `python -m experiments.fedvae
#   --data=clients:my_images --partition=natural --num_clients=0
#   --image_size=16`.

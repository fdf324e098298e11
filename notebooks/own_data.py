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
# a broken file: real data look like this. You will see what is read, which
# files are refused and why, and who holds what; then train, and save synthetic
# images in one file. Change `FOLDER` to your own.
#
# About a minute on two CPU cores. Nothing is downloaded but, on Colab, what the
# library needs. [docs/own_data.md](../docs/own_data.md) lists every format.

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
# ## A folder that is not tidy
#
# Three clinics, each with a folder for each finding. One takes photographs in
# colour; sizes differ; one file is cut off, another is no picture at all. The
# pictures are made here from scikit-learn's digits, so that the notebook needs
# no file of yours.

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
# `clients:` says that the first level of folders is clients. All pictures are
# resized to one size and, since some have colour, converted to RGB. Every
# decision is a note.

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
# `natural` keeps the clients as they are. To study what skew does, deal the
# same images again, here by a Dirichlet distribution of 0.3.

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
# Read as `groups:`, the same tree has kinds in place of clients, for
# [FissionVAE](fissionvae.ipynb). An npz file needs no folders; an error names
# the array with the wrong values.

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
# A VAE over the three clinics. Its condition is the finding, so that you can
# ask for one; data without class folders need `conditional=False`.

# %%
flags = {'image_size': 16, 'methods': ['federated']}
if SMALL:
  flags |= {
    'rounds': 2, 'model': 'mlp', 'norm': 'none', 'hidden_size': 32,
    'num_test_examples': 9, 'importance_samples': 2,
  }  # fmt: skip
done = fedjax_gen.run(
  'fedvae',
  data=f'clients:{FOLDER}',
  partition='natural',
  num_clients=0,
  workdir='runs/own_data',
  **flags,
)
done

# %% [markdown]
# Is it any good? No client held the images that it is measured on.

# %%
Image(done.path / 'samples/samples_federated.png')

# %% [markdown]
# ## Synthetic images in one file
#
# With the names that `sources.load` reads, here or anywhere.

# %%
images, labels = done.load().sample(1000, seed=1)
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

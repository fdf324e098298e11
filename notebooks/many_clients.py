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
# # 10,000 clients on this accelerator
#
# One round of 10,000 clients is one compiled program: they train, the server
# averages and updates, without a loop in Python. This notebook uses the engine
# itself. You will see the time per client as their number grows, the effect of
# `block_size` and of devices, the memory of a round, and the result.
#
# About a minute on two CPU cores, less on a GPU or TPU. Nothing is downloaded
# but, on Colab, what the library needs. The times are those of your machine;
# none is recorded here. (On Colab choose a GPU or TPU first: Runtime, Change
# runtime type.)

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
# ## 10,000 clients, sixteen digits each
#
# 1,439 digits, shifted and dimmed at random, become 160,000. The device holds
# the examples once; a client is two numbers, the start and the length of its
# range.

# %%
import jax
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data import federated, partition, sources
from fedjax_gen.federated import mapping

NUM_CLIENTS = 200 if SMALL else 10_000
PER_CLIENT = 16
devices = mapping.Mapping(mesh=mapping.clients_mesh())  # all that there are
print(f'JAX {jax.__version__} on {jax.devices()}')
source = sources.load('digits')

drawn = np.random.default_rng(0)
count = NUM_CLIENTS * PER_CLIENT
rows = drawn.integers(len(source.train.labels), size=count)
padded = np.pad(source.train.inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), (1, 2))
down, right = drawn.integers(0, 3, (2, count))
images = np.moveaxis(windows[rows, down, right], 1, -1)
images = (images * drawn.uniform(0.7, 1, (count, 1, 1, 1))).astype(np.uint8)
clients = partition.iid(count, NUM_CLIENTS, seed=0)
data = federated.federated_dataset(images, source.train.labels[rows], clients)
print(f'{trees.num_bytes(data) / 1e6:.1f} MB for {data.num_clients:,} clients')

# %% [markdown]
# ## The algorithm
#
# FedVAE with a small VAE. Clients keep nothing between rounds
# (`keep_optimizer_state=False`): the state of *all* clients is in memory, and
# Adam's moments of 10,000 clients would be 20,000 models.

# %%
from fedjax_gen.algorithms import fedvae
from fedjax_gen.federated import rounds
from fedjax_gen.models import vae

model = vae.build_vae(
  vae.VaeConfig(model='mlp', norm='none', hidden_size=64, latent_size=8),
  vae.DataSpec(source.input_shape, source.num_classes),
)
training = fedvae.Config(
  local_epochs=1.0, batch_size=PER_CLIENT, keep_optimizer_state=False
)
algorithm = fedvae.fedvae(training, model)
[traffic] = rounds.traffic(algorithm, [data])
kept = jax.eval_shape(
  lambda key: rounds.init_state(algorithm, [data], key), jax.random.key(0)
).fleets
print(
  f'A client receives and sends {traffic.bytes_up:,} bytes and keeps '
  f'{trees.num_bytes(kept)}.'
)

# %% [markdown]
# ## Time per client
#
# A cohort of $K$ clients is laid out as lanes × blocks × clients. Clients of a
# *block* are computed at once, blocks follow each other, *lanes* are devices.
# `block_size=1` needs the least memory; one small client does not fill a GPU or
# TPU, which needs blocks of hundreds. The fastest size depends on the model
# too, so measure it.

# %%
import time


def measured(num_clients, block_size):
  """Seconds of a round, and the bytes that it needs besides its arguments."""
  some = data.select(np.arange(num_clients))
  layout = mapping.Mapping(block_size=block_size, mesh=devices.mesh)
  run = rounds.round_runner(algorithm, mapping=layout)
  key = jax.random.key(0)
  state = rounds.init_state(algorithm, [some], key)
  some = rounds.place(some, layout)
  memory = run.temporary_bytes(state, [some], key, 1)
  state, _ = run(state, [some], key, 1)  # compiles
  jax.block_until_ready(state)
  begin = time.perf_counter()
  state, _ = run(state, [some], key, 1)
  jax.block_until_ready(state)
  return time.perf_counter() - begin, memory


is_cpu = jax.default_backend() == 'cpu'
numbers = (20, 200) if SMALL else (10, 100, 1_000, 10_000)
blocks = (1, 8) if SMALL else (1, 16) if is_cpu else (1, 64, 512)
found = {}
for block in blocks:
  for number in numbers:
    if not is_cpu and block == 1 and number > 1_000:
      continue  # slow there, and known by then
    found[block, number] = measured(number, block)
    print(
      f'{number:>6,} clients, blocks of {block}: '
      f'{found[block, number][0]:.3f} s a round'
    )

# %%
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
for block, style in zip(blocks, ('o-', 's--', '^:'), strict=False):
  seconds = {n: s for (b, n), (s, _) in found.items() if b == block}
  per_client = [1e3 * s / n for n, s in seconds.items()]
  panels[0].loglog(list(seconds), per_client, style, label=f'blocks of {block}')
  memory = {n: m for (b, n), (_, m) in found.items() if b == block}
  panels[1].loglog(list(memory), [m / 1e6 for m in memory.values()], style)
panels[0].set(xlabel='clients', ylabel='milliseconds per client and round')
panels[1].set(xlabel='clients', ylabel='MB that a round needs')
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# The memory of a round is that of a block, and a few numbers for each further
# client. The compiler knows it before anything runs, and `temporary_bytes` asks
# it. For comparison, the memory of a loop that keeps every client's message:

# %%
[most] = [max(numbers)]
fastest = min((s, b) for (b, n), (s, _) in found.items() if n == most)[1]
notebook_rows = [
  ('all messages, as a loop would stack them', most * traffic.bytes_up / 1e6),
  *(
    (f'this round, blocks of {block}', found[block, most][1] / 1e6)
    for block in blocks
    if (block, most) in found
  ),
]

from fedjax_gen.running import notebook

notebook.Table((f'{most:,} clients', 'MB'), notebook_rows)

# %% [markdown]
# ## The devices
#
# `clients_mesh()` is a mesh of all devices; each trains its share of the
# clients, and one `psum` adds the sums up. On this machine:

# %%
layout = mapping.Mapping(block_size=fastest, mesh=devices.mesh)
lanes, blocks_of_lane, block = layout.layout(most)
print(f'{lanes} devices x {blocks_of_lane} blocks x {block} clients')

# %% [markdown]
# Every layout gives the same numbers, up to rounding: keys belong to clients,
# not to places.

# %%
few = data.select(np.arange(24))
servers = []
for block in (1, 5, 'all'):
  state = rounds.init_state(algorithm, [few], jax.random.key(0))
  run = rounds.round_runner(
    algorithm, mapping=mapping.Mapping(block_size=block)
  )
  state, _ = run(state, [few], jax.random.key(0), 1)
  servers.append(jax.device_get(state.server.variables))
for other in servers[1:]:
  differences = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), servers[0], other
  )
  print('largest difference:', max(jax.tree.leaves(differences)))
  assert max(jax.tree.leaves(differences)) < 1e-4

# %% [markdown]
# ## Train
#
# Everyone takes part, in a hundred rounds. (With a larger population each round
# samples a part: `samplers=[sampling.uniform(1_000)]`.) A client makes one step
# on 16 images, so the server takes longer steps than an average: Adam.

# %%
ROUNDS = 2 if SMALL else 100
adam = fedvae.Config(
  local_epochs=1.0, batch_size=PER_CLIENT, keep_optimizer_state=False,
  server_optimizer='fedadam', server_learning_rate=0.02,
)  # fmt: skip
algorithm = fedvae.fedvae(adam, model)
state = rounds.init_state(algorithm, [data], jax.random.key(0))
run = rounds.round_runner(algorithm, mapping=layout)
state, history = notebook.train(
  f'{NUM_CLIENTS:,} clients',
  run,
  state,
  [data],
  jax.random.key(1),
  ROUNDS,
  rounds_per_call=ROUNDS // 2,
)
total = history['bytes_up'].sum() + history['bytes_down'].sum()
print(f'{total / 1e9:.2f} GB would have travelled.')
assert history['participants'].min() == NUM_CLIENTS

# %%
from IPython.display import Image

from fedjax_gen.evaluation import pictures, vaes
from fedjax_gen.models import elbo

asked = np.arange(10)
rows = {'examples': images[:10]} | {
  f'drawn, {seed + 1}': vaes.sample_images(
    elbo.of_vae(model), state.server.variables, asked, seed=seed
  )
  for seed in range(2)
}
pictures.image_rows(rows, 'drawn.png')
Image('drawn.png')

# %% [markdown]
# ## Next
#
# * how the layout works: [docs/design.md](../docs/design.md#four-ideas);
# * a thousand clients with large models, measured:
#   [docs/fedhypevae.md](../docs/fedhypevae.md#a-thousand-clients).

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
# # Your own algorithm in 40 lines
#
# A federated generator written from scratch: a mixture of Gaussians for each
# class, fitted by EM; clients send only sums. It is real and useful: it has no
# learning rate, its result is *exactly* what pooled data would give, and it
# both generates digits and classifies them. You will see the whole algorithm,
# its bytes, the checks against pooled data and against scikit-learn, and its
# digits next to those of a VAE.
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
# ## The mathematics
#
# Component $m$ belongs to a class and has a share $\pi_m$, a mean $\mu_m$ and a
# covariance $\Sigma_m$. EM repeats two steps.
#
# **E**, at the clients: how much of image $x_i$ is component $m$,
#
# $$r_{im} \propto \pi_m\, \mathcal N(x_i; \mu_m, \Sigma_m).$$
#
# **M**, at the server, of sums over all images of all clients:
#
# $$N_m = \sum_i r_{im}, \quad \mu_m = \frac1{N_m} \sum_i r_{im} x_i, \quad
# \Sigma_m = \frac1{N_m} \sum_i r_{im} x_i x_i^\top - \mu_m \mu_m^\top.$$
#
# A sum over images is a sum over clients of their sums. So it fits a round: the
# server needs no message of a single client, and secure summation is enough.
#
# ## The algorithm
#
# Six questions decide a federated algorithm. What does the server hold? The
# mixture. What goes down? All of it. What does a client keep? Nothing. What
# goes up? Three sums. What does the server see? Their total. What does it do
# with it? The M step. Everything is written for **one** client; the engine maps
# it over all.

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_gen.federated import aggregates, local
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  ServerProgram,
)


# %%
class Mixture(NamedTuple):
  shares: jax.Array  # [M], of all components together
  means: jax.Array  # [M, F]
  covariances: jax.Array  # [M, F, F]


class Sums(NamedTuple):
  counts: jax.Array  # [M]
  first: jax.Array  # [M, F]
  second: jax.Array  # [M, F, F]
  log_likelihood: jax.Array


def log_joint(mixture, images):
  """log pi_m + log N(x_i; m) of every image and component, `[n, M]`."""
  normal = jax.scipy.stats.multivariate_normal.logpdf
  density = jax.vmap(normal, (None, 0, 0), 1)(images, *mixture[1:])
  return density + jnp.log(mixture.shares + 1e-12)


def federated_em(num_features, per_class, num_classes=10, floor=0.01):
  classes = jnp.repeat(jnp.arange(num_classes), per_class)
  identity = jnp.eye(num_features)

  def init(key):
    means = 0.3 + 0.1 * jax.random.normal(key, (len(classes), num_features))
    covariances = jnp.broadcast_to(
      0.1 * identity, (len(classes), *identity.shape)
    )
    return Mixture(jnp.full(len(classes), 1 / len(classes)), means, covariances)

  def sums_of_batch(mixture, batch):
    images = batch.inputs.reshape(len(batch.inputs), -1) / 255.0
    is_its = batch.labels[:, None] == classes
    joint = jnp.where(is_its, log_joint(mixture, images), -jnp.inf)
    evidence = jax.nn.logsumexp(joint, axis=1)
    part = jnp.exp(joint - evidence[:, None]) * batch.mask[:, None]
    second = jnp.einsum('nm,nf,ng->mfg', part, images, images)
    likelihood = jnp.sum(evidence * batch.mask)
    return Sums(part.sum(0), part.T @ images, second, likelihood)

  def client_update(view, client, data, key):
    sums = local.total(lambda batch: sums_of_batch(view, batch), data, 64)
    return sums, client, {'loss': -sums.log_likelihood / data.size}

  def server_update(server, sums, key):
    counts = jnp.maximum(sums.counts, 1e-3)
    means = sums.first / counts[:, None]
    second = sums.second / counts[:, None, None]
    outer = jnp.einsum('mf,mg->mfg', means, means)
    mixture = Mixture(
      counts / counts.sum(), means, second - outer + floor * identity
    )
    return mixture, {'log_likelihood': sums.log_likelihood}

  client = ClientProgram(
    lambda key, info: (), lambda server, info: server, client_update
  )
  server = ServerProgram(init, aggregates.total(), server_update)
  return Algorithm(server, (client,))


# %% [markdown]
# The function is forty lines. `floor` keeps covariances invertible where pixels
# are always dark; with it the EM is that of images with noise of variance 0.01,
# nearly.
#
# ## Train it
#
# Twenty clients with skewed labels. EM on sums does not care about skew.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np

from fedjax_gen import trees
from fedjax_gen.data import federated, partition, sources
from fedjax_gen.federated import mapping, rounds
from fedjax_gen.running import notebook

PER_CLASS = 2 if SMALL else 4
ROUNDS = 4 if SMALL else 30
source = sources.load('digits')
train, test = source.train, source.test
clients = partition.dirichlet(train.labels, 20, alpha=0.1, seed=0)
data = federated.federated_dataset(train.inputs, train.labels, clients)
algorithm = federated_em(64, PER_CLASS)
assert len(inspect.getsource(federated_em).splitlines()) <= 43


# All devices share the clients; on CPU one does all the work, because Cholesky
# factors on several CPU devices waited for each other for ever (JAX 0.10.2).
number = 1 if jax.default_backend() == 'cpu' else None
mesh = mapping.clients_mesh(number)
run = rounds.round_runner(algorithm, mapping=mapping.Mapping(mesh=mesh))


def fitted(name, data):
  state = rounds.init_state(algorithm, [data], jax.random.key(0))
  return notebook.train(
    name, run, state, [data], jax.random.key(1), ROUNDS,
    rounds_per_call=ROUNDS // 2,
  )  # fmt: skip


state, history = fitted('federated EM', data)
mixture = state.server

# %% [markdown]
# ## Check it: bytes
#
# For $M$ components and $F = 64$ features, $M (1 + F + F^2)$ floats travel.

# %%
[traffic] = rounds.traffic(algorithm, [data])
size = 10 * PER_CLASS * (1 + 64 + 64 * 64) * 4
assert traffic.bytes_down == size
assert traffic.bytes_up == size + 4  # the log-likelihood
assert trees.num_bytes(state.fleets) == 0  # clients keep nothing
print(f'{traffic.bytes_up:,} bytes up a client and round')

# %% [markdown]
# ## Check it: it is what pooled data give
#
# The same algorithm with one client that holds everything. Sums of sums are
# sums, so only rounding may differ. And EM never lowers the likelihood, except
# through the floor.

# %%
pooled, pooled_history = fitted('pooled', data.merged())
for ours, theirs in zip(mixture, pooled.server, strict=True):
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2)
np.testing.assert_allclose(
  history['log_likelihood'], pooled_history['log_likelihood'], rtol=2e-3
)

figure, axes = plt.subplots(figsize=(6, 3), layout='constrained')
for values, style, name in (
  (history, '-', 'federated, 20 clients'),
  (pooled_history, '--', 'pooled'),
):
  mean = values['log_likelihood'] / len(train.labels)
  axes.plot(np.arange(1, ROUNDS + 1), mean, style, label=name)
axes.set(xlabel='round', ylabel='log-likelihood per image (nats)')
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Check it: against scikit-learn
#
# One more E and M step of an independent implementation, for the class 3, from
# our current mixture; then one round of ours.

# %%
import warnings

from sklearn import exceptions, mixture as sklearn_mixture

mine = slice(3 * PER_CLASS, 4 * PER_CLASS)  # components of the class 3
threes = train.inputs[train.labels == 3].reshape(-1, 64) / 255
before = jax.device_get(mixture)
covariances = before.covariances[mine].astype(np.float64)
covariances = (covariances + np.swapaxes(covariances, 1, 2)) / 2  # of rounding
theirs = sklearn_mixture.GaussianMixture(
  PER_CLASS,
  max_iter=1,
  reg_covar=0.01,
  weights_init=before.shares[mine] / before.shares[mine].sum(),
  means_init=before.means[mine],
  precisions_init=np.linalg.inv(covariances),
)
with warnings.catch_warnings():  # one step does not converge, and need not
  warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
  theirs.fit(threes)
after, _ = run(state, [data], jax.random.key(1), 1)
ours = after.server.means[mine]
print('means differ by at most', np.abs(theirs.means_ - ours).max())
np.testing.assert_allclose(ours, theirs.means_, atol=1e-3)

# %% [markdown]
# ## Use it: digits, and a classifier
#
# A draw is a component of the class and a draw of its Gaussian. And with the
# same densities a digit is classified by Bayes' rule, without another network.

# %%
from IPython.display import Image

from fedjax_gen.evaluation import pictures


def generate(mixture, labels, key):
  part_key, noise_key = jax.random.split(key)
  within = jnp.log(mixture.shares.reshape(10, PER_CLASS))[labels]
  part = labels * PER_CLASS + jax.random.categorical(part_key, within)
  draws = jax.random.multivariate_normal(
    noise_key, mixture.means[part], mixture.covariances[part]
  )
  pixels = jnp.clip(draws, 0, 1) * 255
  return np.asarray(pixels, np.uint8).reshape(-1, 8, 8, 1)


mixture = after.server
digits = np.arange(10)
means = np.clip(mixture.means[::PER_CLASS], 0, 1) * 255
rows = {
  'real': test.inputs[[np.argmax(test.labels == digit) for digit in digits]],
  'one mean': means.astype(np.uint8).reshape(-1, 8, 8, 1),
} | {
  f'drawn, {seed + 1}': generate(mixture, digits, jax.random.key(seed))
  for seed in range(3)
}
pictures.image_rows(rows, 'mixture.png')
Image('mixture.png')

# %%
from fedjax_gen.evaluation import utility
from fedjax_gen.evaluation.networks import judges

joint = log_joint(mixture, test.inputs.reshape(-1, 64) / 255.0)
by_class = jax.nn.logsumexp(joint.reshape(-1, 10, PER_CLASS), axis=2)
bayes = float(np.mean(np.argmax(by_class, axis=1) == test.labels))
labels = np.arange(2000) % 10
synthetic = utility.tstr_accuracy(
  generate(mixture, labels, jax.random.key(9)), labels,
  test.inputs, test.labels, 10,
  recipe=judges.Recipe(num_steps=20 if SMALL else 1200),
)  # fmt: skip
PAGE = 'docs/fedvae.md'
RECORDED = {'tstr_accuracy': 0.922}  # of FedVAE, ten clients of equal labels
notebook.Table(
  ('right on real test digits', 'accuracy'),
  [
    ('Bayes’ rule with the mixture', bayes),
    ('a classifier of synthetic images alone', synthetic),
    ('the same of FedVAE, as recorded', RECORDED['tstr_accuracy']),
  ],
)

# %% [markdown]
# ## Next
#
# * a second example, with what a client keeps, and the checklist for a pull
#   request: [docs/adding_an_algorithm.md](../docs/adding_an_algorithm.md);
# * where sums need noise: `aggregates.total()` is where
#   [differential privacy](../docs/privacy.md) enters.

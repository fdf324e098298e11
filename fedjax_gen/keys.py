"""Keys of what is drawn apart from training, by name.

Rounds follow from the run's key. All else of a run that is drawn, and holds no
secret, has a name here, so that two uses cannot share a key unseen.
"""

import jax

from fedjax_gen.types import Key

# To change one changes what is drawn. They are large because training splits
# the same seed, and the first keys of a split are those of 0, 1, 2.
PURPOSES = {
  'bounds': 0x626F756E,  # latents, for bounds on the likelihood
  'samples': 0x73616D70,  # generated examples
  'discovery': 0x64697363,  # what clients report of themselves
  'deployment': 0x6465706C,  # what clients of FedVTC are fine-tuned with
  'audit': 0x61756469,  # canaries, and the training with them
  'synthesis': 0x73796E74,  # synthetic embeddings, and codes that are fitted
  'pretraining': 0x70726574,  # samples of released Gaussians
}


def derive(seed: int, purpose: str) -> Key:
  """The key of a purpose, from the run's seed.

  Args:
    seed: of the run.
    purpose: one of `PURPOSES`.

  Example:
    >>> bool((derive(0, 'audit') == derive(0, 'samples')).all())
    False
  """
  return jax.random.fold_in(jax.random.key(seed), PURPOSES[purpose])

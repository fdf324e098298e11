"""What FedHypeVAE's model is asked to be; see `hypernetwork`."""

import dataclasses

from fedjax_gen import fields, validate
from fedjax_gen.errors import InputError
from fedjax_gen.models.vae import DataSpec

HEADS = ('row_scaled', 'full', 'constant')
PRIORS = ('generated', 'standard')
LIPSCHITZ = ('none', 'spectral_norm', 'spectral_penalty', 'jacobian')
NORMALISATIONS = ('none', 'standardise', 'sphere')


@dataclasses.dataclass(frozen=True)
class HyperVaeConfig(fields.Configuration):
  """The model."""

  latent_size: int = fields.positive_int(
    16, 'Z, dimensions of the latent space'
  )
  hidden_sizes: tuple[int, ...] = fields.option(
    (128, 128),
    'Widths of the hidden layers of encoder and decoder; DP-CVAE, '
    'the origin of FedHypeVAE, has 256,256,256',
    check=validate.each(validate.positive_int),
  )
  code_size: int = fields.positive_int(32, 'V, dimensions of a client’s code')
  hyper_size: int = fields.positive_int(
    128,
    'width of the hidden layer of the heads that turn a code into '
    'a decoder and a prior',
  )
  head: str = fields.option(
    'row_scaled',
    'How a code changes the decoder: row_scaled scales and shifts shared '
    'weights, full generates all weights, constant is one decoder for all, '
    'without a hypernetwork',
    choices=HEADS,
  )
  prior: str = fields.option(
    'generated',
    'p(z | y): generated from the code, or standard, N(0, I)',
    choices=PRIORS,
  )
  code_radius: float = fields.positive(
    2.0,
    'codes are kept in a ball of this radius times the square root '
    'of code_size, about the length of a code at first',
  )
  likelihood_stddev: float = fields.positive(
    0.5, 's of p(x | z, y) = N(x_hat, s^2 I), in units of the embeddings'
  )
  lipschitz: str = fields.option(
    'none',
    'How to keep the heads from changing fast with the code: not at all, by '
    'spectral norms clipped at lipschitz_target, by a penalty above it, or by '
    'a penalty on the Jacobian',
    choices=LIPSCHITZ,
  )
  lipschitz_target: float = fields.positive(
    1.0, 'largest spectral norm of a layer of the heads'
  )
  normalise: str = fields.option(
    'none',
    'Normalisation of each embedding: none, standardise (mean 0, standard '
    'deviation 1), or sphere (length the square root of its dimensions)',
    choices=NORMALISATIONS,
  )

  @property
  def uses_code(self) -> bool:
    """Whether anything of the model depends on a client's code."""
    return self.head != 'constant' or self.prior == 'generated'


def check(config: HyperVaeConfig, spec: DataSpec) -> None:
  """Raises `InputError` unless a model can be what is asked."""
  if spec.kind.num_axes != 1:
    raise InputError(
      f'Expected embeddings of shape (F,), got shape={spec.shape}.'
    )
  validate.positive_int(shape=spec.shape[0], num_classes=spec.num_classes)

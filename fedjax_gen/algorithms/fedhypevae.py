"""FedHypeVAE: personal decoders and priors from a shared hypernetwork.

Sunny Gupta, Nikita Jangid, Amit Sethi, "FedHypeVAE: Federated learning with
hypernetwork-generated conditional VAEs for differentially-private embedding
sharing", PMLR 317:127-134, 2026; arXiv 2601.00785.

Published: every client has an encoder and a code of its own; a hypernetwork
that all share turns the code into the client's decoder and class prior (eqs. 2
to 4). A client descends its encoder and code (eq. 8) and sends a clipped and
noised gradient of the hypernetwork (eq. 9), which the server descends, weighted
by number of records (eq. 10); Algorithm 1, one minibatch a round, while the
text has five local epochs.

Ours, where the published text would not do (docs/fedhypevae.md has all):

* `record_joint`, the default: eq. 9 protects no record as long as eq. 8 moves
  encoder and code without noise, since they decide the other records'
  gradients. Here a record's gradient of all three is clipped as one, and all
  three are noised.
* Noise goes on the sum, not on the mean.
* The MMD of eq. 6 is in the gradient that is descended. It is a sum over
  records as long as the generated examples come from the prior.
* `client`: whole clients are protected, `record_server_code`: codes lie with
  the server, `paper`: eqs. 8 and 9 as printed, without any guarantee.

Sizes, losses' weights, kernels and optimizers are not stated in the paper.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_gen import fields, trees, validate
from fedjax_gen.errors import InputError
from fedjax_gen.federated import (
  aggregates,
  hyper_server,
  optimizers,
  servers,
)
from fedjax_gen.federated.algorithm import Algorithm, ClientProgram
from fedjax_gen.models.hyper import hyper_elbo
from fedjax_gen.models.hyper.hypernetwork import HyperVae
from fedjax_gen.privacy import clipping, noise
from fedjax_gen.privacy.clipping import RecordLossFn
from fedjax_gen.privacy.plan import Plan
from fedjax_gen.privacy.steps import batches, descent, parts
from fedjax_gen.privacy.steps.descent import Parts
from fedjax_gen.privacy.steps.parts import StepFn, StepResult
from fedjax_gen.types import Array, Key

MODES = ('none', 'record_joint', 'record_server_code', 'client', 'paper')


@dataclasses.dataclass(frozen=True)
class Config(fields.Configuration):
  """How clients and server train.

  Nothing here is stated in the paper but `local_epochs` (5), `optimizer` (sgd)
  and `learning_rate` (1e-3, of everything), with which the hypernetwork cannot
  move: clipped to 1.5 and in 50 steps it goes 0.075 at most.
  """

  local_mode: str = fields.option(
    'fedsgd',
    'What a client sends: the gradient of one minibatch (Algorithm 1), '
    'or the change after local_epochs passes',
    choices=('fedsgd', 'epochs'),
  )
  local_epochs: float = fields.positive(1.0, 'E, with local_mode=epochs')
  batch_size: int = fields.positive_int(
    64, 'B, records that a client of mean size expects in a minibatch'
  )
  optimizer: str = fields.option(
    'adam', 'Optimizer of every part', choices=('adam', 'sgd')
  )
  learning_rate: float = fields.positive(
    2e-3, 'Learning rate of the hypernetwork'
  )
  encoder_learning_rate: float = fields.positive(
    2e-3, 'Learning rate of the clients’ encoders'
  )
  code_learning_rate: float = fields.positive(
    1e-2, 'Learning rate of the clients’ codes'
  )
  beta: float = fields.non_negative(
    1.0, 'Weight of the KL term; the paper has none'
  )
  mmd_weight: float = fields.non_negative(
    1.0, 'lambda_MMD, in nats; 0 for none'
  )
  mmd_samples: int = fields.positive_int(
    8, 'Examples generated for the MMD of a record, at least 2: it needs pairs'
  )
  mmd_conditional: bool = fields.option(
    True, 'Compare a record with generated examples of its own class'
  )
  neutral_share: float = fields.fraction(
    0.5,
    'Share of the records of a step, redrawn every step, that train decoder '
    'and prior of the code zero instead of the client’s code: they become a '
    'neutral decoder that every client has trained',
  )
  lipschitz_weight: float = fields.non_negative(
    1e-3, 'lambda_Lip; no effect with lipschitz=none or spectral_norm'
  )
  code_weight: float = fields.non_negative(
    1e-4, 'lambda_v, weight of the codes’ squared norm'
  )
  paper_noise: str = fields.option(
    'mean',
    'With privacy=paper, where noise goes: on the mean as eq. 9 is printed, '
    'or on the sum as in Opacus',
    choices=('mean', 'sum'),
  )

  def __post_init__(self):
    super().__post_init__()
    if self.mmd_weight and self.mmd_samples < 2:
      raise InputError(
        'Expected mmd_samples >= 2, since the MMD takes pairs of generated '
        f'examples, or mmd_weight=0; got mmd_samples={self.mmd_samples}.'
      )

  @property
  def weights(self) -> hyper_elbo.Weights:
    """Of a record's loss."""
    return hyper_elbo.Weights(
      self.beta, self.mmd_weight, self.mmd_samples, self.mmd_conditional
    )

  @property
  def epochs(self) -> float:
    """Passes a round as `plan.record_sampling` takes them."""
    return self.local_epochs if self.local_mode == 'epochs' else 0.0


def fedhypevae(
  config: Config,
  model: HyperVae,
  mode: str,
  plan: Plan,
  client_plan: Plan | None = None,
) -> Algorithm:
  """The algorithm, in any privacy mode but `record_server_code`.

  With `head='constant'` and `prior='standard'` of the model it is DP-CVAE (Di
  Salvo, Nguyen, Ledig, MICCAI 2025), in its privacy mode `record_joint` with
  the encoder protected as well.

  A client keeps `parts.KeptParts`: encoder and code, and their optimizer's
  state. The server's state is `servers.LearnedServer`.

  Args:
    config: how clients and server train.
    model: the networks.
    mode: one of `MODES`.
    plan: sampling of records, norm and noise, made by `plan.record_plan`. Of
      `none` and `client`, which protect no record, the sampling alone is used:
      make it with epsilon = infinity.
    client_plan: with `client`, made by `plan.client_plan`.

  Raises:
    InputError: the mode is unknown or does not fit the plan, or noise is in
      shares where more than sums is seen.
  """
  validate.one_of(MODES, privacy=mode)
  if (client_plan is not None) != (mode == 'client'):
    raise InputError(
      f"Expected a client_plan with privacy='client' alone, got {mode!r}."
    )
  if mode == 'record_server_code':
    raise InputError(
      "Expected with_server_codes for privacy='record_server_code': its "
      'server holds the codes.'
    )
  if mode == 'record_joint' and config.local_mode == 'epochs':
    _refuse_shares(plan, 'local_mode=epochs: its steps use each gradient')
  step_fn = _paper_step(config, model, plan) if mode == 'paper' else (
    _joint_step(config, model, mode, plan)
  )  # fmt: skip
  sends_gradient = config.local_mode == 'fedsgd'
  client = parts.client_program(
    step_fn,
    init=lambda key: init_parts(model, key),
    own_optimizer=own_optimizer(config),
    shared_optimizer=None if sends_gradient else _optimizer(
      config, config.learning_rate
    ),
    num_steps=plan.steps,
  )  # fmt: skip
  server = servers.learned_server(
    model.init,
    aggregates.weighted_mean(),
    _optimizer(config, config.learning_rate)
    if sends_gradient
    else optax.sgd(1.0),
  )
  algorithm = Algorithm(server, (client,))
  if client_plan is None:
    return algorithm
  return noise.with_private_server(algorithm, client_plan)


def with_server_codes(
  config: Config, model: HyperVae, plan: Plan, num_clients: int, base_key: Key
) -> Algorithm:
  """Codes at the server: privacy mode `record_server_code`. Ours.

  A client receives its decoder and prior and sends a noised gradient of them:
  of scales, shifts, and the prior's means and variances, some thousand values
  in place of a million. The server takes it through the hypernetwork to heads
  and codes, one vector-Jacobian product a client (pFedHN, Shamsian et al.,
  ICML 2021, as differential privacy would have it). The price: codes are not
  private, and the decoder's base weights, for which no gradient is sent, stay
  as `base_key` made them, a constant that all can make.

  Guarantees:
    As `descent.private_gradient`, over what is sent and the client's encoder
    together. Heads and codes are post-processing.

  Args:
    config: with `local_mode='fedsgd'`; `neutral_share` is not used, since a
      client has one decoder here.
    model: with `head='row_scaled'`: another has nothing to send but weights.
    plan: made by `plan.record_plan`.
    num_clients: N.
    base_key: makes the base weights.

  Raises:
    InputError: mode or head is another, or noise is in shares, which protects
      sums over clients alone.
  """
  for name, needed, got in (
    ('local_mode', 'fedsgd', config.local_mode),
    ('head', 'row_scaled', model.config.head),
  ):
    if got != needed:
      raise InputError(
        f'Expected {name}={needed!r} with privacy=record_server_code, got '
        f'{name}={got!r}.'
      )
  _refuse_shares(plan, 'record_server_code: its server sees each message')
  base = {'base': model.init(base_key)['base']}
  optimizer = optax.partition(
    {
      'head': _optimizer(config, config.learning_rate),
      'code': _optimizer(config, config.code_learning_rate),
    },
    {'hyper': 'head', 'codes': 'code'},
  )
  server, view = hyper_server.hyper_server(
    _heads(config, model, base), optimizer, num_clients
  )
  client = _codeless_client(config, model, plan, base)
  return Algorithm(server, (client._replace(view=view),))


def init_parts(model: HyperVae, key: Key) -> Parts:
  """The hypernetwork, and a client's encoder and code."""
  shared_key, own_key = jax.random.split(key)
  return Parts(shared=model.init(shared_key), own=model.init_client(own_key))


def own_optimizer(config: Config) -> optax.GradientTransformation:
  """Of encoder and code, each with its learning rate."""
  rates = {
    'encoder': config.encoder_learning_rate,
    'code': config.code_learning_rate,
  }
  return optax.partition(
    {name: _optimizer(config, rate) for name, rate in rates.items()},
    lambda own: {name: name for name in own},
  )


def record_loss(config: Config, model: HyperVae) -> RecordLossFn:
  """J_i of eqs. 5 to 7 at one record; regularisers hold no data, and are not
  here. Variables are `Parts` of hypernetwork, and encoder and code.
  """  # noqa: D205
  weights = config.weights

  def loss_fn(variables, record, key):
    hyper, own = variables['shared'], variables['own']
    code = own.get('code')
    if code is not None and config.neutral_share:
      neutral_key, key = jax.random.split(key)
      is_neutral = jax.random.bernoulli(neutral_key, config.neutral_share)
      code = jnp.where(is_neutral, 0.0, code)
    personal = model.personalise(hyper, code)
    return hyper_elbo.record_loss(
      model,
      weights,
      hyper,
      personal,
      own['encoder'],
      record.inputs,
      record.labels,
      key,
    )

  return loss_fn


def regulariser(
  config: Config, model: HyperVae
) -> Callable[[Parts, Key], Array]:
  """`lambda_Lip R_Lip + lambda_v |v|^2` of eq. 5: nothing of data in it."""

  def regulariser_fn(variables, key):
    hyper, own = variables['shared'], variables['own']
    smooth = model.regulariser(hyper, own, key)
    penalty = config.lipschitz_weight * smooth
    if 'code' in own:
      penalty += config.code_weight * jnp.sum(own['code'] ** 2)
    return penalty

  return regulariser_fn


def _codeless_client(
  config: Config, model: HyperVae, plan: Plan, base: dict[str, Any]
) -> ClientProgram:
  """Sends a noised gradient of its decoder and prior, keeps its encoder."""
  weights = config.weights
  optimizer = _optimizer(config, config.encoder_learning_rate)

  def loss_fn(variables, record, key):
    return hyper_elbo.record_loss(
      model, weights, base, variables['shared'], variables['own']['encoder'],
      record.inputs, record.labels, key,
    )  # fmt: skip

  def init(key):
    encoder = model.init_client(key)['encoder']
    personal = model.personalise(
      model.init(key), jnp.zeros(model.config.code_size)
    )
    return Parts(shared=personal, own={'encoder': encoder})

  return parts.client_program(
    parts.joint_step(descent.private_gradient(loss_fn, plan), optimizer),
    init=init,
    own_optimizer=optimizer,
    shared_optimizer=None,
    num_steps=1,
  )


def _heads(
  config: Config, model: HyperVae, base: dict[str, Any]
) -> hyper_server.Hypernetwork:
  """What the server of `with_server_codes` trains: all but the base weights."""

  def init(key):
    trained = model.init(key)
    trained.pop('base')
    return trained

  def penalty(heads, code, key):
    variables = Parts(shared={**base, **heads}, own={'code': code})
    return regulariser(config, model)(variables, key)

  return hyper_server.Hypernetwork(
    init,
    lambda key: model.init_client(key)['code'],
    lambda heads, code: model.personalise({**base, **heads}, code),
    penalty,
    lambda code: model.project({'code': code})['code'],
  )


def _joint_step(
  config: Config, model: HyperVae, mode: str, plan: Plan
) -> StepFn:
  """Hypernetwork, encoder and code along one gradient."""
  loss_fn = record_loss(config, model)
  if mode == 'record_joint':
    gradient_fn = descent.private_gradient(loss_fn, plan)
  else:
    gradient_fn = descent.plain_gradient(
      loss_fn, plan.sampling_rate, plan.capacity
    )
  return parts.joint_step(
    gradient_fn,
    own_optimizer(config),
    regulariser=regulariser(config, model),
    project=model.project,
  )


def _paper_step(config: Config, model: HyperVae, plan: Plan) -> StepFn:
  """Eqs. 8 and 9 as printed. NO guarantee, whatever epsilon is named.

  Encoder and code move first, on the minibatch and without noise; then the
  records' gradients of the hypernetwork alone are clipped. No MMD, which eq. 5
  does not hold.
  """
  published = dataclasses.replace(config, mmd_weight=0.0, neutral_share=0.0)
  loss_fn = record_loss(published, model)
  regulariser_fn = regulariser(config, model)
  optimizer = own_optimizer(config)

  def step(shared, own, own_state, data, key):
    sample_key, own_key, clip_key, noise_key, more_key = jax.random.split(
      key, 5
    )
    batch = batches.poisson_batch(
      sample_key, data, plan.sampling_rate, plan.capacity
    ).batch
    variables = Parts(shared=shared, own=own)
    gradient, metrics = descent.batch_gradient(
      loss_fn, variables, batch, own_key
    )
    more = jax.grad(regulariser_fn)(variables, more_key)
    updates, own_state = optimizer.update(
      trees.add(gradient, more)['own'], own_state, own
    )
    own = model.project(optax.apply_updates(own, updates))

    def shared_loss(shared, record, key):
      return loss_fn(Parts(shared=shared, own=own), record, key)

    summed = clipping.clipped_sum(
      shared_loss, shared, batch, clip_key, plan.max_norm,
      chunk_size=plan.chunk_size,
    )  # fmt: skip
    size = jnp.maximum(batch.mask.sum(), 1)
    on_mean = jnp.where(config.paper_noise == 'mean', 1.0, 1.0 / size)
    stddev = plan.noise_multiplier * plan.max_norm * on_mean
    mean = jax.tree.map(lambda leaf: leaf / size, summed.total)
    noised = trees.add(mean, noise.gaussian(noise_key, mean, stddev))
    noised = trees.add(noised, more['shared'])
    metrics = {**metrics, 'share_clipped': summed.share_clipped}
    return StepResult(noised, own, own_state, metrics)

  return step


def _refuse_shares(plan: Plan, where: str) -> None:
  """A share of the noise protects what is seen in a sum, nothing else."""
  if plan.share < 1:
    raise InputError(
      f"Expected noise_placement='local' with {where}, got 'distributed': "
      'shares of noise protect sums over clients alone.'
    )


def _optimizer(
  config: Config, learning_rate: float
) -> optax.GradientTransformation:
  chosen = {'adam': optimizers.adam, 'sgd': optax.sgd}[config.optimizer]
  return chosen(learning_rate)

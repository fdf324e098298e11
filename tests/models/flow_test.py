"""Flows with a known velocity: their loss, their ways, their ends."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_gen.data.federated import Batch
from fedjax_gen.models import generators
from fedjax_gen.models.flows import flow as flows, velocity
from fedjax_gen.models.flows.flow import Flow, FlowConfig
from fedjax_gen.models.flows.latent_flow import LatentFlowConfig
from fedjax_gen.models.vae import DataSpec, VaeConfig


def _known(function, shape=(2,), **fields):
  """A flow by `(points, times, condition, is_given) -> velocities`."""
  return Flow(
    lambda key: {},
    lambda variables, *arguments: (
      function(*arguments, *[None] * 4)
      if len(arguments) < 4
      else function(*arguments)
    ),
    FlowConfig(**fields),
    shape,
  )


def _linear(points, times, condition, is_given, *rest):
  del times, condition, is_given, rest
  return points


def test_solvers_are_of_their_order():
  starts = jnp.array([[1.0, -2.0]])
  exact = starts * math.e  # dx/dt = x

  def error(solver, steps):
    ends = flows.solve(
      _known(_linear), {}, starts, None, steps=steps, solver=solver
    )
    return float(jnp.abs(ends - exact).max())

  for solver, order in (('euler', 1), ('heun', 2)):
    ratio = error(solver, 16) / error(solver, 32)
    assert 2**order * 0.9 < ratio < 2**order * 1.1
  np.testing.assert_allclose(error('euler', 1), 2 * (math.e - 2), rtol=1e-5)


def test_the_velocity_towards_one_point_has_no_error_and_ends_there():
  goal = jnp.array([0.5, -1.5])

  def towards(points, times, condition, is_given, *rest):
    del condition, is_given, rest
    return (goal[None] - points) / jnp.maximum(1 - times, 1e-6)[:, None]

  flow = _known(towards)
  data = jnp.broadcast_to(goal, (64, 2))
  found = flows.errors(flow, {}, data, None, jax.random.key(0))
  np.testing.assert_allclose(found, np.zeros(64), atol=1e-4)
  other = flows.errors(flow, {}, data + 1.0, None, jax.random.key(0))
  assert (other > 0.5).all()
  starts = jax.random.normal(jax.random.key(1), (8, 2))
  ends = flows.solve(flow, {}, starts, None, steps=10, solver='euler')
  np.testing.assert_allclose(ends, data[:8], atol=1e-4)


def test_times_are_logit_normal_and_labels_are_hidden_from_a_share():
  seen = {}

  def note(points, times, condition, is_given, *rest):
    del condition, rest
    seen.update(times=times, is_given=is_given)
    return points

  flow = _known(
    note, flow_time_mean=0.5, flow_time_stddev=2.0, flow_label_dropout=0.25
  )
  data, condition = jnp.zeros((4000, 2)), jnp.ones((4000, 3))
  flows.errors(flow, {}, data, condition, jax.random.key(0))
  logits = jnp.log(seen['times']) - jnp.log1p(-seen['times'])
  np.testing.assert_allclose(logits.mean(), 0.5, atol=0.1)
  np.testing.assert_allclose(logits.std(), 2.0, atol=0.1)
  np.testing.assert_allclose(seen['is_given'].mean(), 0.75, atol=0.03)


def test_guidance_goes_beyond_the_condition():
  def by_condition(points, times, condition, is_given, *rest):
    del times, is_given, rest
    return jnp.full_like(points, 1.0 if condition is None else 3.0)

  starts, condition = jnp.zeros((2, 2)), jnp.ones((2, 3))
  ends = functools.partial(
    flows.solve, _known(by_condition), {}, starts, steps=4
  )
  np.testing.assert_allclose(ends(None, guidance=2.0), 1.0, rtol=1e-6)
  np.testing.assert_allclose(ends(condition), 3.0, rtol=1e-6)
  # 3 + 2 (3 - 1)
  np.testing.assert_allclose(ends(condition, guidance=2.0), 7.0, rtol=1e-6)


@pytest.mark.parametrize('shape', [(7,), (8,), (5, 6, 2)])
def test_patches_put_together_are_the_image(shape):
  image = jax.random.normal(jax.random.key(0), (3, *shape))
  cells = velocity._cells(image, 4)
  assert cells.shape[1:] == ((2, 4) if len(shape) == 1 else (2, 2, 32))
  np.testing.assert_array_equal(velocity._image(cells, image.shape, 4), image)


@pytest.mark.parametrize(
  ('network', 'shape'),
  [
    ('unet', (5, 6, 2)),
    ('transformer', (5, 6, 2)),
    ('transformer', (7,)),
    ('mlp', (7,)),
  ],
)
def test_networks_see_point_time_and_condition_of_their_example_alone(
  network, shape
):
  config = FlowConfig(
    flow_network=network, flow_channels=(4, 4), flow_width=8, flow_blocks=1,
    flow_patch=3,
  )  # fmt: skip
  flow = flows.build_flow(config, shape, 2)
  variables = flow.init(jax.random.key(0))
  points = jax.random.normal(jax.random.key(1), (3, *shape))
  times, condition = jnp.array([0.1, 0.5, 0.9]), jnp.eye(3)[:, :2]
  apply = jax.jit(flow.velocity)
  np.testing.assert_array_equal(
    apply(variables, points, times, condition), jnp.zeros_like(points)
  )
  variables = jax.tree.map(
    lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape),
    variables,
  )
  base = apply(variables, points, times, condition)
  for changed in (
    (points.at[1].add(1.0), times, condition),
    (points, times.at[1].add(0.2), condition),
    (points, times, condition.at[1].set(jnp.array([1.0, 0.0]))),
  ):
    other = apply(variables, *changed)
    np.testing.assert_allclose(base[::2], other[::2], rtol=1e-4, atol=1e-5)
    assert np.abs(base[1] - other[1]).max() > 1e-3
  hidden = flow.velocity(
    variables, points, times, condition, jnp.array([True, False, True])
  )
  blind = flow.velocity(variables, points, times, None)
  np.testing.assert_allclose(hidden[1], blind[1], rtol=1e-4, atol=1e-5)
  # The condition of zeros is not that of none.
  assert np.abs(base[2] - blind[2]).max() > 1e-3


def _descended(loss, variables, modules, batch, *, steps, rate):
  """Variables of which some modules made steps of Adam."""
  optimizer = optax.adam(rate)

  def step(carry, key):
    trained, state = carry
    gradient = jax.grad(lambda own: loss(variables | own, batch, key)[0])(
      trained
    )
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(trained, updates), state), None

  trained = {module: variables[module] for module in modules}
  keys = jax.random.split(jax.random.key(1), steps)
  carry = (trained, optimizer.init(trained))
  (trained, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(carry)
  return variables | trained


def test_it_learns_classes_that_lie_apart():
  config = FlowConfig(flow_width=32, flow_blocks=2, flow_steps=8)
  generator = generators.build('flow', [config], DataSpec((2,), 2))
  labels = jnp.arange(256) % 2
  noise = 0.2 * jax.random.normal(jax.random.key(2), (256, 2))
  centres = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
  batch = Batch(centres[labels] + noise, labels, jnp.ones(256, bool))
  variables = _descended(
    generator.loss, generator.init(jax.random.key(0)), ('velocity',), batch,
    steps=300, rate=3e-3,
  )  # fmt: skip
  asked = np.repeat([0, 1], 200)
  samples = generator.sample(variables, asked, jax.random.key(3))
  for label, centre in enumerate(centres):
    own = samples[asked == label]
    np.testing.assert_allclose(own.mean(axis=0), centre, atol=0.15)
    np.testing.assert_allclose(own.std(axis=0), 0.2, atol=0.12)


def test_the_scale_learns_the_moments_of_the_latents():
  spec = DataSpec((3,), 2)
  configs = [
    VaeConfig(model='mlp', latent_size=2, hidden_size=8, norm='none'),
    LatentFlowConfig(),
    FlowConfig(flow_width=8, flow_blocks=1),
  ]
  generator = generators.build('latent_flow', configs, spec)
  variables = generator.init(jax.random.key(0))
  # Posteriors that are not N(0, I).
  variables['encoder'] = jax.tree.map(lambda a: 1.5 * a, variables['encoder'])
  inputs = 3 * jax.random.normal(jax.random.key(1), (512, 3)) + 1
  labels = jnp.zeros(512, jnp.int32)
  batch = Batch(inputs, labels, jnp.ones(512, bool))
  vae = generator.model.vae
  inferred, _ = vae.infer(variables, inputs, labels, jax.random.key(2))
  latents = inferred.latents['z']
  assert np.abs(np.log(latents.std(axis=0))).max() > 0.5
  variables = _descended(
    generator.loss[0].loss, variables, ('scale',), batch, steps=600, rate=1e-2
  )
  scale = {k: 10 * v for k, v in variables['scale']['params'].items()}
  np.testing.assert_allclose(scale['mean'], latents.mean(axis=0), atol=0.3)
  np.testing.assert_allclose(
    jnp.exp(scale['logvar'] / 2), latents.std(axis=0), rtol=0.1
  )

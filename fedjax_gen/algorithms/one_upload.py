"""One upload: clients send a noised sum once, and all else is made of it.

A round of it is all there is: nothing goes down, and the sum goes up. What is
fitted to the sum afterwards, Gaussians (`privacy.one_upload.gaussian_release`)
or a generator (`dp_merf`), is post-processing and costs no privacy.
"""

import jax
import jax.numpy as jnp

from fedjax_gen import trees, validate
from fedjax_gen.federated import aggregates
from fedjax_gen.federated.algorithm import (
  Algorithm,
  ClientProgram,
  ServerProgram,
)
from fedjax_gen.models.vae import DataSpec
from fedjax_gen.privacy.one_upload import one_release
from fedjax_gen.privacy.one_upload.one_release import Statistic


def one_upload(
  statistic: Statistic,
  spec: DataSpec,
  *,
  noise_multiplier: float = 0.0,
  share: float = 1.0,
  unit: str = 'record',
) -> Algorithm:
  """The algorithm: one round, of all clients. The server's state is the sum.

  Guarantees:
    Those of `one_release.release`, in every round that is run: run one.

  Args:
    statistic: what is summed.
    spec: of the embeddings.
    noise_multiplier: noise over sensitivity; 0 for none.
    share: of it that each client adds.
    unit: record or client.
  """
  validate.non_negative(noise_multiplier=noise_multiplier, share=share)
  validate.one_of(one_release.UNITS, unit=unit)
  stddev = noise_multiplier * share
  nothing = jax.eval_shape(
    statistic,
    jax.ShapeDtypeStruct((1, *spec.shape), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
    jax.ShapeDtypeStruct((1,), jnp.bool_),
  )

  def update(view, client, data, keys):
    del view
    message = one_release.of_client(
      keys.own, data, statistic, stddev=stddev, unit=unit
    )
    return message, client, {}

  client = ClientProgram(
    init=lambda key, info: (), view=lambda server, info: (), update=update
  )
  server = ServerProgram(
    init=lambda key: trees.zeros_like(nothing),
    aggregate=aggregates.total(),
    update=lambda server, aggregated, key: (aggregated, {}),
  )
  return Algorithm(server, (client,))

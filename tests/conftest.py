"""Settings that every test shares; they must precede JAX's first use."""

import importlib.metadata
import os

# Eight CPU devices in one process, so that meshes are tested everywhere; and
# little optimisation, because compiling is most of what tests do: the older
# emitters of loops and one LLVM module for each program, in place of many
# that share the cores with other tests, take a third of the time.
_FLAGS = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
  ' --xla_cpu_parallel_codegen_split_count=1'
)
# Gone since jaxlib 0.11, which ends a process that asks for what it lacks.
_JAXLIB = tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2]))
if _JAXLIB < (0, 11):
  _FLAGS += ' --xla_cpu_use_fusion_emitters=false'
os.environ.setdefault('XLA_FLAGS', _FLAGS)

import jax  # noqa: E402 (the flags above must come first)
import pytest  # noqa: E402

# Adding arrays of different rank is a bug more often than a wish.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# JAX keeps what it has compiled, about 1.2 MB a program, and a module seldom
# runs another's. Letting go, one worker with the tests of models, losses,
# privacy and rounds grows to 2.0 GB and not 5.0 (JAX 0.10.2), in no more time.
_PROGRAMS = 500
_compiled: list[float] = []  # the seconds of each program that is kept


def _count(event: str, seconds: float, **unused_details) -> None:
  if event == '/jax/core/compile/backend_compile_duration':
    _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture(scope='module', autouse=True)
def _let_programs_go():
  """Frees them between modules, where enough have been compiled."""
  yield
  if len(_compiled) > _PROGRAMS:
    jax.clear_caches()
    _compiled.clear()

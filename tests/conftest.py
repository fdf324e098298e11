"""Settings that every test shares; they must precede JAX's first use."""

import gc
import importlib.metadata
import os
import pathlib

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

# Threads of BLAS wait for each other in loops: where another worker has the
# core of one of them, a notebook takes ten times as long.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import jax  # noqa: E402 (the flags above must come first)
import pytest  # noqa: E402

# Adding arrays of different rank is a bug more often than a wish.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Tracing makes many objects, and looking for garbage among all that is imported
# takes a tenth of the time.
gc.set_threshold(200_000, 20, 100)


def pytest_collection_finish():
  """What is there before the first test is no garbage."""
  gc.freeze()


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


# What `-m quick` runs before a commit, by folder: files that take some seconds
# each, and together touch most of what there is to break. All of them: '*'.
_QUICK = {
  '.': 'encoding federation files floors keys trees validate',
  'data': '*',
  'evaluation': 'charts distances membership neighbours projections',
  'federated': 'aggregates averaging class_gaussians collect grouping modules '
  'optimizers rounds sampling servers',
  'losses': '*',
  'models': 'classifiers feature_generator layers priors vtc_losses',
  'privacy': 'accounting clipping ledger noise plan releases sampling',
  'running': 'config_records files groupings progress report run_secrets '
  'training workdir',
  'studies': 'common main options private_run stages',
}
_ROOT = pathlib.Path(__file__).parent


def _is_quick(path: pathlib.Path) -> bool:
  if not path.is_relative_to(_ROOT):
    return False  # an example in a docstring
  names = _QUICK.get(str(path.parent.relative_to(_ROOT)), '').split()
  return names == ['*'] or path.stem.removesuffix('_test') in names


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks what is quick, and keeps a file with one worker.

  That makes what the tests of a file share once; tests that share a run across
  files name a group of their own.
  """
  for item in items:
    if _is_quick(item.path):
      item.add_marker(pytest.mark.quick)
    if item.get_closest_marker('xdist_group') is None:
      item.add_marker(pytest.mark.xdist_group(str(item.path)))

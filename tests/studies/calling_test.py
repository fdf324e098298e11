"""Studies called from Python: the flags, the errors, what comes back."""

import pytest

import fedjax_gen
from fedjax_gen.errors import InputError

# The tests of a system look at one run: one worker makes it.
pytestmark = pytest.mark.xdist_group('fedvae')


def _flags(args):
  """Flags of a command line as keywords."""
  pairs = [arg.removeprefix('--').partition('=') for arg in args]
  return {name: value for name, _, value in pairs}


def test_a_finished_run_has_metrics_models_and_pictures(finished, capsys):
  flags = _flags(finished.args)
  flags['methods'] = flags['methods'].split(',')
  done = fedjax_gen.run('fedvae', **flags)
  assert done.path == finished.workdir
  assert 'This run is finished' in capsys.readouterr().out
  assert done.metrics == done.summary['methods']
  assert done.report.is_file()
  assert {p.suffix for p in done.pictures} == {'.png'}
  images, labels = done.load().sample(3, seed=0)
  assert len(images) == len(labels) == 3
  lines = str(done).splitlines()
  assert lines[0].split() == list(done.metrics)
  page = done._repr_html_()
  assert page.count('<img') == min(4, len(done.pictures))
  assert 'test_elbo' in page


@pytest.mark.parametrize(
  'name, flags, message',
  [
    ('fedvea', {}, 'one of fedvae, fissionvae'),
    ('generate', {}, "got name='generate'"),
    ('fedvae', {'round': 3}, 'Did you mean --rounds'),
    ('fedvae', {'rounds': 0}, 'rounds'),
    ('fedvae', {'methods': ['federated', 'federated']}, 'once'),
  ],
)
def test_mistakes_are_those_of_the_command_line(name, flags, message):
  with pytest.raises(InputError, match=message):
    fedjax_gen.run(name, **flags)

"""A private run on a table, from the command line to a csv."""

import csv
import json
import re

import numpy as np

from fedjax_gen import encoding
from fedjax_gen.privacy import releases
from fedjax_gen.studies.command import program
from fedjax_gen.studies.tools import generate_samples
from tests.studies import systems


def test_a_private_table_charges_its_ranges_and_is_written_in_its_columns(
  launch, capsys
):
  run = launch(
    systems.FEDVAE, 'of_wine/wine', '--data=wine', '--methods=federated',
    '--privacy=record',
    '--epsilon=8', '--delta=1e-3', '--importance_samples=0',
  )  # fmt: skip
  assert run.status == 0, run.err
  released = run.workdir / 'release'
  ledger = releases.from_json((released / 'ledger.json').read_text())
  [history] = set(ledger.parts['federated'].histories)
  labels = [entry.label for entry in history]
  assert labels[0] == encoding.LABEL and len(labels) == 2
  assert history[0].event == encoding.event()
  # What was agreed with noise is what the model was trained on.
  saved = json.loads((released / 'models/federated.json').read_text())
  widths = {len(values) for values, _ in saved['codec']['knots']}
  assert max(widths) < 64  # few and wide cells, since there is noise
  assert (released / 'samples/samples_federated.png').exists()
  assert {'discriminative_score', 'test_elbo'} <= set(
    run.summary()['methods']['federated']
  )

  out = run.workdir.parent / 'made.csv'
  status = program.execute(
    generate_samples.PROGRAM,
    ['generate', f'--workdir={released}', '--num=6', f'--out={out}'],
  )
  assert status == 0, capsys.readouterr().err
  with out.open(newline='') as file:
    header, *rows = csv.reader(file)
  assert header[0] == 'alcohol' and header[-1] == 'grower'
  assert [row[-1] for row in rows] == [f'grower {i}' for i in (1, 2, 3)] * 2
  assert len({tuple(row) for row in rows}) == 6
  claim = json.loads(out.with_suffix('.privacy.json').read_text())
  assert claim['epsilon'] <= 8


def test_sites_of_a_table_are_groups_with_priors_and_decoders_of_their_own(
  launch, folder_of, capsys
):
  drawn = np.random.default_rng(0)
  lines = ['site,dose,kind']
  for site, shift in (('north', 0.0), ('south', 50.0)):
    for _ in range(60):
      lines.append(
        f'{site},{drawn.normal(shift):.3f},{"ab"[drawn.integers(2)]}'
      )
  path = folder_of(systems.FISSIONVAE) / 'patients.csv'
  path.write_text('\n'.join(lines))
  run = launch(
    systems.FISSIONVAE, 'of_a_table/run', f'--data={path}',
    '--client_column=site', '--methods=L+D', '--clients_per_group=',
    '--sampling=all', '--cohort_size=0', '--local_epochs=40', '--batch_size=16',
    '--gan_channels=4',
    '--families=mlp', '--importance_samples=0',
  )  # fmt: skip
  assert run.status == 0, run.err
  metrics = run.summary()['methods']['L+D']
  for score in ('discriminative_score', 'test_elbo'):
    assert {score, f'{score}/north', f'{score}/south'} <= set(metrics)
  # Groups are told apart by one look at the dose.
  assert metrics['group_leakage'] < 0.2
  assert (run.workdir / 'samples/samples_group_1.png').exists()
  page = (run.workdir / 'report.html').read_text()
  assert 'Generated examples' in page
  assert not re.search(r'(?<!data:)\bimages?\b', page.split('<body')[1])
  out = run.workdir.parent / 'made.csv'
  made = ['generate', f'--workdir={run.workdir}', '--num=8', '--group=south',
          f'--out={out}']  # fmt: skip
  status = program.execute(generate_samples.PROGRAM, made)
  assert status == 0, capsys.readouterr().err
  with out.open(newline='') as file:
    header, *rows = csv.reader(file)
  assert header[:2] == ['dose', 'kind'] and len(rows) == 8
  assert np.mean([float(row[0]) for row in rows]) > 30

  private = launch(
    systems.FISSIONVAE, 'of_a_private_table/run', f'--data={path}',
    '--client_column=site', '--methods=L', '--clients_per_group=',
    '--privacy=client', '--families=mlp',
  )  # fmt: skip
  assert private.status == 2 and '--encoding names public ones' in private.err

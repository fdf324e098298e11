"""A private run on a table, from the command line to a csv."""

import csv
import json

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

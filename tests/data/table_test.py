"""Tables: what is read, and that mistakes are named with their place."""

import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from fedjax_gen.data import sources
from fedjax_gen.data.tables import schema as schema_lib
from fedjax_gen.errors import InputError

pytest.importorskip('pandas', reason='tables need the extra `tables`')

_GOOD = [
  'site,age,income,sex,visit,smokes',
  'north,31,1200.5,f,2020-01-31,yes',
  'north,45,,m,2020-02-01,no',
  'south,62,0,m,1999-12-31,no',
  'south,18,88.25,f,2021-07-15,yes',
  'north,50,3e4,x,2020-03-01,no',
]


def _changed(**lines):
  """The good table with other lines, `line_3='...'`; None leaves one out."""
  found = dict(enumerate(_GOOD, 1))
  found |= {int(name.removeprefix('line_')): t for name, t in lines.items()}
  return [text for _, text in sorted(found.items()) if text is not None]


class TableTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def write(self, name, lines, encoding='utf-8'):
    path = self.folder / name
    path.write_bytes('\n'.join(lines).encode(encoding))
    return str(path)

  def load(self, lines=_GOOD, *, schema=None, name='t.csv', **options):
    if schema is not None:
      options['schema'] = self.write('schema.json', [schema])
    return sources.load(self.write(name, lines), **options)

  def test_columns_are_found_and_kept_in_their_units(self):
    source = self.load(
      client_column='site', label_column='smokes', test_fraction=0.2
    )
    self.assertEqual(source.kind.name, 'table')
    self.assertEqual(source.user_names, ('north', 'south'))
    self.assertEqual(source.class_names, ('no', 'yes'))
    self.assertTrue(source.names_clients)
    kinds = {c.name: (c.kind, c.missing) for c in source.schema.columns}
    self.assertEqual(
      kinds,
      {
        'age': ('integer', False),
        'income': ('number', True),
        'sex': ('category', False),
        'visit': ('date', False),
      },
    )
    self.assertEqual(source.schema.columns[2].categories, ('f', 'm', 'x'))
    rows = np.concatenate([source.train.inputs, source.test.inputs])
    rows = rows[rows[:, 0].argsort()]
    np.testing.assert_allclose(rows[:, 0], [18, 31, 45, 50, 62])
    np.testing.assert_allclose(rows[:, 1], [88.25, 1200.5, np.nan, 3e4, 0])
    np.testing.assert_allclose(rows[:, 2], [0, 0, 1, 2, 1])
    days = np.array(
      ['2021-07-15', '2020-01-31', '2020-02-01', '2020-03-01', '1999-12-31'],
      'datetime64[D]',
    )
    np.testing.assert_allclose(rows[:, 3], days.astype(int))

  def test_a_schema_corrects_what_was_found(self):
    schema = {
      'columns': {
        'age': {'kind': 'category'},
        'sex': {'categories': ['m', schema_lib.OTHER]},
        'visit': {'kind': 'ignore'},
        'income': {'low': 0, 'high': 1e5},
      }
    }
    toml = (
      '[columns.age]\nkind = "category"\n[columns.visit]\nkind = "ignore"\n'
      f'[columns.sex]\ncategories = ["m", "{schema_lib.OTHER}"]\n'
      '[columns.income]\nlow = 0\nhigh = 1e5\n'
    )
    found = self.load(schema=json.dumps(schema), client_column='site').schema
    path = self.write('schema.toml', [toml])
    again = sources.load(
      self.write('t.csv', _GOOD), schema=path, client_column='site'
    )
    self.assertEqual(found, again.schema)
    self.assertEqual(
      [c.name for c in found.columns], ['age', 'income', 'sex', 'smokes']
    )
    self.assertEqual(found.columns[0].kind, 'category')
    self.assertEqual(found.columns[1].high, 1e5)
    codes = np.sort(
      np.concatenate([again.train.inputs, again.test.inputs])[:, 2]
    )
    np.testing.assert_array_equal(codes, [0, 0, 1, 1, 1])
    self.assertEqual(schema_lib.from_record(found.to_record()), found)

  def test_a_file_a_client_is_the_table_with_a_column(self):
    header = _GOOD[0].split(',', 1)[1]
    rows = [line.split(',', 1) for line in _GOOD[1:]]
    for site in ('north', 'south'):
      lines = [header, *(rest for own, rest in rows if own == site)]
      self.write(f'{site}.csv', lines)
    source = sources.load(f'clients:{self.folder}')
    whole = self.load(name='all.tsv', lines=[
      line.replace(',', '\t') for line in _GOOD
    ], client_column='site')  # fmt: skip
    self.assertEqual(source.user_names, whole.user_names)
    pairs = [
      sorted(
        pair
        for part in (found.train, found.test)
        for pair in zip(part.users, part.inputs[:, 0], strict=True)
      )
      for found in (source, whole)
    ]
    self.assertEqual(*pairs)

  def test_clients_who_take_no_part_are_all_that_is_held_out(self):
    source = self.load(client_column='site', test_clients=['south'])
    self.assertEqual(set(source.train.users), {0})
    self.assertEqual(set(source.test.users), {1})
    with self.assertRaisesRegex(InputError, "did you mean 'south'"):
      self.load(client_column='site', test_clients=['sotuh'])

  def test_rows_are_the_steps_of_a_series_if_there_is_a_window(self):
    lines = ['who,what,x,y'] + [
      f'{who},{what},{step},{step / 2}'
      for who, what, steps in (('a', 0, 20), ('a', 1, 10), ('b', 0, 21))
      for step in range(steps)
    ]
    source = self.load(
      lines, client_column='who', label_column='what', window=5, stride=1,
      test_fraction=0.5,
    )  # fmt: skip
    self.assertEqual(source.kind.name, 'series')
    self.assertEqual(source.input_shape, (5, 2))
    for part in (source.train, source.test):
      # Within a window steps follow each other: no window crosses a border.
      np.testing.assert_array_equal(np.diff(part.inputs[..., 0]), 1)
    for user, label in ((0, 0), (0, 1), (1, 0)):
      seen, held = (
        set(p.inputs[(p.users == user) & (p.labels == label), :, 0].ravel())
        for p in (source.train, source.test)
      )
      self.assertFalse(seen & held)

  @parameterized.parameters(
    (_changed(line_4='south,62,0,m'), {}, 't.csv: line 4: expected 6 columns'),
    (_changed(line_1='site,age,age,sex,visit,smokes'), {}, 'columns 2 and 3'),
    (_changed(line_1='site,,income,sex,visit,smokes'), {}, 'name for column 2'),
    ([t.replace(',', ';') for t in _GOOD], {}, "separated by ',', got a semi"),
    (_changed(line_3='north,"45,1,m,2020-02-01,no'), {},
     't.csv: line 3: expected 6 columns .* a quote in it ends in line 6'),
    (_changed(line_2=_GOOD[1] + '\n', line_3='north,old,1,m,2020-02-01,no'),
     {}, "line 4: expected a whole number in column 'age', got 'old'"),
    (_changed(line_3='north,4\x005,1,m,2020-02-01,no'), {}, 'line 3: .* NUL'),
    (_GOOD, {'schema': '{"columns": {"age": {}, "age": {"kind": "ignore"}}}'},
     "schema.json: expected 'age' once"),
    ([''], {}, 'line 1'),
    (_GOOD[:1], {}, 'rows below the header'),
    (_GOOD, {'client_column': 'sit'}, "'sit'; did you mean 'site'"),
    (_GOOD, {'label_column': 'class'}, "label_column: expected .* 'class'"),
    (_changed(line_3=',45,,m,2020-02-01,no'), {'client_column': 'site'},
     "line 3: expected a client in column 'site'"),
    (_changed(line_3='north,old,1,m,2020-02-01,no'), {},
     "line 3: expected a whole number in column 'age', got 'old'"),
    (_changed(line_3='north,45,inf,m,2020-02-01,no'), {},
     "line 3: expected a number in column 'income', got 'inf'"),
    (_changed(line_3='north,45,1,m,01.02.2020,no'), {},
     "line 3: expected a date such as .* got '01.02.2020'"),
    (_changed(line_3='north,45,1,m,2020-13-01,no'), {},
     "line 3: expected a date such as .* got '2020-13-01'"),
    ([t + (',w' if t is _GOOD[0] else ',') for t in _GOOD], {},
     "column 'w': expected values, got none"),
    (_GOOD, {'schema': '{"columns": {"agee": {"kind": "integer"}}}'},
     "schema.json: expected a column among .*'agee'; did you mean 'age'"),
    (_GOOD, {'schema': '{"columns": {"age": {"kind": "int"}}}'},
     "schema.json: column 'age': expected kind to be one of"),
    (_GOOD, {'schema': '{"columns": {"age": {"type": "integer"}}}'},
     "expected fields among kind, .* got 'type'"),
    (_GOOD, {'schema': '{"columns": }'}, 'expected JSON.*column 13'),
    (_GOOD, {'schema': '{"age": "integer"}'}, 'expected .*columns'),
    (_GOOD, {'schema': '{"columns": {"sex": {"categories": ["f", "m"]}}}'},
     "line 6: expected column 'sex' to be one of f, m"),
    (_GOOD, {'schema': '{"columns": {"age": {"low": 20}}}'},
     "line 5: expected 20 to inf in column 'age'"),
    (_GOOD, {'schema': '{"columns": {"age": {"low": 9, "high": 2}}}'},
     'expected low < high'),
    (_GOOD, {'window': 3}, "column 'site': expected numbers as channels"),
    (_GOOD, {'stride': 3}, 'Expected a window with stride=3'),
    (_GOOD, {'test_clients': ['north']}, 'name their client'),
  )  # fmt: skip
  def test_a_mistake_is_named_with_its_place(self, lines, options, message):
    with self.assertRaisesRegex(InputError, message):
      self.load(lines, **options)

  def test_all_rows_of_a_person_are_on_one_side(self):
    lines = ['who,site,x', *(f'p{i % 40},s{i % 2},{i}' for i in range(200))]
    source = self.load(lines, client_column='site', person_column='who')
    self.assertEqual([c.name for c in source.schema.columns], ['x'])
    people = [set(p.inputs[:, 0] % 40) for p in (source.train, source.test)]
    self.assertLen(people[1], 8)
    self.assertFalse(people[0] & people[1])

  def test_an_insurance_study_has_six_sites(self):
    pytest.importorskip('statsmodels', reason='needs the extra `tables`')
    source = sources.load('rand_health')
    self.assertLen(source.user_names, 6)
    self.assertEqual(len(source.train.labels) + len(source.test.labels), 20190)
    self.assertLen(source.schema.columns, 43)

  def test_files_that_are_no_tables_are_refused(self):
    with self.assertRaisesRegex(InputError, 't.csv: expected text in UTF-8'):
      sources.load(self.write('t.csv', [*_GOOD, 'nör,1,1,m,,no'], 'latin-1'))
    with self.assertRaisesRegex(InputError, 't.parquet: cannot be read'):
      sources.load(self.write('t.parquet', _GOOD))
    with self.assertRaisesRegex(InputError, 'absent.csv: expected a file'):
      sources.load(str(self.folder / 'absent.csv'))
    with self.assertRaisesRegex(
      InputError, 'Expected a table .*client_column='
    ):
      sources.load('digits', client_column='site')
    (self.folder / 't.parquet').unlink()
    self.write('a.csv', _GOOD)
    self.write('t.csv', [line.rsplit(',', 1)[0] for line in _GOOD])
    with self.assertRaisesRegex(
      InputError, 't.csv: .*columns of a.csv.*smokes'
    ):
      sources.load(f'clients:{self.folder}')

  def test_texts_that_are_names_are_left_out_and_rare_ones_are_one_category(
    self,
  ):
    names = [f'{i % 3},p{i}' for i in range(200)]
    source = self.load(['code,name', *names])
    self.assertEqual([c.name for c in source.schema.columns], ['code'])
    self.assertIn("column 'name' left out", source.notes[0])
    days = [f'{i % 3},{1 + i % 28:02d}.03.2020' for i in range(90)]
    source = self.load(['code,day', *days])
    self.assertIn("'01.03.2020' looks like a date", source.notes[0])
    for written in ('"1,{:03d}"', '"{:d},5"', '{:d} %', '€ {:d}'):
      source = self.load(
        ['code,pay', *(f'{i % 3},{written.format(i)}' for i in range(200))]
      )
      self.assertIn('looks like a number', source.notes[0])
    towns = [f'{i % 3},t{min(i % 97, 80)}' for i in range(400)]
    source = self.load(['code,town', *towns])
    self.assertLen(source.schema.columns[1].categories, 50)
    self.assertIn(schema_lib.OTHER, source.schema.columns[1].categories)


if __name__ == '__main__':
  absltest.main()

"""Whatever is in the cells of a table: as many rows come out as went in, in their order, with their cells unchanged."""

import bz2
import csv
import gzip
import io
import lzma
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spreadsheet import write_workbook

from precalc.errors import MoleculeFileError
from precalc.molecules import text_tables
from precalc.molecules.reading import read_table

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
CELL = st.sampled_from(["", "CCO", '5"', '"', "a, b", "c;d", '"x" y', "two\nlines", " blanks ", "=1+1"]) | TEXT
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
CHARACTERS_OF_XML = re.compile("[\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")

Table = list[list[str]]


@st.composite
def tables(draw: st.DrawFn, cell: st.SearchStrategy[str] = CELL) -> Table:
    """A header with `smiles` somewhere, and rows of as many cells."""
    width, at = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=12))
    names = [f"own {number}" for number in range(width)]
    names[min(at, width - 1)] = "smiles"
    return [names, *rows]


anything = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read so few bytes at a time that rows lie across the blocks."""
    monkeypatch.setattr("precalc.molecules.file_content._BLOCK", 200)
    monkeypatch.setattr(text_tables, "_BLOCK", 7)


def assert_whole(path: Path, table: Table) -> None:
    names, *rows = table
    read = read_table(path)
    batches = list(read.batches())
    assert list(read.names) == names
    assert [list(cells) for batch in batches for cells in batch.cells()] == rows
    place = names.index("smiles")
    assert [text for batch in batches for text in batch.texts] == [row[place].strip() for row in rows]
    numbers = [number for batch in batches for number in batch.rows]
    assert numbers == sorted(set(numbers))


@anything
@given(tables(), st.sampled_from(",;|"), st.sampled_from(["\n", "\r\n"]), st.sampled_from([*PACK]), st.booleans())
@example([["smiles", "x"], ["CCO", 'a"b\n"'], ["C", ""]], ",", "\n", "", False)
def test_csv(tmp_path: Path, table: Table, delimiter: str, end: str, packing: str, quoted: bool) -> None:
    written = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(written, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)
    path = tmp_path / f"a.csv{packing}"
    path.write_bytes(PACK[packing](written.getvalue().encode()))
    assert_whole(path, table)


ONE_LINE = CELL.filter(lambda cell: not re.search(r'[\t\r\n]|^".*"$', cell))


@anything
@given(tables(ONE_LINE))
def test_text_with_tabs_and_no_quoting(tmp_path: Path, table: Table) -> None:
    if len(table[0]) == 1:
        table = [["name", *row] for row in table]
    path = tmp_path / "a.tsv"
    path.write_bytes("".join("\t".join(row) + "\n" for row in table).encode())
    assert_whole(path, table)


@anything
@given(tables())
def test_parquet(tmp_path: Path, table: Table) -> None:
    names, *rows = table
    columns = [pa.array(cells, pa.string()) for cells in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, names=names), tmp_path / "a.parquet")
    assert_whole(tmp_path / "a.parquet", table)


@pytest.mark.slow
@settings(anything, max_examples=60)
@given(tables(CELL.filter(CHARACTERS_OF_XML.fullmatch)))
def test_workbook(tmp_path: Path, table: Table) -> None:
    table = [["name", *table[0]], *(["x", *row] for row in table[1:])]
    write_workbook(tmp_path / "a.xlsx", {"Notes": [["see below"]], "Data": table})
    assert_whole(tmp_path / "a.xlsx", table)


def test_two_sheets_of_molecules_are_refused(tmp_path: Path) -> None:
    sheet = [["smiles"], ["CCO"]]
    write_workbook(tmp_path / "a.xlsx", {"Hits": sheet, "Leads": sheet})
    with pytest.raises(MoleculeFileError, match="the sheets 'Hits' and 'Leads' all hold molecules"):
        read_table(tmp_path / "a.xlsx")


def test_rows_keep_the_numbers_of_their_sheet(tmp_path: Path) -> None:
    write_workbook(tmp_path / "a.xlsx", {"S": [[], ["id", "SMILES"], ["1", "CCO"], [], ["2", "CCN"]]})
    assert [[*batch.rows] for batch in read_table(tmp_path / "a.xlsx").batches()] == [[3, 5]]
    write_workbook(tmp_path / "b.xlsx", {"S": [["Table S1"], ["id", "SMILES"], ["1", "CCO"]]})
    with pytest.raises(MoleculeFileError, match=r"row 1 'Table S1', '' is above the header 'id', 'SMILES' in row 2"):
        read_table(tmp_path / "b.xlsx")

"""Every value of every type comes back from every format as it was."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalc.errors import UsageError
from precalc.formats import LEADING, Block, JsonLinesFormat, Layout, ParquetFormat, find_format, read_json_blocks
from precalc.source import Column

COLUMNS = (
    Column("score", "float", "", ""),
    Column("status_predicted", "integer", "", ""),
    Column("a,b", "string", "", ""),
)
LAYOUT = Layout(COLUMNS)
NAMES = (*LEADING, "score", "status_predicted", "a,b")

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["", "=1+1", "'=1", "''-x", "-CH3", "'", "@", "\tx", "\rx", 'say "no"', "a,b", "\n"]
)
floats = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
rows = st.tuples(st.none() | floats, st.none() | integers, st.none() | texts)
lines = st.tuples(
    st.none() | st.just("BSYNRYMUTXBXSQ-UHFFFAOYSA-N"),
    texts,
    st.sampled_from(["found", "unreadable"]),
    st.none() | texts,
    st.sampled_from([None, "same", "other_form"]),
    st.none() | texts,
    st.none() | rows,
)
blocks = st.lists(st.lists(lines, min_size=1, max_size=4), max_size=3)


def to_blocks(wanted) -> list[Block]:
    return [Block(*map(list, zip(*block, strict=True))) for block in wanted]


def expected(wanted) -> list[list[object]]:
    return [[*line[:-1], *(line[-1] or (None,) * 3)] for block in wanted for line in block]


def write(name: str, wanted, path: Path) -> bytes:
    written = find_format(name, None)(LAYOUT, {"model": "eos3b5e"})
    partial = path / "partial"
    partial.write_bytes(written.start() + b"".join(map(written.encode, to_blocks(wanted))))
    written.finish(partial, path / "whole")
    assert [file.name for file in path.iterdir()] == ["whole"]
    return (path / "whole").read_bytes()


def parse_csv(content: str) -> list[list[object]]:
    """Read our CSV with its nulls, which the csv module does not tell from empty strings."""
    cells, rows, at = [], [], 0
    while at < len(content):
        if content[at] == '"':
            end = at + 1
            while content[end] != '"' or content[end : end + 2] == '""':
                end += 2 if content[end] == '"' else 1
            cells.append(content[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = min(i for i in (content.find(",", at), content.find("\n", at)) if i >= 0)
            cells.append(content[at:end] or None)
            at = end
        if content[at] == "\n":
            rows.append(cells)
            cells = []
        at += 1
        if content[at - 1] == "," and content[at : at + 1] == "\n":
            cells.append(None)
            rows.append(cells)
            cells = []
            at += 1
    return rows


def typed(row: list[object]) -> list[object]:
    *leading, score, number, label = row
    return [*leading, score and float(score), None if number is None else int(number), label]


@settings(max_examples=40, deadline=None)
@given(blocks)
def test_every_value_comes_back_from_csv_as_it_was(tmp_path_factory, wanted) -> None:
    content = write("csv", wanted, tmp_path_factory.mktemp("csv")).decode()
    header, *rows = parse_csv(content)
    assert tuple(header) == NAMES
    assert repr([typed(row) for row in rows]) == repr(expected(wanted))
    zipped = write("csv.gz", wanted, tmp_path_factory.mktemp("gz"))
    assert gzip.decompress(zipped).decode() == content
    # And as others read it.
    shown = list(csv.reader(io.StringIO(content, newline="")))[1:]
    assert shown == [["" if cell is None else cell for cell in row] for row in rows]


@settings(max_examples=40, deadline=None)
@given(blocks)
def test_only_formulas_differ_in_csv_for_spreadsheets(tmp_path_factory, wanted) -> None:
    exact, safe = (
        parse_csv(write(name, wanted, tmp_path_factory.mktemp("csv")).decode()) for name in ("csv", "spreadsheet")
    )
    for row in exact:
        for at, cell in enumerate(row):
            number = re.fullmatch(r"[+-]\d[\d.,]*(e[+-]?\d+)?", cell or "", re.IGNORECASE)
            if at not in (6, 7) and cell and cell[0] in "=+-@\t\r\n" and not number:
                row[at] = f"'{cell}"
    assert safe == exact


@settings(max_examples=40, deadline=None)
@given(blocks)
def test_every_value_comes_back_from_json_lines_as_it_was(tmp_path_factory, wanted) -> None:
    content = write("jsonl", wanted, tmp_path_factory.mktemp("jsonl")).decode()
    rows = [json.loads(line) for line in content.split("\n") if line]
    assert all(tuple(row) == NAMES for row in rows)
    assert repr([list(row.values()) for row in rows]) == repr(expected(wanted))


@settings(max_examples=40, deadline=None)
@given(blocks)
def test_every_value_comes_back_from_parquet_typed_as_it_was(tmp_path_factory, wanted) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    write("parquet", wanted, folder)
    table = pq.read_table(folder / "whole")
    assert [str(kind) for kind in table.schema.types] == [*["string"] * 6, "double", "int64", "string"]
    assert json.loads(table.schema.metadata[b"precalc"]) == {"model": "eos3b5e"}
    assert repr([list(row.values()) for row in table.to_pylist()]) == repr(expected(wanted))


@settings(max_examples=40, deadline=None)
@given(blocks)
def test_unfinished_json_lines_are_read_back(tmp_path_factory, wanted) -> None:
    path = tmp_path_factory.mktemp("blocks") / "partial"
    written = JsonLinesFormat(LAYOUT, {})
    path.write_bytes(written.start() + b"".join(map(written.encode, to_blocks(wanted))))
    read = [
        [*leading, *row]
        for block in read_json_blocks(path, LAYOUT)
        for leading, row in zip(block.leading(LAYOUT), block.rows, strict=True)
    ]
    assert repr(read) == repr(expected(wanted))


def test_the_format_is_the_files_suffix_or_is_named() -> None:
    assert find_format(None, Path("a.parquet")) is ParquetFormat
    assert find_format("parquet", Path("a.csv")) is ParquetFormat
    with pytest.raises(UsageError, match=r"a\.xls: .*\.csv, .*--format"):
        find_format(None, Path("a.xls"))
    with pytest.raises(UsageError, match=r"--format xls: .*jsonl"):
        find_format("xls", None)

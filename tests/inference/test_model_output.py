"""Reading the file that a model's `run.sh` wrote."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precalc_assets.columns import Column, public_name
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.output import read_output
from precalc_assets.platform_errors import ColumnsError
from precalc_assets.predictions.cells import format_record, read_records

SMILES = ("C", "CC", "CCC")


def columns(*names: str) -> tuple[Column, ...]:
    return tuple(Column(public_name(name), "string", "", "") for name in names)


def read(folder: Path, text: str | bytes, names: Sequence[str], smiles: Sequence[str] = SMILES) -> list[bytes]:
    path = folder / "output.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_output("eos9abc", path, columns(*names), smiles)


PLAIN = "a,b\n1,2\n3,\n5,6\n"
RECORDS = [b"1,2", b"3,", b"5,6"]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.rstrip("\n"),
        "\ufeff" + PLAIN,
        "b,a\n2,1\n,3\n6,5\n",
        "key,input,a,b\nX,C,1,2\nY,CC,3,\nZ,CCC,5,6\n",
        "a,smiles,b\n1,C,2\n3,CC,\n5,CCC,6\n",
        '"a", b\n1,2\n3,\n5,6\n',
        "a,b\n\n1,2\n3,\n\n5,6\n\n",
    ],
    ids=repr,
)
def test_values_are_taken_by_name_as_printed(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text, ["a", "b"]) == RECORDS


@pytest.mark.parametrize(
    ("cell", "printed"),
    [
        ('""', b'""'),
        ("", b""),
        ('"x, y"', b'"x, y"'),
        ('5" pipe', b'"5"" pipe"'),
        ('"5"" pipe"', b'"5"" pipe"'),
        ('"a"b', b'"""a""b"'),
        ('"two\nlines"', b'"two\nlines"'),
        ("µ", "µ".encode()),
    ],
)
def test_a_cell_keeps_its_text(tmp_path: Path, cell: str, printed: bytes) -> None:
    assert read(tmp_path, f"a,b\n1,{cell}\n", ["a", "b"], ["C"]) == [b"1," + printed]


@pytest.mark.parametrize("names", [["key", "input"], ["inchikey", "smiles", "a"], ["input"], ["smiles", "key"]])
def test_a_declared_column_is_an_output_whatever_its_name(tmp_path: Path, names: list[str]) -> None:
    rows = [[f"{name}{i}" for name in names] for i in range(3)]
    text = "\n".join(",".join(row) for row in [names, *rows])
    beside = "\n".join(",".join(row) for row in [["more", *names], *(["x", *row] for row in rows)])
    assert read(tmp_path, text, names) == [",".join(row).encode() for row in rows]
    with pytest.raises(ColumnsError, match="'more'"):
        read(tmp_path, beside, names)


def test_an_undeclared_input_column_must_equal_the_input(tmp_path: Path) -> None:
    text = "input,smiles,a\nC,x,1\nCC,y,2\nCCC,z,3\n"
    assert read(tmp_path, text, ["smiles", "a"]) == [b"x,1", b"y,2", b"z,3"]
    with pytest.raises(BatchError, match=r"other molecules than its input .column 'input'"):
        read(tmp_path, text, ["smiles", "a"], ["C", "CCC", "CC"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n1\n2\n3\n", "lacks the column 'b'"),
        ("a,b,c\n1,2,3\n", "has the column 'c'"),
        ("a,b,a\n1,2,3\n", "the column 'a' twice"),
        ("input,a,b,input\nC,1,2,C\n", "the column 'input' twice"),
    ],
)
def test_other_columns_are_the_model_s_fault(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ColumnsError, match=words):
        read(tmp_path, text, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (b"a,b\n\xff,1\n", "cannot be read"),
        ("a,b\n1,2\n", "1 rows for 3"),
        ("a,b\n" + "1,2\n" * 4, "4 rows for 3"),
    ],
    ids=repr,
)
def test_other_rows_fail_the_batch(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(BatchError, match=words):
        read(tmp_path, text, ["a", "b"])


@pytest.mark.parametrize("header", ["a,b", "b,a", "key,input,a,b", "a,b,smiles"])
@pytest.mark.parametrize(("cells", "word"), [(-1, "fewer"), (1, "more"), (5, "more")])
def test_a_misshapen_row_is_a_failure_of_its_molecule(tmp_path: Path, header: str, cells: int, word: str) -> None:
    good = {"a": "1", "b": "2", "key": "K", "input": "{}", "smiles": "{}"}
    row = ",".join(good[name] for name in header.split(","))
    bad = ",".join((row.split(",") + ["x"] * 5)[: row.count(",") + 1 + cells])
    text = "\n".join([header, row.format("C"), bad.format("CC"), row.format("CCC")])
    records = read(tmp_path, text, ["a", "b"])
    assert (records[0], records[2]) == (b"1,2", b"1,2")
    parsed = read_records(records, columns("a", "b"))
    assert parsed.typed.rows() == [("1", "2"), (None, None), ("1", "2")]
    assert parsed.misshapen == {1: f"the model printed a row with {word} cells than columns"}


def test_an_unclosed_quote_is_a_failure(tmp_path: Path) -> None:
    records = read(tmp_path, 'a,b\n1,2\n3,4\n5,"6\n', ["a", "b"])
    assert read_records(records, columns("a", "b")).misshapen == {2: "the model printed an unclosed quote"}


def test_an_empty_line_of_a_single_column_is_a_row(tmp_path: Path) -> None:
    assert read(tmp_path, "input,a\nC,1\nCC\nCCC,3\n", ["a"]) == [b"1", b"", b"3"]
    assert read(tmp_path, "a\n1\n\n3\n", ["a"]) == [b"1", b"", b"3"]


CELLS = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_well_formed_rows_are_kept_to_the_byte(tmp_path: Path, rows: list[tuple[str | None, str | None]]) -> None:
    records = [format_record(row) for row in rows]
    swapped = [b'"b",a', *(format_record(row[::-1]) for row in rows)]
    smiles = ["C"] * len(rows)
    assert read(tmp_path, b"\n".join([b"a,b", *records, b""]), ["a", "b"], smiles) == records
    assert read(tmp_path, b"\n".join([*swapped, b""]), ["a", "b"], smiles) == records

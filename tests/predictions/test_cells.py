"""Cells: text survives a CSV file unchanged, and numbers equal the printed ones."""

import struct
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn, describe_emptied, merge_emptied
from precalc_assets.predictions.cells import (
    count_emptied,
    format_record,
    parse_cells,
    read_cells,
    read_records,
    read_text_csv,
    split_first_cells,
    split_records,
)

FLOAT, INTEGER, STRING = (Column("x", kind, "", "") for kind in ("float", "integer", "string"))
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CELLS = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        [
            "",
            '"',
            '""',
            ",",
            "\n",
            "\r",
            "\r\n",
            "a\n\nb",
            " ",
            "NA",
            "nan",
            "null",
            "\ufeff",
            "\0",
            "'",
            "ü",
            "🧪",
            "x" * 5000,
        ]
    )
)
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
        lambda name: "\ufeff" not in name
    ),
    min_size=1,
    max_size=4,
    unique=True,
)


def text(cells: Sequence[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"x": cells}, {"x": pl.String()})


def parse(cells: Sequence[str | None], column: Column) -> tuple[list[object], dict[int, str]]:
    typed, invalid = parse_cells(text(cells), [column])
    return typed["x"].to_list(), {row: cells.why(row) for cells in invalid for row in cells.printed}


def write_csv(names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> bytes:
    return b"".join(format_record(cells) + b"\n" for cells in (names, *rows))


def bits(value: object) -> bytes:
    return struct.pack("<d", value)


@given(NAMES, st.data())
def test_text_nulls_and_empty_strings_survive_a_file(names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[CELLS] * len(names)), max_size=8))
    read = read_text_csv(write_csv(names, rows))
    assert read.columns == names
    assert read.rows() == rows


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS, CELLS), max_size=8))
def test_a_file_is_split_into_its_records(rows: list[tuple[str | None, ...]]) -> None:
    records = [format_record(cells) for cells in rows]
    assert split_records(b"".join(record + b"\n" for record in [b"a,b,c,d,e", *records])) == [b"a,b,c,d,e", *records]
    for cells, record in zip(rows, records, strict=True):
        assert split_first_cells(record) == (tuple(cell or "" for cell in cells[:3]), format_record(cells[3:]))


@pytest.mark.parametrize("record", [b"", b"a,b,c", b'a,"b,c,d', b'a,b"c,d,e'], ids=repr)
def test_a_record_of_fewer_than_four_cells_is_refused(record: bytes) -> None:
    with pytest.raises(ValueError, match="fewer than four cells"):
        split_first_cells(record)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=repr)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "byte order mark"])
def test_a_model_may_write_either_line_end_and_a_byte_order_mark(end: str, mark: str) -> None:
    content = mark + end.join(['a,"b c"', '1.0e-05,"two', 'lines"', ',""', "2.0, x "]) + end
    frame = read_text_csv(content.encode())
    assert frame.columns == ["a", "b c"]
    assert frame.rows() == [("1.0e-05", f"two{end}lines"), (None, ""), ("2.0", " x ")]


def test_an_empty_line_of_a_single_column_is_a_null() -> None:
    assert read_text_csv(b"x\n1\n\n3\n").rows() == [("1",), (None,), ("3",)]


def test_a_row_may_be_longer_than_a_megabyte() -> None:
    long = "x" * 3_000_000
    frame = read_text_csv(f'a,b\n1,"{long}"\n2,y\n'.encode())
    assert frame.rows() == [("1", long), ("2", "y")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"a,a\n1,2\n", "'a' twice"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8, ""),
        (b"a,b\n1,\xff\n", ""),
        (b"a,b\n1\n", ""),
        (b"a,b\n1,2,3\n", ""),
        (b"x" * 200_000, ""),
    ],
    ids=["nothing", "an empty line", "name twice", "PNG", "latin-1", "short row", "long row", "no line at all"],
)
def test_invalid_csv_is_a_value_error_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason or "."):
        read_text_csv(content)


@given(st.lists(INT64 | st.none(), max_size=10))
def test_any_integer_of_64_bits_is_read_exactly(numbers: list[int | None]) -> None:
    cells = [None if n is None else str(n) for n in numbers]
    assert parse(cells, INTEGER) == (numbers, {})


@given(st.lists(FLOATS | st.none(), max_size=10))
def test_any_float_is_read_to_the_last_bit(numbers: list[float | None]) -> None:
    values, problems = parse([None if x is None else repr(x) for x in numbers], FLOAT)
    assert problems == {}
    assert [None if x is None else bits(x) for x in values] == [None if x is None else bits(x) for x in numbers]


@given(FLOATS, st.sampled_from([".17g", ".17e", "r", ".20E"]))
def test_a_float_is_the_nearest_double_in_any_notation(number: float, notation: str) -> None:
    printed = repr(number) if notation == "r" else format(number, notation)
    (value,), problems = parse([f" {printed} "], FLOAT)
    assert problems == {}
    assert bits(value) == bits(float(printed))


@pytest.mark.parametrize(
    "printed",
    ["-0.0", "0", "-0", "5e-324", "2.2250738585072011e-308", "1e308", "-1e308", "1.7976931348623157e308", "1.0e-05",
     "1E5", "+1.5", ".5", "5.", "0.1000000000000000055511151231257827", "1e-400", "007.5", "1234567890123456789012345"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [[], ["NA"], ["1.5 "]], ids=["alone", "beside a null token", "beside a space"])
def test_odd_float_notations_are_parsed_as_in_python(printed: str, beside: list[str]) -> None:
    values, problems = parse([printed, *beside], FLOAT)
    assert problems == {}
    assert bits(values[0]) == bits(float(printed))


@given(st.integers(-(2**53), 2**53), st.sampled_from(["{}.0", "{}.", "{}.000", " {} ", "{}e0"]))
def test_an_integer_may_be_printed_as_a_float(number: int, notation: str) -> None:
    values, problems = parse([notation.format(number), "7", str(2**62 + 1)], INTEGER)
    assert (values, problems) == ([number, 7, 2**62 + 1], {})


@pytest.mark.parametrize("column", [FLOAT, INTEGER], ids=["float", "integer"])
@pytest.mark.parametrize(
    "cell", [None, "", "nan", "NaN", "NAN", "NA", "N/A", "<NA>", "null", "NULL", "None", " nan ", "  "], ids=repr
)
def test_notations_of_no_value_are_null_in_a_number_column(cell: str | None, column: Column) -> None:
    assert parse(["1", cell, "2"], column) == ([1, None, 2], {})
    assert parse([cell], column) == ([None], {})


@given(st.lists(CELLS, max_size=6))
def test_a_string_column_is_never_interpreted(cells: list[str | None]) -> None:
    assert parse(cells, STRING) == (cells, {})


@pytest.mark.parametrize(
    "cell", ["inf", "-inf", "Infinity", "1e400", "-1e400", "text", "1,5", "1.5.2", "0x1F", "1_000", "true", "1e", "--1"]
)
def test_a_cell_that_is_no_finite_number_is_null(cell: str) -> None:
    assert parse(["1.5", cell, "NA", "-2"], FLOAT) == (
        [1.5, None, None, -2.0],
        {1: f"x is {cell!r}, not a finite number"},
    )


@pytest.mark.parametrize(
    "cell",
    [str(2**63), str(-(2**63) - 1), "1" * 400, "1.5", "1e-3", "9007199254740994.0", "1e300", "inf", "text", "0x1F"],
)  # fmt: skip
def test_a_cell_that_is_no_int64_is_null(cell: str) -> None:
    values, problems = parse(["1", cell, "NA", str(2**63 - 1)], INTEGER)
    assert values == [1, None, None, 2**63 - 1]
    assert list(problems) == [1]
    assert problems[1].startswith(f"x is {cell!r}"[:60])
    assert problems[1].endswith("not an integer of 64 bits")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["1", "2.0", "NA", "bad", "inf", None, "1e400", "-0.0"]), max_size=12), st.booleans())
def test_a_bad_cell_changes_no_other_cell(cells: list[str | None], integer: bool) -> None:
    column = INTEGER if integer else FLOAT
    alone = [parse([cell], column) for cell in cells]
    values, problems = parse(cells, column)
    assert [repr(value) for value in values] == [repr(value[0]) for value, _ in alone]
    assert set(problems) == {i for i, (_, problem) in enumerate(alone) if problem}


PRINTED_CELLS = st.sampled_from(
    ["1", "-7", "2.0", "1e3", "", "NA", "nan", "bad", "inf", "-inf", "1e400", "-0.0", "5e-324", "0x1F", " 3 ", "+4",
     "007", "1_000", "true", ".5", "5.", str(2**63 - 1), str(2**63), "9007199254740993", "1,5", '"', "2020-01-01", None]
)  # fmt: skip


@given(st.lists(st.tuples(PRINTED_CELLS, PRINTED_CELLS, PRINTED_CELLS), max_size=5))
def test_a_file_is_typed_like_its_parsed_text(rows: list[tuple[str | None, ...]]) -> None:
    columns = [Column("f", "float", "", ""), Column("i", "integer", "", ""), Column("s", "string", "", "")]
    frame = pl.DataFrame(rows, dict.fromkeys("fis", pl.String()), orient="row")
    keyed = frame.select(pl.Series("key", [f"K{i}" for i in range(frame.height)], pl.String), pl.all())
    read, invalid = read_cells(write_csv(keyed.columns, keyed.rows()), columns, "key")
    expected, expected_invalid = parse_cells(frame, columns)
    alone = read_records([format_record(row) for row in rows], columns)
    assert repr(alone.typed.rows()) == repr(expected.rows())
    assert (alone.misshapen, alone.invalid) == ({}, expected_invalid)
    assert repr(read.drop("key").rows()) == repr(expected.rows())
    assert read.schema == {"key": pl.String(), **expected.schema}
    assert invalid == expected_invalid


def test_no_rows_are_typed_too() -> None:
    typed, invalid = parse_cells(text([]), [FLOAT])
    assert typed.schema == {"x": pl.Float64()}
    assert (typed.height, invalid) == (0, ())


TWO_FLOATS = [Column(name, "float", "", "") for name in ("a", "b")]


def test_a_row_without_a_value_fails_for_its_first_bad_cell() -> None:
    parsed = read_records([b"1,inf", b"x,y", b",", b"NA,z", b"1,2,3"], TWO_FLOATS)
    assert parsed.typed.rows() == [(1.0, None), *[(None, None)] * 4]
    assert parsed.failures(0.0) == {
        1: "a is 'x', not a finite number",
        2: "the model printed no value",
        3: "b is 'z', not a finite number",
        4: "the model printed a row with more cells than columns",
    }


def test_a_row_fails_below_the_required_share_of_values() -> None:
    parsed = read_records([b"1,2", b"1,inf", b",2"], TWO_FLOATS)
    assert parsed.failures(0.5) == {}
    short = "1 of 2 columns have a value, and 2 must have one (PRECALC_REQUIRED_VALUES)"
    assert parsed.failures(0.51) == {1: f"{short}: b is 'inf', not a finite number", 2: short}


@given(st.floats(0, 1), st.integers(1, 12), st.data())
def test_the_required_share_is_exact(required: float, width: int, data: st.DataObject) -> None:
    values = data.draw(st.integers(1, width))
    columns = [Column(f"c{i}", "integer", "", "") for i in range(width)]
    record = b",".join([b"1"] * values + [b""] * (width - values))
    share = data.draw(st.sampled_from([required, values / width]))
    assert bool(read_records([record], columns).failures(share)) == (values / width < share)


EMPTIED_CELLS = st.sampled_from(["1", "inf", "1e999", "high", "NA", None])


@given(st.lists(st.tuples(EMPTIED_CELLS, EMPTIED_CELLS), max_size=30), st.integers(1, 60))
def test_emptied_cells_are_counted_in_blocks_as_at_once(rows: list[tuple[str | None, ...]], size: int) -> None:
    records, smiles = [format_record(row) for row in rows], [f"C{row}" for row in range(len(rows))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("precalc_assets.predictions.cells._RECORD_BYTES", size)
        counted = count_emptied(smiles, records, TWO_FLOATS)
    expected = []
    for at, column in enumerate(TWO_FLOATS):
        bad = [(row[at], of) for row, of in zip(rows, smiles, strict=True) if row[at] not in ("1", "NA", None)]
        if bad:
            expected.append(EmptiedColumn(column=column.name, cells=len(bad), example=bad[0][0], smiles=bad[0][1]))
    assert counted == tuple(sorted(expected, key=lambda each: (-each.cells, each.column)))


def test_emptied_cells_are_described_by_column() -> None:
    counted = [
        EmptiedColumn(column=name, cells=cells, example="inf", smiles="CCO")
        for name, cells in [("a", 1), ("b", 2), ("a", 3), ("c", 1), ("d", 1)]
    ]
    assert describe_emptied(merge_emptied(counted)) == (
        "8 cells are not of their column's type and are emptied: 4 in a, such as 'inf' of CCO; 2 in b, such as 'inf' "
        "of CCO; 1 in c, such as 'inf' of CCO; 1 more columns"
    )

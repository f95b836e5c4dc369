"""Cells of CSV files: stored as the printed text, and parsed into the types that a model declares.

A model's output is expensive, so it is stored unchanged as records (lines of CSV) and parsed later.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from precalc_assets.columns import NULLS, Column
from precalc_assets.emptied_cells import EmptiedColumn, merge_emptied
from precalc_assets.predictions.parquet import ARROW_TYPES
from precalc_assets.storage import arrow_reader

DTYPES: dict[str, type[pl.DataType]] = {"float": pl.Float64, "integer": pl.Int64, "string": pl.String}

_BLOCK_BYTES = 16 << 20
"""Bytes that Arrow parses at a time. With fewer, a wide file has many chunks, which cost more than their cells."""

_RECORD_BYTES = 4 << 20
"""Bytes of records to parse at a time; parsing takes 5 times as much memory, with odd cells 10 times."""

_LARGEST_EXACT = 2**53
"""float64 has every integer up to here, so an integer printed as 2.0 is exactly 2."""

_EXAMPLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class InvalidCells:
    """The cells of a column, by row and as printed, that are not of its type. Their values are null."""

    column: Column
    printed: dict[int, str]

    def why(self, row: int) -> str:
        """Return what is wrong with the cell of a row."""
        kind = "a finite number" if self.column.type == "float" else "an integer of 64 bits"
        return f"{self.column.name} is {self.printed[row]!r:.{_EXAMPLE_LENGTH}}, not {kind}"


@dataclass(frozen=True, slots=True)
class ParsedRecords:
    """Records as typed columns, the problems of rows that cannot be matched to the columns, and the invalid cells."""

    typed: pl.DataFrame
    misshapen: dict[int, str]
    invalid: tuple[InvalidCells, ...]

    def failures(self, required_values: float) -> dict[int, str]:
        """Return why rows are no answers: they have no value, or values in less than this share of the columns."""
        least = max(1, math.ceil(required_values * self.typed.width - 1e-9))
        if sum(not column.null_count() for column in self.typed.iter_columns()) >= least:
            return self.misshapen
        values = self.typed.select(pl.sum_horizontal(pl.all().is_not_null())).to_series()
        causes = {row: cells.why(row) for cells in reversed(self.invalid) for row in cells.printed}
        failures = {}
        for row in (values < least).arg_true():
            failures[row] = causes.get(row, "the model printed no value")
            if values[row]:
                share = f"{values[row]} of {self.typed.width} columns have a value, and {least} must have one"
                failures[row] = f"{share} (PRECALC_REQUIRED_VALUES)" + (f": {causes[row]}" if row in causes else "")
        return failures | self.misshapen


def read_text_csv(content: bytes, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Read a CSV file with a header as text: an empty cell is null, a quoted empty one is the empty string.

    `columns` are the columns to read, all by default. Raises ValueError with the reason if the file is not CSV in
    UTF-8, has no header, or has a column name twice.
    """
    names = _header(content)
    if not names:
        raise ValueError("it is empty")
    if len(set(names)) < len(names):
        raise ValueError(f"it has the column {next(n for n in names if names.count(n) > 1)!r} twice")
    return _read_csv(content, names, dict.fromkeys(columns or names, pa.string()))


def read_cells(
    content: bytes, columns: Sequence[Column], key: str | None = None
) -> tuple[pl.DataFrame, tuple[InvalidCells, ...]]:
    """Read a model's columns from a CSV file; return the typed columns and their invalid cells, like `parse_cells`.

    `key` names a text column to put before them. Usually every cell is a plain number, and Arrow parses the types
    directly, in a tenth of the time. Raises ValueError like `read_text_csv`.
    """
    names = _header(content)
    keys = [key] if key else []
    types = {column.name: ARROW_TYPES[column.type] for column in columns}
    try:
        frame = _read_csv(content, names, {**dict.fromkeys(keys, pa.string()), **types})
    except pa.ArrowInvalid:
        text = read_text_csv(content, [*keys, *types])
        typed, invalid = parse_cells(text, columns)
        return (typed.insert_column(0, text[key]) if key else typed), invalid
    odd = set(infinite_columns(frame))
    if b"0x" in content or b"0X" in content:  # to Arrow, these are integers too
        odd |= {column.name for column in columns if column.type == "integer"}
    if not odd:
        return frame, ()
    again = [column for column in columns if column.name in odd]
    typed, invalid = parse_cells(read_text_csv(content, [column.name for column in again]), again)
    return frame.with_columns(typed.get_columns()), invalid


def infinite_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns of floats that have a value which is not finite.

    An expression of polars takes three times as long for 2,048 columns, and 10 KB for each.
    """
    floats = [column for column in frame.iter_columns() if column.dtype == pl.Float64]
    # Nulls are NaN here.
    return [c.name for c in floats if np.count_nonzero(np.isfinite(c.to_numpy())) + c.null_count() < len(c)]


def read_records(records: Sequence[bytes], columns: Sequence[Column]) -> ParsedRecords:
    """Parse records of a model's columns like `read_cells`.

    A record with a wrong number of cells or an unclosed quote is a problem of its row alone, whose values are null.
    Raises ValueError for other records that are not CSV in UTF-8.
    """
    try:
        # In a file of several columns, Arrow would skip an empty line.
        if (b"" not in records or len(columns) == 1) and not any(record.count(b'"') % 2 for record in records):
            typed, invalid = _read_joined(records, columns)
            return ParsedRecords(typed, {}, invalid)
    except ValueError:
        pass  # raised again below, unless misshapen records are the cause
    problems = _misshapen(records, len(columns))
    nothing = b"," * (len(columns) - 1)
    typed, invalid = _read_joined([nothing if i in problems else r for i, r in enumerate(records)], columns)
    return ParsedRecords(typed, problems, invalid)


def read_in_blocks(records: Sequence[bytes], columns: Sequence[Column]) -> Iterator[tuple[int, ParsedRecords]]:
    """Parse records some at a time, which bounds memory; yield the number of the first record with each block."""
    step = 1 + _RECORD_BYTES * len(records) // max(1, sum(map(len, records)))
    for start in range(0, len(records), step):
        yield start, read_records(records[start : start + step], columns)


def count_emptied(
    smiles: Sequence[str], records: Sequence[bytes], columns: Sequence[Column]
) -> tuple[EmptiedColumn, ...]:
    """Count the invalid cells in the records of these molecules."""
    return merge_emptied(
        EmptiedColumn(
            column=cells.column.name,
            cells=len(cells.printed),
            example=next(iter(cells.printed.values()))[:_EXAMPLE_LENGTH],
            smiles=smiles[start + next(iter(cells.printed))],
        )
        for start, parsed in read_in_blocks(records, columns)
        for cells in parsed.invalid
    )


def _read_joined(records: Sequence[bytes], columns: Sequence[Column]) -> tuple[pl.DataFrame, tuple[InvalidCells, ...]]:
    return read_cells(b"\n".join([format_header(tuple(columns)), *records, b""]), columns)


def _misshapen(records: Sequence[bytes], width: int) -> dict[int, str]:
    """Return the problems of records with an unclosed quote or without `width` cells, by row."""
    problems = {}
    for row, record in enumerate(records):
        n_cells = len(split_rows(record)[0]) if b'"' in record else record.count(b",") + 1
        if record.count(b'"') % 2:
            problems[row] = "the model printed an unclosed quote"
        elif n_cells != width:
            problems[row] = f"the model printed a row with {'fewer' if n_cells < width else 'more'} cells than columns"
    return problems


def misshapen_record(width: int, excess: int) -> bytes:
    """Return a record with `excess` cells more than `width`, fewer if negative, which `read_records` rejects.

    It represents a row whose cells cannot be matched to the columns. It has at least one cell, which for a single
    column means no value.
    """
    return b"," * max(0, width - 1 + excess)


@cache
def format_header(columns: tuple[Column, ...]) -> bytes:
    """Return the names of columns as a record. Cached, since a model may have thousands of columns."""
    return format_record(column.name for column in columns)


def format_record(cells: Iterable[str | None]) -> bytes:
    """Return cells as a record. None is an empty cell; the empty string and special characters are quoted."""
    return ",".join("" if cell is None else _quoted(cell) for cell in cells).encode()


def split_records(content: bytes) -> list[bytes]:
    """Split a file into its records, each ended by a line feed."""
    lines = content.removesuffix(b"\n").split(b"\n")
    if b'"' not in content:
        return lines
    records: list[bytes] = []
    open_quotes = False
    for line in lines:
        if open_quotes:
            records[-1] += b"\n" + line
        else:
            records.append(line)
        open_quotes ^= line.count(b'"') % 2 == 1
    return records


_NEEDS_QUOTES = re.compile('[,"\n\r]')
_QUOTED = rb'"[^"]*(?:""[^"]*)*"'
_CELL = rb"(" + _QUOTED + rb'|[^",]*)'
_ANY_CELL = re.compile(rb"((?:" + _QUOTED + rb")?[^,\r\n]*)(,|\r?\n|\r|\Z)")
_FIRST_CELLS = re.compile(_CELL + b"," + _CELL + b"," + _CELL + b",(.*)", re.DOTALL)


def split_first_cells(record: bytes) -> tuple[tuple[str, str, str], bytes]:
    """Split off a record's first three cells, unquoted. Raises ValueError if it has fewer than four cells."""
    found = _FIRST_CELLS.fullmatch(record)
    if not found:
        raise ValueError("a record has fewer than four cells")
    *cells, rest = found.groups()
    first, second, third = (_unquoted(cell.decode()) for cell in cells)
    return (first, second, third), rest


def split_rows(content: bytes) -> list[list[bytes]]:
    """Return the cells of a CSV file as printed, with their quotes. A quote within an unquoted cell is a character."""
    rows: list[list[bytes]] = [[]]
    for found in _ANY_CELL.finditer(content):
        cell, end = found.groups()
        rows[-1].append(cell)
        if not end:
            break
        if end != b",":
            rows.append([])
    if rows[-1] == [b""] and len(rows) > 1:
        rows.pop()
    return rows


def tidy_cell(cell: bytes) -> bytes:
    """Quote a printed cell like `format_record` if it has quotes that are not valid CSV.

    A cell that begins with an unclosed quote stays unchanged, so that `read_records` rejects it.
    """
    if b'"' not in cell or re.fullmatch(_QUOTED, cell) or (cell.startswith(b'"') and cell.count(b'"') % 2):
        return cell
    return format_record([cell.decode()])


def cell_text(cell: bytes) -> str:
    """Return the text of a printed cell, without surrounding quotes."""
    return _unquoted(tidy_cell(cell).decode())


def _quoted(cell: str) -> str:
    if cell and not _NEEDS_QUOTES.search(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _header(content: bytes) -> list[str]:
    try:
        return next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _read_csv(content: bytes, names: list[str], types: dict[str, pa.DataType]) -> pl.DataFrame:
    table = pacsv.read_csv(
        arrow_reader(content),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK_BYTES, use_threads=False),
        # With a single column, an empty line is a row without a value.
        parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pl.DataFrame(pl.from_arrow(table))


def parse_cells(text: pl.DataFrame, columns: Sequence[Column]) -> tuple[pl.DataFrame, tuple[InvalidCells, ...]]:
    """Parse cells into the columns' types: Float64, Int64 and String, with nulls.

    Floats are the doubles nearest to the text; integers are exact. Returns the typed columns, and for each column with
    cells that are not of its type or not finite, these cells. They are null.
    """
    # One expression per type: polars takes longer to build 2,048 expressions than to cast the cells.
    names = [column.name for column in columns]
    of_type = {kind: [column.name for column in columns if column.type == kind] for kind in DTYPES}
    cells = text.select(pl.col(names))
    typed = cells.with_columns(
        pl.col(of_type[kind]).cast(DTYPES[kind], strict=False) for kind in DTYPES if of_type[kind]
    )
    corrected, invalid = [], []
    for column in _doubtful(cells, typed, columns):
        printed = text[column.name]
        values, bad = _parse_number(printed.str.strip_chars(), column)
        corrected.append(values)
        if bad:
            invalid.append(InvalidCells(column, dict(zip(bad, printed[bad], strict=True))))
    return typed.with_columns(corrected), tuple(invalid)


def _doubtful(text: pl.DataFrame, typed: pl.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """Return the number columns in which a plain cast lost a cell or gave a non-finite number; usually none."""
    lost = typed.null_count().row(0)
    empty = text.null_count().row(0)
    floats = [c.name for c in columns if c.type == "float"]
    odd = typed.select((~pl.col(floats).is_finite()).any()).row(0, named=True) if floats else {}
    return [
        column
        for column, n_lost, n_empty in zip(columns, lost, empty, strict=True)
        if column.type != "string" and (n_lost > n_empty or odd.get(column.name))
    ]


def _parse_number(text: pl.Series, column: Column) -> tuple[pl.Series, list[int]]:
    """Parse a number column, with the usual notations of null. Returns its values and the rows that are invalid."""
    absent = text.is_null() | text.is_in(NULLS)
    number = text.zip_with(~absent, pl.Series([None], dtype=pl.String)).cast(pl.Float64, strict=False)
    if column.type == "float":
        values = number.zip_with(number.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64))
    else:
        whole = (number.round() == number) & (number.abs() <= _LARGEST_EXACT)
        as_printed = text.cast(pl.Int64, strict=False)
        values = as_printed.zip_with(
            as_printed.is_not_null() | ~whole.fill_null(False), number.cast(pl.Int64, strict=False)
        )
    return values, (values.is_null() & ~absent).arg_true().to_list()

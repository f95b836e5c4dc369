"""Cells of CSV files: read and written as text, unchanged, and parsed into the types that a model declares.

A model's text is the expensive thing and is kept as it was printed; types are a later reading of it.
"""

import csv
import io
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from precalc_assets.columns import Column
from precalc_assets.storage import arrow_reader

DTYPES: dict[str, type[pl.DataType]] = {"float": pl.Float64, "integer": pl.Int64, "string": pl.String}

NULLS = ("", "nan", "-nan", "NaN", "NAN", "NA", "N/A", "<NA>", "null", "NULL", "None")
"""What programs print in a number column for "no value": pandas, numpy, C, R, JSON and Python."""

ARROW_TYPES = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}

_BLOCK_BYTES = 16 << 20
"""What Arrow parses at a time: with less, a wide file falls into chunks, which cost more than their cells."""

_LARGEST_EXACT = 2**53
"""Up to here every integer is a float64, so that an integer printed as 2.0 is surely 2."""


def read_text_csv(content: bytes, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Read a CSV file with a header as text: an empty cell is null, a quoted empty one is the empty string.

    `columns` are those that are wanted, all of them by default. Raises ValueError with the reason for what is no CSV in
    UTF-8, has no header, or has a name twice.
    """
    names = _header(content)
    if not names:
        raise ValueError("it is empty")
    if len(set(names)) < len(names):
        raise ValueError(f"it has the column {next(n for n in names if names.count(n) > 1)!r} twice")
    return _read_csv(content, names, dict.fromkeys(columns or names, pa.string()))


def read_cells(content: bytes, key: str, columns: Sequence[Column]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read a text column and a model's columns out of a CSV file, parsed as `parse_cells` does; with its problems.

    Mostly every cell is a plain number, and the file is read into types at once, in a tenth of the time.
    """
    names = _header(content)
    types = {column.name: ARROW_TYPES[column.type] for column in columns}
    try:
        frame = _read_csv(content, names, {key: pa.string(), **types})
    except pa.ArrowInvalid:
        odd = True
    else:
        floats = [column.name for column in columns if column.type == "float"]
        odd = bool(floats) and not all(frame.select(pl.col(floats).is_finite().all()).row(0))
        if any(column.type == "integer" for column in columns):
            odd = odd or b"0x" in content or b"0X" in content  # to Arrow, these are integers too
    if not odd:
        return frame, {}
    text = read_text_csv(content, [key, *types])
    typed, problems = parse_cells(text, columns)
    return text.select(key).hstack(typed), problems


def _header(content: bytes) -> list[str]:
    try:
        return next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _read_csv(content: bytes, names: list[str], types: dict[str, pa.DataType]) -> pl.DataFrame:
    table = pacsv.read_csv(
        arrow_reader(content),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK_BYTES, use_threads=False),
        # An empty line is a row without its value where there is one column, and nothing where there are several.
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


def write_text_csv(text: pl.DataFrame) -> bytes:
    """Write columns of strings so that `read_text_csv` reads the same: all but nulls are quoted."""
    buffer = io.BytesIO()
    pacsv.write_csv(text.to_arrow(compat_level=pl.CompatLevel.oldest()), buffer)
    return buffer.getvalue()


def parse_cells(text: pl.DataFrame, columns: Sequence[Column]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Parse cells into the columns' types: Float64, Int64 and String, with nulls.

    Floats are the doubles nearest to the text; integers are exact. Returns the typed columns and, for each row with
    a cell that is not of its column's type, or not finite, a reason that names column and cell; such cells are null.
    """
    # One expression for all columns of a type: polars takes longer to build 2,048 of them than to cast the cells.
    names = [column.name for column in columns]
    of_type = {kind: [column.name for column in columns if column.type == kind] for kind in DTYPES}
    cells = text.select(pl.col(names))
    typed = cells.with_columns(
        pl.col(of_type[kind]).cast(DTYPES[kind], strict=False) for kind in DTYPES if of_type[kind]
    )
    problems: dict[int, str] = {}
    for column in _doubtful(cells, typed, columns):
        values, bad = _parse_number(text[column.name].str.strip_chars(), column)
        typed = typed.with_columns(values)
        kind = "a finite number" if column.type == "float" else "an integer of 64 bits"
        for row in bad:
            problems.setdefault(row, f"{column.name} is {text[column.name][row]!r:.60}, not {kind}")
    return typed, problems


def _doubtful(text: pl.DataFrame, typed: pl.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """Return the number columns in which a plain cast lost a cell or met one that is not finite; mostly none."""
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
    """Parse a column with all that programs print in it. Returns its values and the rows with something else."""
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

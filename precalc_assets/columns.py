"""A model's output columns, and reading them from its `run_columns.csv`. Standard library only.

A model may choose any column names, but the platform's files and frames have columns of their own (`OUR_NAMES`). So a
model's column of such a name is renamed everywhere, from parts to answers: `inchikey` becomes `inchikey_predicted`.
Only the model's own output keeps the declared name.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from precalc import source
from precalc.source import ColumnType, name_some
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.platform_errors import ModelError

OUR_NAMES = ("key", "input", "inchikey", "smiles", "library_smiles", "quarantine", "status", "reason", "match")
"""The platform's own columns in parts, Parquet, CSV and frames."""

_SUFFIX = "_predicted"
_CLASHING = re.compile(f"(?:{'|'.join(OUR_NAMES)})(?:{_SUFFIX})*", re.IGNORECASE)
"""Names to change. This includes names that already end in the suffix, so that the change can be undone. Case is
ignored, as in DuckDB and Athena."""

NULLS = ("", "nan", "-nan", "NaN", "NAN", "NA", "N/A", "<NA>", "null", "NULL", "None")
"""Texts for "no value" in a column of numbers, as printed by pandas, numpy, C, R, JSON and Python."""

_TYPES: dict[str, ColumnType] = {"float": "float", "integer": "integer", "string": "string", "other": "string"}
"""The type for each of the hub's types. Values of type "other" are kept as the printed text."""

_MOST_BYTES = 64 << 20
"""Limit on the size of a model's columns and of its example output."""


@dataclass(frozen=True, slots=True)
class Column(source.Column):
    """One output of a model, as its `run_columns.csv` declares it.

    `name` is none of `OUR_NAMES`. `type` says how values are shown (2 in a float column is 2.0), whatever dtype stores
    them.
    """

    @property
    def declared(self) -> str:
        """The name that the model declares and prints."""
        name = self.name.removesuffix(_SUFFIX)
        return name if _CLASHING.fullmatch(name) else self.name


def public_name(declared: str) -> str:
    """Return the platform's name for a column that a model declares.

    >>> public_name("score"), public_name("inchikey"), public_name("inchikey_predicted")
    ('score', 'inchikey_predicted', 'inchikey_predicted_predicted')
    """
    return declared + _SUFFIX if _CLASHING.fullmatch(declared) else declared


def read_columns(framework: Path) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Read `columns/run_columns.csv` (`name,type,direction,description`) in a model's framework folder.

    Returns the columns in the order of the model's output, and warnings. Blank rows are skipped. A type that the hub
    does not have is replaced by the type of the values in the model's example output. If the file is missing or empty,
    the columns are read from the example's header and values. Each of these gives a warning.

    Raises ModelError if neither file has columns, or if a column has no name or a duplicate one.
    """
    path = framework / "columns" / "run_columns.csv"
    warnings: list[str] = []
    blank: list[str] = []
    columns: dict[str, Column] = {}
    for line, row in enumerate(_read_rows(path), start=2):
        if not any(cell.strip() for cell in row.values() if isinstance(cell, str)):
            blank.append(f"line {line}")
            continue
        declared, kind, direction, description = ((row.get(field) or "").strip() for field in _FIELDS)
        name = public_name(declared)
        if not name:
            raise ModelError(f"{path}, line {line}: the column has no name; give {','.join(_FIELDS)}")
        if name in columns:
            raise ModelError(f"{path}, line {line}: the column name {declared!r} is taken; choose another")
        known = _TYPES.get(kind.lower())
        if known is None:
            known = _read_example(framework)[1].get(declared, "string")
            warnings.append(f"{path}, line {line}: {declared!r} has the unknown type {kind!r}; it is read as {known}")
        columns[name] = Column(name, known, direction, description)
    if columns and blank:
        warnings.append(f"{path}: blank rows are skipped ({name_some(blank)})")
    if not columns:
        what = "declares no columns" if path.exists() else "is missing"
        example, types = _read_example(framework)
        if not types:
            raise ModelError(f"{path} {what}, and {example} shows none; declare each column as {','.join(_FIELDS)}")
        warnings.append(f"{path} {what}: the columns are those of {example}, by its header and values")
        columns = {declared: Column(public_name(declared), kind, "", "") for declared, kind in types.items()}
    return tuple(columns.values()), tuple(warnings)


_FIELDS = ("name", "type", "direction", "description")


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none if it is missing. Raises ModelError if it is not CSV in UTF-8."""
    try:
        text = read_foreign(path, _MOST_BYTES).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error, ForeignFileError) as error:
        raise ModelError(f"{path} is not a CSV file in UTF-8: {error}") from None


def _read_example(framework: Path) -> tuple[Path, dict[str, ColumnType]]:
    """Return the path of a model's example output (in the hub's current or older template) and its columns' types."""
    places = [framework / folder / "run_output.csv" for folder in ("examples", "example")]
    path = next((place for place in places if place.exists()), places[0])
    rows = _read_rows(path)
    # `ersilia run` adds these columns before the model's.
    names = [name for name in (rows[0] if rows else {}) if name and name.strip().lower() not in ("key", "input")]
    return path, {name.strip(): _type_of(row.get(name) or "" for row in rows) for name in names}


def _type_of(cells: Iterable[str]) -> ColumnType:
    """Return the narrowest type of all cells that have a value."""
    values = [cell.strip() for cell in cells if cell.strip() not in NULLS]
    if not values:
        return "string"
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return "string"
    return "integer" if all(map(_INTEGER.fullmatch, values)) and max(map(abs, numbers)) < 2**63 else "float"


_INTEGER = re.compile(r"[+-]?\d+")


def columns_digest(release: str, columns: Sequence[Column]) -> str:
    """Return the digest (hex SHA-256) of a release's output columns: their names, types and order."""
    lines = [release, *(f"{column.name} {column.type}" for column in columns)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

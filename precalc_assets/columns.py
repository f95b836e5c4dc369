"""What a model's output column is, and how a model's `run_columns.csv` is read. Standard library only."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from precalc_assets.errors import ModelError

ColumnType = Literal["float", "integer", "string"]

RESERVED_NAMES = frozenset({"key", "input", "inchikey", "smiles", "quarantine"})
"""Names that our own files put beside a model's columns, so that no output column may have them."""

_TYPES: dict[str, ColumnType] = {"float": "float", "integer": "integer", "string": "string", "other": "string"}
"""The hub's types and ours: what is neither a number nor a string is kept as the text that was printed."""


_NAMED = 3
"""Columns that a message names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Column:
    """One output of a model, as its `run_columns.csv` declares it.

    `type` says how values are shown (2 in a float column is 2.0), whatever dtype they are stored in. `direction`
    is "high", "low" or empty: which way is more of the property.
    """

    name: str
    type: ColumnType
    direction: str
    description: str


def read_columns(path: Path) -> tuple[Column, ...]:
    """Read a model's `run_columns.csv` (`name,type,direction,description`), in the order of its output.

    Raises ModelError if the file is missing or empty, or if a column has an unknown type, a reserved name or the
    name of another.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: it has to declare the model's output columns") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"{path} is not a CSV file in UTF-8: {error}") from None
    columns: dict[str, Column] = {}
    for line, row in enumerate(rows, start=2):
        name, declared = (row.get("name") or "").strip(), (row.get("type") or "").strip().lower()
        if not name or declared not in _TYPES:
            raise ModelError(
                f"{path}, line {line}: name {name!r} with type {declared!r}; a name is needed, and a type "
                f"among {', '.join(_TYPES)}"
            )
        if name in RESERVED_NAMES or name in columns:
            raise ModelError(f"{path}, line {line}: the column name {name!r} is taken; choose another")
        columns[name] = Column(
            name, _TYPES[declared], (row.get("direction") or "").strip(), (row.get("description") or "").strip()
        )
    if not columns:
        raise ModelError(f"{path} declares no columns; it has to have name,type,direction,description")
    return tuple(columns.values())


def columns_digest(release: str, columns: Sequence[Column]) -> str:
    """Return a name (hex SHA-256) of what a release prints: another one for other names, types, or another order."""
    lines = [release, *(f"{column.name} {column.type}" for column in columns)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def name_columns(names: Sequence[str]) -> str:
    """Return the first of these columns by name, and how many more there are."""
    named = ", ".join(names[:_NAMED])
    return f"{named} and {len(names) - _NAMED:,} more" if len(names) > _NAMED else named

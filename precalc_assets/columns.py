"""What a model's output column is. How columns are read from a model's folder is not here: see `inference`."""

from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["float", "integer", "string"]

RESERVED_NAMES = frozenset({"key", "input", "inchikey", "smiles", "quarantine"})
"""Names that our own files put beside a model's columns, so that no output column may have them."""


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

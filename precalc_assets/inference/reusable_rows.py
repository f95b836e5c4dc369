"""Rows of parts that earlier runs have stored, found by their molecules."""

import gzip
import zlib
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import NamedTuple

import obstore
from obstore.store import ObjectStore

from precalc_assets.predictions import split_first_cells, split_records


class Row(NamedTuple):
    """A molecule's input SMILES, the reason of its quarantine (empty for an answer), and the record of its outputs."""

    smiles: str
    reason: str
    record: bytes


def parse_part(content: bytes) -> list[Row]:
    """Return the rows of a part's object. Raises ValueError if it is damaged."""
    try:
        _header, *records = split_records(gzip.decompress(content))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from None
    rows = []
    for record in records:
        (_key, smiles, reason), outputs = split_first_cells(record)
        rows.append(Row(smiles, reason, outputs))
    return rows


class ReusableRows:
    """Rows of objects in the store, by SMILES. Memory holds their places, and the contents of two objects."""

    def __init__(self, store: ObjectStore) -> None:
        self._places: dict[str, tuple[str, int]] = {}

        @lru_cache(maxsize=2)
        def read(name: str) -> list[Row]:
            return parse_part(bytes(obstore.get(store, name).bytes()))

        self._read = read

    def add(self, name: str, rows: Iterable[Row], wanted: Container[str], *, with_failures: bool) -> None:
        """Add the rows of an object whose molecules are `wanted`.

        Quarantined rows are added only `with_failures`, and never replace an answer.
        """
        for i, row in enumerate(rows):
            if row.smiles not in wanted:
                continue
            if not row.reason:
                self._places[row.smiles] = (name, i)
            elif with_failures:
                self._places.setdefault(row.smiles, (name, i))

    def __contains__(self, smiles: str) -> bool:
        return smiles in self._places

    def __getitem__(self, smiles: str) -> Row:
        name, index = self._places[smiles]
        return self._read(name)[index]

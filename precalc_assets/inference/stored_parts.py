"""Parts that runs have stored: their names, which tell their molecules and release, and their rows."""

import gzip
import io
import re
import zlib
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Self

from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.predictions.cells import split_first_cells, split_records

_NAME = re.compile(
    r"(?P<folder>.*/shard=(?P<shard>\d+))/part-(?P<index>\d+)"
    r"-n(?P<n_shards>\d+)-(?P<maker>[0-9a-f]{8})-(?P<molecules>[0-9a-f]{12})(?:-(?P<environment>[\w.-]+))?\.csv\.gz"
)


@dataclass(frozen=True, slots=True)
class PartName:
    """The parsed name of a part's object.

    `n_shards` is the library's number of shards: shard 07 of 50 has other molecules than shard 07 of 20. `maker` is a
    digest of the release with its columns, `molecules` one of the molecules. The name determines the content, so a
    killed run can resume after its last part, and the part of another release is never used by mistake. `environment`
    names the one in which the molecules were computed, empty if unknown: a killed run leaves no other record of it.
    """

    folder: str
    index: int
    shard: int
    n_shards: int
    maker: str
    molecules: str
    environment: str = ""

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Parse an object's name. Returns None if it is not the name of a part."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        index, shard, n_shards = (int(match[group]) for group in ("index", "shard", "n_shards"))
        return cls(
            match["folder"], index, shard, n_shards, match["maker"], match["molecules"], match["environment"] or ""
        )

    def __str__(self) -> str:
        digests = "-".join(filter(None, (self.maker, self.molecules, self.environment)))
        return f"{self.folder}/part-{self.index:04d}-n{self.n_shards}-{digests}.csv.gz"

    @property
    def anywhere(self) -> Self:
        """The same without the environment, by which parts of the same molecules are found."""
        return replace(self, environment="")

    def may_concern(self, shard: int, n_shards: int) -> bool:
        """Return whether this part may have molecules of shard `shard` of `n_shards`.

        Shard i of n covers the i-th of n equal ranges of the hash space (`sharding.shard_index`).
        """
        return (
            self.shard * n_shards < (shard + 1) * self.n_shards and shard * self.n_shards < (self.shard + 1) * n_shards
        )


def other_parts(store: ObjectStore, model: str, n_shards: int) -> tuple[PartName, ...]:
    """Return a model's parts from when the library had another number of shards."""
    folder = storage.raw_prefix(model, "").rpartition("/")[0]
    found = map(PartName.parse, sorted(storage.list_sizes(store, folder)))
    return tuple(name for name in found if name and name.n_shards != n_shards)


class Row(NamedTuple):
    """A molecule's input SMILES, the reason of its quarantine (empty for an answer), and the record of its outputs."""

    smiles: str
    reason: str
    record: bytes


_BLOCK_BYTES = 1 << 20
_MOST_BYTES = 2 << 30
"""Limit on the size of a part before compression: a thousand molecules with 2 MB each."""


def parse_part(content: bytes) -> list[Row]:
    """Return the rows of a part's object. Raises ValueError if it is damaged."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = io.BytesIO()
            while block := file.read(_BLOCK_BYTES):  # all at once would reserve the limit's memory first
                text.write(block)
                if text.tell() > _MOST_BYTES:
                    raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        _header, *records = split_records(text.getvalue())
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
            return parse_part(storage.read_object(store, name))

        self._read = read

    def add(self, name: str, rows: Iterable[Row], wanted: Container[str], *, with_failures: bool) -> None:
        """Add the `wanted` rows of an object. Quarantined ones, only `with_failures`, never replace an answer."""
        for i, row in enumerate(rows):
            if row.smiles not in wanted:
                continue
            if not row.reason:
                self._places[row.smiles] = (name, i)
            elif with_failures:
                self._places.setdefault(row.smiles, (name, i))

    def __contains__(self, smiles: str) -> bool:
        return smiles in self._places

    def environment(self, smiles: str) -> str:
        """Return the environment in which a molecule was computed, empty if unknown."""
        part = PartName.parse(self._places[smiles][0])
        return part.environment if part else ""

    def __getitem__(self, smiles: str) -> Row:
        name, index = self._places[smiles]
        return self._read(name)[index]

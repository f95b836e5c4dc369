"""The names of parts. A name identifies the part's molecules and the release that predicted them."""

import re
from dataclasses import dataclass
from typing import Self

from obstore.store import ObjectStore

from precalc_assets import storage

_NAME = re.compile(
    r"(?P<folder>.*/shard=(?P<shard>\d+))/part-(?P<index>\d+)"
    r"-n(?P<n_shards>\d+)-(?P<maker>[0-9a-f]{8})-(?P<molecules>[0-9a-f]{12})\.csv\.gz"
)


@dataclass(frozen=True, slots=True)
class PartName:
    """The parsed name of a part's object.

    `n_shards` is the library's number of shards: shard 07 of 50 has other molecules than shard 07 of 20. `maker` is a
    digest of the release with its columns, `molecules` one of the molecules. The name determines the content, so a
    killed run can resume after its last part, and the part of another release is never used by mistake.
    """

    folder: str
    index: int
    shard: int
    n_shards: int
    maker: str
    molecules: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Parse an object's name. Returns None if it is not the name of a part."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        index, shard, n_shards = (int(match[group]) for group in ("index", "shard", "n_shards"))
        return cls(match["folder"], index, shard, n_shards, match["maker"], match["molecules"])

    def __str__(self) -> str:
        return f"{self.folder}/part-{self.index:04d}-n{self.n_shards}-{self.maker}-{self.molecules}.csv.gz"

    def may_concern(self, shard: int, n_shards: int) -> bool:
        """Return whether this part may have molecules of shard `shard` of `n_shards`.

        Shard i of n covers the i-th of n equal ranges of the hash space (`sharding.shard_index`).
        """
        return (
            self.shard * n_shards < (shard + 1) * self.n_shards and shard * self.n_shards < (self.shard + 1) * n_shards
        )


def name_piece(part: str, molecules: str) -> str:
    """Name a smaller part that holds some molecules of a part; `molecules` is their digest."""
    return f"{part.rpartition('-')[0]}-{molecules}.csv.gz"


def other_parts(store: ObjectStore, model: str, n_shards: int) -> tuple[PartName, ...]:
    """Return a model's parts from when the library had another number of shards."""
    folder = storage.raw_prefix(model, "").rpartition("/")[0]
    found = map(PartName.parse, sorted(storage.list_sizes(store, folder)))
    return tuple(name for name in found if name and name.n_shards != n_shards)

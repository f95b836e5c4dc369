"""The names of parts, which say of an object without reading it whose molecules it is about, and what printed them."""

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
    """What the name of a part's object says.

    `n_shards` are the shards that the library had: shard 07 of 50 has none of the molecules of shard 07 of 20. `maker`
    and `molecules` are digests: of the release with its columns, and of the molecules. An object of that name was made
    from them and from nothing else, so that a killed run goes on behind it and another release's part is never taken.
    """

    folder: str
    index: int
    shard: int
    n_shards: int
    maker: str
    molecules: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return what an object's name says; None if it is not that of a part."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        index, shard, n_shards = (int(match[group]) for group in ("index", "shard", "n_shards"))
        return cls(match["folder"], index, shard, n_shards, match["maker"], match["molecules"])

    def __str__(self) -> str:
        return f"{self.folder}/part-{self.index:04d}-n{self.n_shards}-{self.maker}-{self.molecules}.csv.gz"

    def may_concern(self, shard: int, n_shards: int) -> bool:
        """Return whether molecules of this part may be in a shard of a library that has so many.

        Shard i of n has the i-th n-th of the hash space (`sharding.shard_index`).
        """
        return (
            self.shard * n_shards < (shard + 1) * self.n_shards and shard * self.n_shards < (self.shard + 1) * n_shards
        )


def name_piece(part: str, molecules: str) -> str:
    """Return the name of a smaller part with some molecules of a part, by their digest."""
    return f"{part.rpartition('-')[0]}-{molecules}.csv.gz"


def other_parts(store: ObjectStore, model: str, n_shards: int) -> tuple[PartName, ...]:
    """Return the parts of a model that were made when the library had another number of shards than this."""
    folder = storage.raw_prefix(model, "").rpartition("/")[0]
    found = map(PartName.parse, sorted(storage.list_sizes(store, folder)))
    return tuple(name for name in found if name and name.n_shards != n_shards)

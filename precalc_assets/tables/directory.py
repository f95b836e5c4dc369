"""The items of a table that say what is in it: one per shard, and one per version of the model's columns.

A shard's item, at the key `07`, is a `ShardRecord`: the `Directory` of the generation that readers see, and what
loads have begun or left to clean up, so that no page is ever stored that this item does not know of. The order in
which a load changes it is in `loader`. The item `columns` is the table's `TableColumns`; each generation names the
version that it was laid out by, which is at `columns/<digest>`.

Both are JSON, compressed by zstd, since 2,048 columns repeat themselves; an item's `version` is the digest of its
bytes. Standard library and zstandard only: the Lambda imports it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import groupby
from typing import Any

import zstandard

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.tables.pages import decompress
from precalc_assets.tables.store import Item

COLUMNS_KEY = "columns"


@dataclass(frozen=True, slots=True)
class PageSet:
    """The pages that one load writes for a shard, at the keys `07/<generation>.<load>/<page>`.

    `load` counts the shard's loads, so the same key is never used again: a deletion or a write that is still under
    way somewhere cannot hit the pages of another load, not even one of the same generation.
    """

    generation: str
    load: int
    n_pages: int

    def key(self, shard: str, page: int) -> str:
        """Return the key of one page."""
        return f"{shard}/{self.generation}.{self.load}/{page}"

    def keys(self, shard: str) -> Iterator[str]:
        """Yield the keys of all pages in order."""
        return (self.key(shard, page) for page in range(self.n_pages))


@dataclass(frozen=True, slots=True)
class Directory:
    """What a reader has to know of a loaded shard.

    `generation` is a digest of what the shard was built from. `dtypes` has one entry per column, see `pages`.
    `columns` is the digest of the `TableColumns` that the rows are laid out by. `release`, `shard_digest` and
    `built_from` are recorded as they were given, `loaded_at` is ISO 8601 in UTC. `page_bytes` sums the page items.
    `file_bytes` and `file_sha256` (hexadecimal) are of the file that the rows were read from, 0 and empty for the
    library's, which is not linked to; the same rows may come from another file, so they are no part of the generation.
    """

    generation: str
    load: int
    n_pages: int
    rows: int
    page_bytes: int
    n_shards: int
    dtypes: tuple[str, ...]
    columns: str
    release: str
    shard_digest: str
    built_from: str
    loaded_at: str
    file_bytes: int
    file_sha256: str

    @property
    def pages(self) -> PageSet:
        """The pages that hold the shard's rows."""
        return PageSet(self.generation, self.load, self.n_pages)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The item of a shard.

    `loads` counts the loads that were begun. `current` is what readers see, None before the first load ends.
    `previous` is the generation before it, kept for readers that have read this item a moment ago. `pending` is the
    load that is under way, or was when its process died. `garbage` is to be deleted. `publish` says that the columns
    of `current` are still to be made the table's.
    """

    loads: int = 0
    current: Directory | None = None
    previous: PageSet | None = None
    pending: PageSet | None = None
    garbage: tuple[PageSet, ...] = ()
    publish: bool = False

    def claimed(self, generation: str, n_pages: int) -> "ShardRecord":
        """Return the record as a new load begins; one that was under way is taken over and its pages are garbage."""
        return replace(
            self,
            loads=self.loads + 1,
            pending=PageSet(generation, self.loads + 1, n_pages),
            garbage=self.garbage + ((self.pending,) if self.pending else ()),
        )

    def flipped(self, directory: Directory, *, publish: bool) -> "ShardRecord":
        """Return the record as the load under way ends: the generation before last becomes garbage."""
        return replace(
            self,
            current=directory,
            previous=self.current.pages if self.current else None,
            pending=None,
            garbage=self.garbage + ((self.previous,) if self.previous else ()),
            publish=self.publish or publish,
        )

    def of_file(self, generation: str, file_bytes: int, file_sha256: str) -> "ShardRecord":
        """Return the record with the file that the same rows were read from now, if readers see this generation."""
        if not self.current or self.current.generation != generation:
            return self
        return replace(self, current=replace(self.current, file_bytes=file_bytes, file_sha256=file_sha256))

    def cleaned(self) -> "ShardRecord":
        """Return the record with nothing left to do."""
        return replace(self, garbage=(), publish=False)

    def to_item(self, shard: str) -> Item:
        """Return the item to store at the shard's key."""
        fields = asdict(self)
        if self.current:
            fields["current"]["dtypes"] = [(dtype, len(list(run))) for dtype, run in groupby(self.current.dtypes)]
        return _to_item(shard, fields)

    @classmethod
    def from_item(cls, item: Item) -> "ShardRecord":
        """Return the record that an item holds.

        Raises TableError when the item is damaged.
        """
        with _fields(item) as fields:
            current = fields["current"]
            if current:
                dtypes = tuple(dtype for dtype, count in current["dtypes"] for _ in range(count))
                current = Directory(**{**current, "dtypes": dtypes})
            return cls(
                loads=fields["loads"],
                current=current,
                previous=_page_set(fields["previous"]),
                pending=_page_set(fields["pending"]),
                garbage=tuple(PageSet(**pages) for pages in fields["garbage"]),
                publish=fields["publish"],
            )


@dataclass(frozen=True, slots=True)
class TableColumns:
    """What all shards of a table share: the model, how many shards there are, and the columns of a row."""

    model: str
    n_shards: int
    columns: tuple[Column, ...]

    @property
    def digest(self) -> str:
        """The version of the item that holds these columns."""
        return self.to_item(COLUMNS_KEY).version

    def to_item(self, key: str) -> Item:
        """Return the item to store at a key: `columns`, or `columns_key(digest)`."""
        columns = [(c.name, c.type, c.direction, c.description) for c in self.columns]
        return _to_item(key, {"model": self.model, "n_shards": self.n_shards, "columns": columns})

    @classmethod
    def from_item(cls, item: Item) -> "TableColumns":
        """Return the columns that an item holds.

        Raises TableError when the item is damaged.
        """
        with _fields(item) as fields:
            columns = tuple(Column(*column) for column in fields["columns"])
            return cls(fields["model"], fields["n_shards"], columns)


def columns_key(digest: str) -> str:
    """Return the key of one version of the columns."""
    return f"{COLUMNS_KEY}/{digest}"


def _page_set(fields: dict[str, Any] | None) -> PageSet | None:
    return PageSet(**fields) if fields else None


def _to_item(key: str, fields: dict[str, Any]) -> Item:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    # The digest is of the text, so that it does not change with the version of zstd.
    return Item(key, zstandard.ZstdCompressor(write_checksum=True).compress(text), sha256(text).hexdigest()[:16])


@contextmanager
def _fields(item: Item) -> Iterator[dict[str, Any]]:
    """Give what an item says. Raises TableError when it is damaged, and when the block misses something in it."""
    text = decompress(item.value)
    try:
        yield json.loads(text)
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"item {item.key!r} of the table is not as this version of precalc writes it; run `precalc drop` for the"
            " model, then load it again"
        ) from error

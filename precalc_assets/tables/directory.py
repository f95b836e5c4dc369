"""The items that describe a table: one per shard, and one per version of the model's columns.

A shard's item, at the key `07`, is a `ShardRecord`. It holds the `Directory` of the generation that readers see, and
the pages that loads have begun to write or have yet to delete, so it names every stored page. `loader` documents the
order in which a load changes it. The item `columns` holds the table's `TableColumns`. Each generation names its own
version of the columns, stored at `columns/<digest>`.

Both are JSON, compressed by zstd because the text of 2,048 columns is repetitive. An item's `version` is the digest of
the JSON. Standard library and zstandard only: the Lambda imports this module.
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

    `load` counts the shard's loads, so no key is ever reused: a late write or deletion cannot hit the pages of another
    load, even one of the same generation.
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
    """What a reader needs to know about a loaded shard.

    `generation` is a digest of the load's inputs. `dtypes` has one entry per column, see `pages`. `columns` is the
    digest of the rows' `TableColumns`. `release`, `shard_digest` and `built_from` are recorded as the caller gave them.
    `loaded_at` is ISO 8601 in UTC. `page_bytes` is the total size of the page items. `file_bytes` and `file_sha256`
    (hexadecimal) describe the file that holds the rows; they are 0 and empty for the library, whose files are not
    linked to. They are not part of the generation, since another file can hold the same rows.
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

    `loads` counts the loads begun so far. `current` is the generation that readers see, None before the first load
    ends. `previous` is the generation before it, kept for readers that hold an older copy of this item. `pending` is
    the load under way, or one whose process died. `garbage` lists pages to delete. `publish` is true while the columns
    of `current` have yet to become the table's.
    """

    loads: int = 0
    current: Directory | None = None
    previous: PageSet | None = None
    pending: PageSet | None = None
    garbage: tuple[PageSet, ...] = ()
    publish: bool = False

    def claimed(self, generation: str, n_pages: int) -> "ShardRecord":
        """Return the record as a new load begins. The pages of a pending load become garbage."""
        return replace(
            self,
            loads=self.loads + 1,
            pending=PageSet(generation, self.loads + 1, n_pages),
            garbage=self.garbage + ((self.pending,) if self.pending else ()),
        )

    def flipped(self, directory: Directory, *, publish: bool) -> "ShardRecord":
        """Return the record as the pending load ends. The generation before last becomes garbage."""
        return replace(
            self,
            current=directory,
            previous=self.current.pages if self.current else None,
            pending=None,
            garbage=self.garbage + ((self.previous,) if self.previous else ()),
            publish=self.publish or publish,
        )

    def of_file(self, generation: str, file_bytes: int, file_sha256: str) -> "ShardRecord":
        """Return the record with this size and digest of the rows' file, if readers see this generation."""
        if not self.current or self.current.generation != generation:
            return self
        return replace(self, current=replace(self.current, file_bytes=file_bytes, file_sha256=file_sha256))

    def cleaned(self) -> "ShardRecord":
        """Return the record with no garbage, and no columns to publish."""
        return replace(self, garbage=(), publish=False)

    def to_item(self, shard: str) -> Item:
        """Return the item to store at the shard's key."""
        fields = asdict(self)
        if self.current:
            fields["current"]["dtypes"] = [(dtype, len(list(run))) for dtype, run in groupby(self.current.dtypes)]
        return _to_item(shard, fields)

    @classmethod
    def from_item(cls, item: Item) -> "ShardRecord":
        """Return the record that an item holds. Raises TableError when the item is damaged."""
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
    """What all shards of a table share: the model, the number of shards, and the columns of a row."""

    model: str
    n_shards: int
    columns: tuple[Column, ...]

    @property
    def digest(self) -> str:
        """The `version` of the item that holds these columns."""
        return self.to_item(COLUMNS_KEY).version

    def to_item(self, key: str) -> Item:
        """Return the item to store at a key: `columns`, or `columns_key(digest)`."""
        columns = [(c.name, c.type, c.direction, c.description) for c in self.columns]
        return _to_item(key, {"model": self.model, "n_shards": self.n_shards, "columns": columns})

    @classmethod
    def from_item(cls, item: Item) -> "TableColumns":
        """Return the columns that an item holds. Raises TableError when the item is damaged."""
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
    # Hash the text, not the frame: the frame depends on the version of zstd.
    return Item(key, zstandard.ZstdCompressor(write_checksum=True).compress(text), sha256(text).hexdigest()[:16])


@contextmanager
def _fields(item: Item) -> Iterator[dict[str, Any]]:
    """Yield an item's JSON. Raises TableError when it is damaged, or when the block finds a field missing or wrong."""
    text = decompress(item.value)
    try:
        yield json.loads(text)
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"item {item.key!r} of the table has another format than this version of precalc writes; run `precalc drop`"
            " for the model, then load it again"
        ) from error

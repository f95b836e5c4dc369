"""The items that describe a table: one per shard, and one per version of the model's columns.

A shard's item, at the key `07`, is a `ShardRecord`. It holds the `Directory` of the generation that readers see, and
the pages that loads have begun to write or have yet to delete, so it names every stored page. `loader` documents the
order in which a load changes it. The item `columns` holds the table's `TableColumns`. Each generation names its own
version of the columns, stored at `columns/<digest>`.

Both are JSON, compressed by zstd because the text of 2,048 columns is repetitive. An item's `version` is the digest of
the JSON. The Lambda imports this module.
"""

from collections.abc import Iterator
from dataclasses import astuple
from hashlib import sha256
from typing import Annotated, TypeVar

import zstandard
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.tables.pages import DTYPES, FORMAT_VERSION, decompress
from precalc_assets.tables.store import Item

COLUMNS_KEY = "columns"

_MOST_COUNTED = 1 << 20
"""The most pages of a shard, and shards of a table, that a reader believes in."""

_Count = Annotated[int, Field(ge=0, le=1 << 62)]
_PageCount = Annotated[int, Field(ge=0, le=_MOST_COUNTED)]
_ShardCount = Annotated[int, Field(gt=0, le=_MOST_COUNTED)]
_Dtype = Annotated[str, Field(pattern=rf"^({'|'.join(DTYPES)})\??$")]

_STRICT = ConfigDict(strict=True, extra="forbid")

_T = TypeVar("_T")


def _check_format(number: int) -> int:
    if number != FORMAT_VERSION:
        raise ValueError("its pages have another format")
    return number


def _by_name(column: object) -> object:
    return dict(zip(_FIELDS, column, strict=True)) if isinstance(column, list) else column


_FIELDS = ("name", "type", "direction", "description")
_ListedColumn = Annotated[Column, BeforeValidator(_by_name), PlainSerializer(astuple)]
"""A column, stored without the names of its fields, which would take a write unit more for 2,048 columns."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class PageSet:
    """The pages that one load writes for a shard, at the keys `07/<generation>.<load>/<page>`.

    `load` counts the shard's loads, so no key is ever reused: a late write or deletion cannot hit the pages of another
    load, even one of the same generation.
    """

    generation: str
    load: _Count
    n_pages: _PageCount

    def key(self, shard: str, page: int) -> str:
        """Return the key of one page."""
        return f"{shard}/{self.generation}.{self.load}/{page}"

    def keys(self, shard: str) -> Iterator[str]:
        """Yield the keys of all pages in order."""
        return (self.key(shard, page) for page in range(self.n_pages))


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Origin:
    """Where a shard's rows come from: their release, the library's shard, and the digest of their source.

    `file_bytes` and `file_sha256` (hexadecimal) describe the file that holds the rows; they are 0 and empty for the
    library, whose files are not linked to. They are not part of the generation, since another file can hold the same
    rows.
    """

    release: str
    shard_digest: str
    built_from: str
    file_bytes: _Count = 0
    file_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Directory(Origin):
    """What a reader needs to know about a loaded shard.

    `generation` is a digest of the load's inputs. `format` is the pages' `FORMAT_VERSION`. `dtypes` has one entry per
    column, see `pages`. `columns` is the digest of the rows' `TableColumns`. `loaded_at` is ISO 8601 in UTC.
    `page_bytes` is the total size of the page items.
    """

    generation: str
    load: _Count
    format: Annotated[int, AfterValidator(_check_format)]
    n_pages: _PageCount
    rows: _Count
    page_bytes: _Count
    n_shards: _Count
    dtypes: tuple[_Dtype, ...]
    columns: str
    loaded_at: str

    @property
    def pages(self) -> PageSet:
        """The pages that hold the shard's rows."""
        return PageSet(self.generation, self.load, self.n_pages)


@dataclass(frozen=True, slots=True, config=_STRICT)
class ShardRecord:
    """The item of a shard.

    `loads` counts the loads begun so far. `current` is the generation that readers see, None before the first load
    ends. `previous` is the generation before it, kept for readers that hold an older copy of this item. `pending` is
    the load under way, or one whose process died. `garbage` lists pages to delete. `publish` is true while the columns
    of `current` have yet to become the table's.
    """

    loads: _Count = 0
    current: Directory | None = None
    previous: PageSet | None = None
    pending: PageSet | None = None
    garbage: tuple[PageSet, ...] = ()
    publish: bool = False

    def to_item(self, shard: str) -> Item:
        """Return the item to store at the shard's key."""
        return _to_item(shard, _RECORD.dump_json(self))

    @classmethod
    def from_item(cls, item: Item) -> "ShardRecord":
        """Return the record that an item holds. Raises TableError when the item is damaged."""
        return _from_item(item, _RECORD)


@dataclass(frozen=True, slots=True, config=_STRICT)
class TableColumns:
    """What all shards of a table share: the model, the number of shards, and the columns of a row."""

    model: str
    n_shards: _ShardCount
    columns: tuple[_ListedColumn, ...]

    @property
    def digest(self) -> str:
        """The `version` of the item that holds these columns."""
        return self.to_item(COLUMNS_KEY).version

    def to_item(self, key: str) -> Item:
        """Return the item to store at a key: `columns`, or `columns_key(digest)`."""
        return _to_item(key, _COLUMNS.dump_json(self))

    @classmethod
    def from_item(cls, item: Item) -> "TableColumns":
        """Return the columns that an item holds. Raises TableError when the item is damaged."""
        return _from_item(item, _COLUMNS)


_RECORD = TypeAdapter(ShardRecord)
_COLUMNS = TypeAdapter(TableColumns)


def columns_key(digest: str) -> str:
    """Return the key of one version of the columns."""
    return f"{COLUMNS_KEY}/{digest}"


def _to_item(key: str, text: bytes) -> Item:
    # Hash the text, not the frame: the frame depends on the version of zstd.
    return Item(key, zstandard.ZstdCompressor(write_checksum=True).compress(text), sha256(text).hexdigest()[:16])


def _from_item(item: Item, kind: TypeAdapter[_T]) -> _T:
    text = decompress(item.value)
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise TableError(
            f"item {item.key!r} of the table has another format than this version of precalc writes; run `precalc drop`"
            " for the model, then load it again"
        ) from error

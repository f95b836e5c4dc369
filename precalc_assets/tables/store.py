"""The key-value store: its protocol, its items, and the units and dollars that DynamoDB charges for them.

The implementations are in `sqlite` and `dynamodb`, the contents of items in `pages` and `directory`. Standard library
only: the Lambda imports this module.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from precalc_assets.platform_errors import MissingTableError

LIBRARY = "library"
REGISTRY = "models"
"""The tables that belong to no model: SMILES by InChIKey, and one card per model."""

# Amazon DynamoDB Developer Guide, "Read and write operations" and "Quotas in Amazon DynamoDB".
MAX_ITEM_BYTES = 400 * 1024
"""The largest item of DynamoDB: the total bytes of its attributes' names and values."""
WRITE_UNIT_BYTES = 1024
"""One write unit pays for each started KB of an item, alone or in a batch."""
READ_UNIT_BYTES = 4096
"""One read unit pays for each started 4 KB of an item; an eventually consistent read takes half a unit."""

# Amazon DynamoDB pricing, us-east-1, on-demand capacity, standard table class; as of November 2026.
DOLLARS_PER_WRITE_UNIT = 0.625 / 1_000_000
DOLLARS_PER_GB_MONTH = 0.25
GB = 1 << 30
ITEM_OVERHEAD_BYTES = 100
"""Bytes charged for an item's storage on top of its size (Developer Guide, "DynamoDB item sizes and formats")."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a table.

    `put_if` compares `version`, a string of the writer's choice. If it is empty, the stored item has no such attribute.
    """

    key: str
    value: bytes
    version: str = ""


@dataclass(frozen=True, slots=True)
class Consumed:
    """The cost of operations in DynamoDB's units, and the number of items written or deleted."""

    write_units: float = 0
    read_units: float = 0
    items: int = 0

    def __add__(self, other: "Consumed") -> "Consumed":
        return Consumed(
            self.write_units + other.write_units, self.read_units + other.read_units, self.items + other.items
        )


class Found(dict[str, Item]):
    """The items that a read found, by key."""

    def __init__(self, items: Iterable[Item], consumed: Consumed | Callable[[], Consumed]) -> None:
        super().__init__([(item.key, item) for item in items])
        self._consumed = consumed

    @property
    def consumed(self) -> Consumed:
        """The cost of the read, including keys without an item."""
        # Counted on demand: readers do not need it, and counting takes longer than reading.
        return self._consumed() if callable(self._consumed) else self._consumed


@dataclass(frozen=True, slots=True)
class ConditionalPut:
    """The result of `put_if`, true when the item was written. A refused put costs as much as a successful one."""

    written: bool
    consumed: Consumed

    def __bool__(self) -> bool:
        return self.written


def item_bytes(item: Item) -> int:
    """Return the item's size as DynamoDB counts it: names and values of its attributes, text as UTF-8.

    The rule is the Developer Guide's "DynamoDB item sizes and formats"; the attributes are `key` (string),
    `value` (binary) and `version` (string, absent when empty).
    """
    size = len("key") + len(item.key.encode()) + len("value") + len(item.value)
    if item.version:
        size += len("version") + len(item.version.encode())
    return size


def write_units(item: Item) -> int:
    """Return the write units of putting an item, or of deleting it: one for each started KB."""
    return -(-item_bytes(item) // WRITE_UNIT_BYTES)


def read_units(item: Item | None, *, consistent: bool = False) -> float:
    """Return the read units of one key, given its item. A key without one (None) costs as much as the smallest item."""
    blocks = -(-item_bytes(item) // READ_UNIT_BYTES) if item else 1
    return blocks if consistent else blocks / 2


def units_to_read(n_keys: int, found: Sequence[Item], *, consistent: bool) -> float:
    """Return the read units of reading `n_keys` distinct keys, which hold the items `found`."""
    absent = (n_keys - len(found)) * read_units(None, consistent=consistent)
    return absent + sum(read_units(item, consistent=consistent) for item in found)


def missing_table(table: str, where: str = "") -> MissingTableError:
    """Return the error for a table that does not exist. `where` names the place, such as " in eu-central-1"."""
    ways = {LIBRARY: "`precalc library build`", REGISTRY: "`precalc run` for a model"}
    way = ways.get(table, f"`precalc load {table}`")
    return MissingTableError(f"there is no table {table!r}{where}; run {way} first")


class KeyValueStore(Protocol):
    """Tables of items, found by key. A table's name is a model id, "library" or "models".

    A store adds its own prefix to the names. Threads and processes may share it. All methods raise TableError when the
    store is unreachable or damaged. All but `create_table`, `drop_table` and `has_table` raise MissingTableError when
    the table does not exist.
    """

    def create_table(self, table: str) -> None:
        """Create a table unless it exists."""

    def drop_table(self, table: str) -> None:
        """Delete a table and its items, if it exists."""

    def has_table(self, table: str) -> bool:
        """Return whether the table exists."""

    def list_tables(self) -> list[str]:
        """Return the names of all tables, sorted."""

    def put_many(self, table: str, items: Iterable[Item]) -> Consumed:
        """Write items in batches, replacing those at the same keys.

        Memory holds a few batches at a time, so a generator may yield more items than fit into memory. Batches that
        were written stay when another one fails. Batches may be written in any order, so keys must be distinct: of two
        items with the same key, either may remain.
        """

    def get_many(self, table: str, keys: Sequence[str], *, consistent: bool = False) -> Found:
        """Return the items at the keys. Keys without an item are absent from the answer.

        A consistent read sees every write that ended before it began, and costs twice as much. An eventually
        consistent one may return an earlier state.
        """

    def missing_keys(self, table: str, keys: Sequence[str]) -> tuple[list[str], Consumed]:
        """Return the keys that have no item, and the cost: DynamoDB charges half a unit for each 4 KB of an item."""

    def put_if(self, table: str, item: Item, expected: str | None) -> ConditionalPut:
        """Write an item if the stored one's version equals `expected`, or if there is none when `expected` is None.

        The result is true if the item was written. Of several writers with the same `expected`, exactly one succeeds.
        """

    def delete_many(self, table: str, keys: Iterable[str]) -> Consumed:
        """Delete the items at the keys. A key without an item is no error, but costs one write unit."""

    def close(self) -> None:
        """Release connections, threads and files. The store cannot be used afterwards."""

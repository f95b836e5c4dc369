"""What a key-value store is to us: the protocol, the item, and what DynamoDB charges for it.

The stores themselves are modules of their own (`sqlite`, `dynamodb`). What the items mean is not here: see `pages` and
`directory`. Standard library only: the Lambda imports it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from precalc_assets.platform_errors import MissingTableError

LIBRARY = "library"
REGISTRY = "models"
"""The tables that are not a model's: SMILES by InChIKey, and a card per model."""

# Amazon DynamoDB Developer Guide, "Read and write operations" and "Quotas in Amazon DynamoDB".
MAX_ITEM_BYTES = 400 * 1024
"""The largest item that DynamoDB stores: the bytes of its attributes' names and values."""
WRITE_UNIT_BYTES = 1024
"""One write unit pays for each started KB of an item, alone or in a batch."""
READ_UNIT_BYTES = 4096
"""A read unit pays for each started 4 KB of an item; half of one if it is read eventually consistent."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a table.

    `version` is what `put_if` compares, a word of the writer's choice; an item with an empty one has no such
    attribute in the store.
    """

    key: str
    value: bytes
    version: str = ""


@dataclass(frozen=True, slots=True)
class Consumed:
    """What work on a store costs, in DynamoDB's units, and the number of items that it wrote or deleted."""

    write_units: float = 0
    read_units: float = 0
    items: int = 0

    def __add__(self, other: "Consumed") -> "Consumed":
        return Consumed(
            self.write_units + other.write_units,
            self.read_units + other.read_units,
            self.items + other.items,
        )


class Found(dict[str, Item]):
    """The items that a read found, by key."""

    def __init__(self, items: Iterable[Item], consumed: Consumed | Callable[[], Consumed]) -> None:
        super().__init__([(item.key, item) for item in items])
        self._consumed = consumed

    @property
    def consumed(self) -> Consumed:
        """What the read cost, with the keys that hold nothing."""
        # Readers do not ask, and to count takes longer than to read.
        return self._consumed() if callable(self._consumed) else self._consumed


@dataclass(frozen=True, slots=True)
class ConditionalPut:
    """What came of `put_if`: true when the item was written. One that was refused costs as much."""

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
    """Return the read units of one key, with what it holds; None, for nothing, costs as much as the smallest item."""
    blocks = -(-item_bytes(item) // READ_UNIT_BYTES) if item else 1
    return blocks if consistent else blocks / 2


def units_to_read(n_keys: int, found: Sequence[Item], *, consistent: bool) -> float:
    """Return the read units of asking for so many different keys, at which these items were found."""
    nothing = (n_keys - len(found)) * read_units(None, consistent=consistent)
    return nothing + sum(read_units(item, consistent=consistent) for item in found)


def missing_table(table: str, where: str = "") -> MissingTableError:
    """Return the error for a table that does not exist, the same for every store; `where` says where it is not."""
    ways = {LIBRARY: "`precalc library build`", REGISTRY: "`precalc run` for a model"}
    way = ways.get(table, f"`precalc load {table}`")
    return MissingTableError(f"there is no table {table!r}{where}; run {way} first")


class KeyValueStore(Protocol):
    """Tables of items, found by key. A table's name is a model id, "library" or "models".

    A store adds its own prefix to the names. It may be used by several threads and processes at once. All methods
    raise TableError when the store cannot be reached or is damaged, and MissingTableError, naming the table, when it
    does not exist (but for `create_table`, `drop_table` and `has_table`).
    """

    def create_table(self, table: str) -> None:
        """Make a table; nothing happens when it is there."""

    def drop_table(self, table: str) -> None:
        """Remove a table and its items; nothing happens when it is not there."""

    def has_table(self, table: str) -> bool:
        """Return whether the table is there."""

    def list_tables(self) -> list[str]:
        """Return the names of all tables, sorted."""

    def put_many(self, table: str, items: Iterable[Item]) -> Consumed:
        """Write items in batches, over what their keys held before.

        The items are taken a few batches at a time, so they may come from a generator that is larger than memory. A
        batch that was written stays when another one fails. Batches may be written in any order, so keys are to differ:
        which of two items with the same key stays is not said.
        """

    def get_many(self, table: str, keys: Sequence[str], *, consistent: bool = False) -> Found:
        """Return the items at the keys. Keys that hold nothing are absent from the answer.

        A consistent read sees every write that ended before it began, and costs twice as much. Any other one may see
        what was there a moment ago.
        """

    def put_if(self, table: str, item: Item, expected: str | None) -> ConditionalPut:
        """Write an item if the stored one's version equals `expected`, or if there is none when that is None.

        Returns whether it was written. Of several writers with the same expectation exactly one succeeds.
        """

    def delete_many(self, table: str, keys: Iterable[str]) -> Consumed:
        """Remove the items at the keys. Keys that hold nothing are no error, but cost one write unit each."""

    def close(self) -> None:
        """Give back what the store holds open; it cannot be used afterwards."""

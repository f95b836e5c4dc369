"""Made-up predictions, loaded into tables by the real loader."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import count

import pyarrow as pa

from precalc_assets.columns import Column
from precalc_assets.sharding import key_hash, shard_keys, shard_of
from precalc_assets.tables import KeyValueStore
from precalc_assets.tables.directory import Origin, TableColumns
from precalc_assets.tables.loader import load_shard
from precalc_assets.tables.paging import ShardRows

MODEL = "eos3b5e"
N_SHARDS = 4
COLUMNS = (
    Column("score", "float", "high", "A score"),
    Column("count", "integer", "", "A count"),
    Column("label", "string", "", "A label"),
)
FLOATS = (2.0, 1 / 3, -0.0, 5e-324, -1.7976931348623157e308, None)
INTEGERS = (2, 2**63 - 1, -(2**63), 0, None)
"""Whole numbers that are floats, integers that no float holds, and nulls."""

_ARROW = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}


def inchikeys() -> Iterator[str]:
    """Yield made-up InChIKeys, the same on every call."""
    for i in count():
        letters = "".join(chr(ord("A") + byte % 26) for byte in sha256(str(i).encode()).digest()[:25])
        yield f"{letters[:14]}-{letters[14:24]}-{letters[24]}"


def rows_of(keys: Sequence[str], texts: Sequence[str | None]) -> dict[str, tuple]:
    """Return a row for each molecule, with the texts as labels in turn."""
    return {
        key: (FLOATS[i % len(FLOATS)], INTEGERS[i % len(INTEGERS)], texts[i % len(texts)]) for i, key in enumerate(keys)
    }


def serve(
    tables: KeyValueStore,
    rows: Mapping[str, tuple],
    *,
    model: str = MODEL,
    columns: Sequence[Column] = COLUMNS,
    release: str = "v1.0.0",
    n_shards: int = N_SHARDS,
    shards: Sequence[str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Load these rows into these shards (default: all), as if they were read from these files.

    Rows of other shards are left out. Without files, the records name none.
    """
    by_shard: dict[str, list[str]] = defaultdict(list)
    for key in sorted(rows, key=key_hash):
        by_shard[shard_of(key, n_shards)].append(key)
    for shard in shard_keys(n_shards) if shards is None else shards:
        keys = by_shard[shard]
        arrays = [pa.array([rows[key][at] for key in keys], _ARROW[c.type]) for at, c in enumerate(columns)]
        batch = pa.record_batch([pa.array(keys, pa.string()), *arrays], names=["inchikey", *(c.name for c in columns)])
        content = files[shard] if files else f"file of shard {shard}".encode()
        table = TableColumns(model, n_shards, tuple(columns))
        origin = Origin(
            release=release,
            shard_digest=sha256("".join(keys).encode()).hexdigest(),
            built_from=sha256(f"{release} {sorted(rows.items())!r}".encode()).hexdigest(),
            file_bytes=len(content),
            file_sha256=sha256(content).hexdigest(),
        )
        load_shard(tables, ShardRows(table, shard, lambda batch=batch: iter([batch])), origin)

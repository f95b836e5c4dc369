"""Readers of bytes from tables and Parquet files fail only by our own errors, whatever the bytes are."""

import json
import random
import resource
import struct
import time
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from table_doubles import COLUMNS, MODEL, SHARD, MemoryStore, load, record, shard_molecules

from precalc_assets.platform_errors import PrecalcError
from precalc_assets.tables import Item, TableReader
from precalc_assets.tables.directory import COLUMNS_KEY, ShardRecord, TableColumns
from precalc_assets.tables.pages import Page, decompress, page_layout

SECONDS = 3.0
MOST_BYTES = 512 << 20
"""Growth of memory that no damaged item may cause."""
KEYS = shard_molecules(60)


def packed(content: bytes) -> bytes:
    """Return content with a right checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return content with some bytes changed, cut, doubled or replaced by large numbers."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 2, 2**32 - 1]))
            case 2:
                del changed[at : at + rng.randint(1, 40)]
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 40)]
            case _:
                del changed[at:]
    return bytes(changed)


def until_time_is_up():
    """Yield random generators for some seconds, and check that memory did not grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + SECONDS
    seed = 0
    while time.monotonic() < end:
        yield random.Random(seed)
        seed += 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


@pytest.fixture(scope="module")
def store():
    store = MemoryStore()
    load(store, KEYS)
    return store


@pytest.mark.parametrize("checksum", ["right", "wrong"])
def test_damaged_page_is_read_or_refused(store, checksum):
    current = record(store).current
    layout = page_layout(tuple(column.type for column in COLUMNS), current.dtypes)
    value = store.get_many(MODEL, [current.pages.key(SHARD, 0)])[current.pages.key(SHARD, 0)].value
    hashes = Page(layout, value).hashes
    for rng in until_time_is_up():
        other = packed(damaged(decompress(value), rng)) if checksum == "right" else damaged(value, rng)
        try:
            page = Page(layout, other)
            for h in (*hashes[:5], *page.hashes[:5]):
                row = page.row(h)
                assert row is None or len(row) == len(COLUMNS)
        except PrecalcError:
            pass


def test_frame_that_claims_a_huge_size_is_refused():
    for size in (2**31, 2**40, 2**63):
        # A frame header with a content size of 8 bytes (RFC 8878, 3.1.1.1), and no block.
        with pytest.raises(PrecalcError):
            decompress(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size))


@pytest.mark.parametrize("key", [SHARD, COLUMNS_KEY])
def test_damaged_record_is_read_or_refused(store, key):
    kind = ShardRecord if key == SHARD else TableColumns
    item = store.get_many(MODEL, [key])[key]
    content = decompress(item.value)
    for rng in until_time_is_up():
        other = MemoryStore()
        other.tables = {MODEL: dict(store.tables[MODEL])}
        changed = packed(damaged(content, rng)) if rng.random() < 0.7 else packed(other_json(content, rng))
        other.put_many(MODEL, [Item(key, changed, item.version)])
        try:
            kind.from_item(other.get_many(MODEL, [key])[key])
            TableReader(other, MODEL).get(KEYS[:3])
        except PrecalcError:
            pass


def other_json(content: bytes, rng: random.Random) -> bytes:
    """Return the JSON with one value of another type or size."""
    fields = json.loads(content)
    inner = fields
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner))) if inner else None
        if key is None:
            return json.dumps(fields).encode()
        if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7:
            inner = inner[key]
            continue
        inner[key] = rng.choice([None, -1, 0, 2**70, 1e300, "", "x", "../..", [], {}, [[]], ["f8", 2**40], True])
        return json.dumps(fields).encode()


@pytest.fixture
def parquet_file(tmp_path):
    import polars as pl

    from precalc_assets.predictions.parquet import PredictionsWriter, Provenance

    provenance = Provenance(
        model=MODEL,
        release="v1",
        shard=SHARD,
        n_shards=4,
        shard_digest="",
        raw_digest="",
        quarantined=0,
        columns=tuple(COLUMNS),
    )
    path = tmp_path / "predictions.parquet"
    writer = PredictionsWriter(path, provenance, len(KEYS))
    n = len(KEYS)
    writer.write(
        pl.DataFrame(
            {"inchikey": KEYS, "smiles": ["CCO"] * n, "score": [0.5] * n, "count": [1] * n, "label": ["x"] * n}
        )
    )
    writer.close()
    return path


def read(path):
    """Read a file as a load does."""
    from precalc_assets.predictions import loading

    for _ in loading._read_rows(path, "shard.parquet")[0]():
        pass


def test_damaged_parquet_file_is_read_or_refused(parquet_file, tmp_path):
    content = parquet_file.read_bytes()
    other = tmp_path / "other.parquet"
    for rng in until_time_is_up():
        other.write_bytes(damaged(content, rng))
        with suppress(PrecalcError):
            read(other)


@pytest.mark.parametrize("metadata", [b"", b"x", b"\xff\xfe", b"eA==", b"KLUv/WAAAA=="])
def test_parquet_file_with_odd_provenance_is_refused(tmp_path, metadata):
    path = tmp_path / "odd.parquet"
    table = pa.table({"inchikey": KEYS}).replace_schema_metadata({b"precalc": metadata})
    pq.write_table(table, path)
    with pytest.raises(PrecalcError, match="damaged or not one of ours"):
        read(path)


def test_parquet_file_with_other_columns_is_refused(parquet_file, tmp_path):
    metadata = pq.read_metadata(parquet_file).metadata
    path = tmp_path / "odd.parquet"
    doubled = pa.Table.from_arrays(
        [pa.array(KEYS), *[pa.array([0.5] * len(KEYS))] * 2], names=["inchikey", "score", "score"]
    )
    for table in (doubled, doubled.select([0]), pa.table({"inchikey": KEYS, "score": ["x"] * len(KEYS)})):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(PrecalcError):
            read(path)


def test_parquet_schema_that_is_not_utf8_is_refused(parquet_file, tmp_path):
    content = parquet_file.read_bytes()
    path = tmp_path / "odd.parquet"
    for name in (b"score", b"label", b"inchikey"):
        path.write_bytes(content.replace(name, b"\xff\xfe\xfd" + name[3:]))
        with pytest.raises(PrecalcError):
            read(path)

"""Invented molecules and predictions: random doubles, the worst case, under texts in the form of InChIKeys.

It also loads them into tables: ours, and the baseline's, with one item per molecule.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import boto3
import numpy as np
import pyarrow as pa

from precalc_assets.columns import Column
from precalc_assets.sharding import HASH_SPACE, key_digests, shard_keys
from precalc_assets.tables import KeyValueStore
from precalc_assets.tables.directory import Origin, TableColumns
from precalc_assets.tables.loader import LoadResult, load_shard
from precalc_assets.tables.paging import ShardRows

MODEL = "eos0zzz"
REGION = "us-east-1"


@dataclass(frozen=True)
class Shape:
    """Molecules in the order of the table, and their columns."""

    name: str
    columns: tuple[Column, ...]
    rows: pa.RecordBatch


def floats(name: str, n_columns: int, n_rows: int) -> Shape:
    columns = tuple(Column(f"value_{i}", "float", "", "") for i in range(n_columns))
    keys = sorted_keys(n_rows)[0]
    values = np.random.default_rng(1).standard_normal((n_columns, n_rows))
    names = ["inchikey", *(column.name for column in columns)]
    return Shape(name, columns, pa.record_batch([pa.array(keys), *map(pa.array, values)], names=names))


def counts(name: str, n_columns: int, n_rows: int) -> Shape:
    """Return counts like those of a molecule's fragments: 3 of 100 are not 0."""
    columns = tuple(Column(f"count_{i}", "integer", "", "") for i in range(n_columns))
    rng = np.random.default_rng(1)
    values = (rng.random((n_columns, n_rows)) < 0.03) * rng.integers(1, 6, (n_columns, n_rows))
    names = ["inchikey", *(column.name for column in columns)]
    return Shape(
        name, columns, pa.record_batch([pa.array(sorted_keys(n_rows)[0]), *map(pa.array, values)], names=names)
    )


def sorted_keys(n: int) -> tuple[list[str], np.ndarray]:
    """Return texts in the form of InChIKeys in the order of their hashes, and the hashes."""
    letters = np.array(list(string.ascii_uppercase), "S1")[np.random.default_rng(2).integers(26, size=(n, 25))]
    texts = [f"{text[:14]}-{text[14:24]}-{text[24]}" for text in letters.view("S25").ravel().astype(str).tolist()]
    hashes = hashes_of(texts)
    order = np.argsort(hashes)
    return [texts[i] for i in order.tolist()], hashes[order]


def with_isotopes(smiles: Sequence[str], n_isotopes: int) -> Iterator[str]:
    """Yield each molecule beside each isotope of helium: all are distinct and cost about what the original does."""
    for isotope in range(3, 3 + n_isotopes):
        for text in smiles:
            yield f"{text}.[{isotope}He]"


def hashes_of(inchikeys: list[str]) -> np.ndarray:
    return np.frombuffer(key_digests(inchikeys), ">u8").astype(np.uint64)


def load(store: KeyValueStore, shape: Shape, shard: str, n_shards: int, model: str = MODEL) -> LoadResult:
    """Load molecules that all belong to one shard."""
    batches = [shape.rows.slice(at, 1_000) for at in range(0, shape.rows.num_rows, 1_000)]
    molecules = ShardRows(TableColumns(model, n_shards, tuple(shape.columns)), shard, lambda: iter(batches))
    return load_shard(store, molecules, Origin(release="", shard_digest="", built_from=""))


def load_all(store: KeyValueStore, shape: Shape, n_shards: int, model: str = MODEL) -> list[LoadResult]:
    """Load molecules into the shards that they belong to."""
    hashes = hashes_of(shape.rows.column("inchikey").to_pylist())
    bounds = [-(-HASH_SPACE * i // n_shards) for i in range(1, n_shards)]
    starts = [0, *np.searchsorted(hashes, np.array(bounds, np.uint64)).tolist(), len(hashes)]
    results = []
    for shard, start, stop in zip(shard_keys(n_shards), starts[:-1], starts[1:], strict=True):
        part = Shape(shape.name, shape.columns, shape.rows.slice(start, stop - start))
        results.append(load(store, part, shard, n_shards, model))
    return results


def put_plainly(table: str, rows: pa.RecordBatch) -> None:
    """Make a table with one item per molecule that holds a list of numbers, by boto3's batch writer."""
    boto3.client("dynamodb", region_name=REGION).create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with boto3.resource("dynamodb", region_name=REGION).Table(table).batch_writer() as writer:
        for key, *values in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            writer.put_item(Item={"key": key, "value": [Decimal(repr(value)) for value in values]})

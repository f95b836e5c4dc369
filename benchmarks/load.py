"""From raw predictions to the prediction table, in CPU: `python -m benchmarks.load`.

Ours is the work of `precalc load` on one shard of a library of 1.4 million: validate the raw predictions, put them as
Parquet, load pages into SQLite, and read a sample back. The baseline turns each row of the same parts into a pydantic
object, its numbers into a list of Decimal, and that into an item of boto3's batch writer, which writes to a server on
loopback that accepts everything. It reads rows by the `csv` module, which is faster per row than pandas.

Measured is the user and system CPU of the working process with all its threads; the server is another process. Imports,
clients and making the raw predictions are not counted. Both run in turns, and the best of each counts. Ours loads the
whole shard, the baseline some of its parts, since its time is linear in the molecules.
"""

import csv
import gzip
import hashlib
import io
import math
import os
import platform
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Self

import boto3
import numpy as np
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from boto3.resources.base import ServiceResource
from botocore.config import Config
from obstore.store import ObjectStore
from pydantic import BaseModel, create_model

from benchmarks.command import end, size
from benchmarks.servers import YesToAll, running
from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.inference import predict_shards
from precalc_assets.library import LibraryManifest, ShardInfo
from precalc_assets.library.library_manifest import SHARD_SCHEMA, with_digest
from precalc_assets.predictions import RawManifest, find_manifest, load_shards, validate_shards
from precalc_assets.sharding import key_hash, shard_key
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables

MODEL = "eos0zzz"
SHARD = shard_key(0, 1)
MOLECULES = size(28_000, 300)
BASELINE_MOLECULES = size(3_000, 100)
PART_ROWS = 1_000
COLUMNS = tuple(Column(f"value_{i}", "float", "", "") for i in range(10))
ROUNDS = size(5, 1)
TARGET = 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running(YesToAll) as endpoint:
        store = open_store(Path(folder).as_uri())
        molecules = invent_molecules(random.Random(1))
        library = write_library(store, molecules)
        manifest = write_raw_predictions(store, library)
        table = open_table(endpoint)
        pairs = []
        for i in range(ROUNDS):
            tables = f"sqlite:///{folder}/{i}.db"
            ours = cpu_seconds(lambda tables=tables: run_ours(store, library, tables)) / MOLECULES
            pairs.append((ours, cpu_seconds(lambda: run_baseline(store, manifest, table)) / BASELINE_MOLECULES))
    ours, baseline = (1e6 * min(times) for times in zip(*pairs, strict=True))
    ratio = baseline / ours
    print(
        f"load     {MOLECULES:,} molecules, {len(COLUMNS)} float columns, best of {ROUNDS}; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}"
    )
    print(f"  ours      {ours:8.1f} µs CPU per molecule  validated, Parquet, pages in SQLite, a sample read back")
    print(f"  baseline  {baseline:8.1f} µs CPU per molecule  csv, pydantic, Decimal, boto3's batch writer ", end="")
    print(f"({BASELINE_MOLECULES:,} molecules)")
    print(f"  ratio     {ratio:8.1f} times less CPU (target: at least {TARGET})")
    end([f"{ratio:.1f}, the target is {TARGET}"] if ratio < TARGET else [])


def cpu_seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def run_ours(store: ObjectStore, library: LibraryManifest, tables_url: str) -> None:
    tables = open_tables(tables_url)
    outcomes = [
        *validate_shards(store, library, MODEL, [SHARD], max_failure_rate=0.0),
        *load_shards(store, tables, MODEL, [SHARD]),
    ]
    tables.close()
    for outcome in outcomes:
        if outcome.failure or outcome.facts["rows"] != MOLECULES:
            raise SystemExit(f"the shard failed: {outcome}")


Row: type[BaseModel] = create_model(
    "Row", key=(str, ...), input=(str, ...), **dict.fromkeys((column.name for column in COLUMNS), (float, ...))
)


def run_baseline(store: ObjectStore, manifest: RawManifest, table: ServiceResource) -> None:
    with table.batch_writer() as writer:
        for line in islice(read_lines(store, manifest), BASELINE_MOLECULES):
            row = Row.model_validate(line)
            values = [Decimal(repr(getattr(row, column.name))) for column in COLUMNS]
            writer.put_item(Item={"key": row.key, "input": row.input, "value": values})


def read_lines(store: ObjectStore, manifest: RawManifest) -> Iterator[dict[str, str]]:
    for part in manifest.parts:
        content = gzip.decompress(obstore.get(store, part.name).bytes())
        yield from csv.DictReader(io.StringIO(content.decode()))


def invent_molecules(rng: random.Random) -> pl.DataFrame:
    """Return texts in the form of InChIKeys, in the order of a shard, and texts as long as drugs' SMILES."""
    keys = {"-".join("".join(rng.choices(string.ascii_uppercase, k=k)) for k in (14, 10, 1)) for _ in range(MOLECULES)}
    ordered = sorted(keys, key=key_hash)
    return pl.DataFrame({"inchikey": ordered, "smiles": ["".join(rng.choices("CNOcno()=1", k=45)) for _ in ordered]})


def write_library(store: ObjectStore, molecules: pl.DataFrame) -> LibraryManifest:
    digest = hashlib.sha256("\n".join(molecules["inchikey"]).encode()).hexdigest()
    table = pa.table([molecules[name].to_list() for name in SHARD_SCHEMA.names], schema=SHARD_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(with_digest(table, digest), sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    obstore.put(store, storage.library_shard(SHARD), content)
    return LibraryManifest(
        source="none",
        source_sha256="",
        n_shards=1,
        rows=MOLECULES,
        blank_lines=0,
        rejected=0,
        duplicates=0,
        molecules=MOLECULES,
        digest=digest,
        built_at=datetime.now(UTC),
        seconds=0.0,
        shards={SHARD: ShardInfo(rows=MOLECULES, digest=digest, bytes=len(content))},
    )


class Doubles:
    """A model that prints random doubles in their shortest exact form."""

    columns = COLUMNS
    release = "v1.0.0"
    environment = ""

    def __enter__(self) -> Self:
        self._random = np.random.default_rng(1)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def predict(self, smiles: Sequence[str], _deadline: float = math.inf) -> list[bytes]:
        rows = self._random.standard_normal((len(smiles), len(COLUMNS))).tolist()
        return [",".join(map(repr, row)).encode() for row in rows]


def write_raw_predictions(store: ObjectStore, library: LibraryManifest) -> RawManifest:
    [outcome] = predict_shards(store, library, MODEL, Doubles(), [SHARD], batch_size=PART_ROWS, max_failure_rate=0.0)
    manifest = find_manifest(store, MODEL, SHARD)
    if manifest is None:
        raise SystemExit(f"the shard failed: {outcome}")
    return manifest


def open_table(endpoint: str) -> ServiceResource:
    resource = boto3.resource(
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(proxies={}),
    )
    return resource.Table(MODEL)


if __name__ == "__main__":
    main()

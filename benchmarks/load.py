"""From raw predictions to the prediction table, in CPU: `python -m benchmarks.load [FILE]`, a CSV with a header.

Ours is the work of `precalc load` on one shard of a library of 1.4 million, the file's molecules with isotopes of
helium: validate the raw predictions, random doubles, put them as Parquet, load pages into SQLite, and read a sample
back. The baseline turns each row of the same parts into a pydantic object, its numbers into a list of Decimal, and that
into an item of boto3's batch writer, which writes to a server on loopback that accepts everything. It reads rows by the
`csv` module, which is faster per row than pandas.

Measured is the CPU of the working process; the server is another one. Imports, clients and making the raw predictions
are not counted. Ours loads the whole shard, the baseline some of its parts, since its time is linear in the molecules.
"""

import csv
import gzip
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Self

import boto3
import numpy as np
import obstore
from boto3.resources.base import ServiceResource
from obstore.store import ObjectStore
from pydantic import BaseModel, create_model

from benchmarks.command import (
    begin,
    best_in_turns,
    cpu_seconds,
    end,
    figure,
    molecule_file,
    read_molecules,
    size,
    write_molecules,
)
from benchmarks.invented import MODEL, REGION, with_isotopes
from benchmarks.servers import YesToAll, running
from precalc_assets.columns import Column
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.predictions.loading import load_shards
from precalc_assets.predictions.shard_manifest import RawManifest, find_manifest
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_key
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables
from tests.aws_emulator import Emulator

SHARD = shard_key(0, 1)
MOLECULES = size(28_000, 300)
BASELINE_MOLECULES = size(3_000, 100)
PART_ROWS = 1_000
COLUMNS = tuple(Column(f"value_{i}", "float", "", "") for i in range(10))
ROUNDS = size(5, 1)


def main() -> None:
    begin(f"{MOLECULES:,} molecules, {len(COLUMNS)} columns, best of {ROUNDS}")
    with tempfile.TemporaryDirectory() as folder, running(YesToAll) as endpoint:
        source = Path(folder) / "molecules.csv"
        write_molecules(source, islice(with_isotopes(read_molecules(molecule_file()), 200), MOLECULES))
        store = open_store(Path(folder).as_uri())
        library = build_library(store, source, n_shards=1, processes=os.cpu_count() or 1)
        manifest = write_raw_predictions(store, library)
        os.environ |= Emulator(endpoint).environment
        table = boto3.resource("dynamodb", region_name=REGION).Table(MODEL)
        facts: list[dict[str, float]] = []
        ours, baseline = best_in_turns(
            lambda: cpu_seconds(lambda: facts.extend(run_ours(store, library, f"sqlite:///{folder}/{len(facts)}.db"))),
            lambda: cpu_seconds(lambda: run_baseline(store, manifest, table)),
            ROUNDS,
        )
    baseline /= BASELINE_MOLECULES
    rows = library.molecules
    figure("from raw to table", 1e6 * ours / rows, "µs CPU a molecule", baseline=1e6 * baseline, at_least=20)
    validated, loaded, *_ = facts
    figure("Parquet", validated["bytes"] / rows, "bytes a molecule", counted=True)
    figure("pages", loaded["bytes"] / rows, "bytes a molecule", counted=True)
    figure("pages, units", loaded["write_units"] / rows, "units a molecule", counted=True)
    end()


def run_ours(store: ObjectStore, library: LibraryManifest, tables_url: str) -> list[dict[str, float]]:
    """Return what the outcomes of validating and of loading state."""
    tables = open_tables(tables_url)
    outcomes = [
        *validate_shards(store, library, MODEL, [SHARD], max_failure_rate=0.0),
        *load_shards(store, tables, MODEL, [SHARD]),
    ]
    tables.close()
    for outcome in outcomes:
        if outcome.failure or outcome.facts["rows"] != library.molecules:
            raise SystemExit(f"the shard failed: {outcome}")
    return [outcome.facts for outcome in outcomes]


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
    settings = Settings(batch_size=PART_ROWS, max_failure_rate=0.0)
    [outcome] = predict_shards(store, library, MODEL, Doubles(), [SHARD], settings=settings)
    manifest = find_manifest(store, MODEL, SHARD)
    if manifest is None:
        raise SystemExit(f"the shard failed: {outcome}")
    return manifest


if __name__ == "__main__":
    main()

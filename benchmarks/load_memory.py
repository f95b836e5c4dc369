"""Peak memory of validating and loading large shards: `python -m benchmarks.load_memory`.

Two shards are worked on at once, as `precalc load` does, in a process of their own. Each has as many molecules as the
row says, and values that hardly compress. Memory is the largest resident set that the kernel records.
"""

import gzip
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from benchmarks.command import begin, end, figure, size
from benchmarks.invented import MODEL, sorted_keys
from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.library.library_manifest import (
    GROUP_ROWS,
    SHARD_SCHEMA,
    LibraryManifest,
    ShardInfo,
    read_manifest,
    with_digest,
)
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.canary_report import CanaryReport, ColumnReport
from precalc_assets.predictions.loading import load_shards
from precalc_assets.predictions.shard_manifest import PartInfo, RawManifest, manifest_name, require_manifest
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables

SHARDS = shard_keys(2)
PART_ROWS = 1_000
TARGET_MB = 350


@dataclass(frozen=True)
class Shape:
    kind: str
    molecules: int
    columns: int


SHAPES = (
    Shape("integers", size(100_000, 300), size(2_048, 20)),
    Shape("doubles", size(50_000, 200), size(3_200, 30)),
    Shape("doubles", size(1_000_000, 300), size(10, 2)),
)


def main() -> None:
    begin(f"two shards at once, in parts of {PART_ROWS:,} molecules")
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            write_raw_predictions(open_store(Path(folder).as_uri()), shape)
            for stage in ("validate", "load"):
                what = f"{stage} {shape.molecules:,} by {shape.columns:,} {shape.kind}"
                figure(what, peak_of(stage, folder), "MB", at_most=TARGET_MB)
    end()


def peak_of(stage: str, folder: str) -> float:
    """Return the peak resident set in MB of a process that runs a stage."""
    # As commands do, before Arrow is imported.
    begin = "from precalc_assets.own_process import limit_malloc; limit_malloc(); from benchmarks import load_memory"
    command = [sys.executable, "-c", f"{begin}; load_memory.{stage}({folder!r})"]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) / 1e6


def validate(folder: str) -> None:
    store = open_store(Path(folder).as_uri())
    manifest = require_manifest(store, MODEL, SHARDS[0])
    values = {"nulls": 0, "distinct": 9, "minimum": -9.0, "maximum": 9.0, "mean": 0.0}
    columns = [
        ColumnReport.model_validate({"name": c.name, "type": c.type, "seen": c.type, **values})
        for c in manifest.columns
    ]
    # What the comparison reads of a report.
    canary = CanaryReport.model_construct(release=manifest.release, molecules=1_000, columns=tuple(columns))
    report(validate_shards(store, read_manifest(store), MODEL, SHARDS, max_failure_rate=0.0, canary=canary))


def load(folder: str) -> None:
    report(load_shards(open_store(Path(folder).as_uri()), open_tables(f"sqlite:///{folder}/tables.db"), MODEL, SHARDS))


def report(outcomes: Iterable[ShardOutcome]) -> None:
    """Print the peak memory of this process in bytes when the outcomes are there."""
    for outcome in outcomes:
        if outcome.failure:
            raise SystemExit(f"the shard failed: {outcome.failure}")
    if "pandas" in sys.modules:
        raise SystemExit("something has imported pandas, which takes 40 MB")
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(int(peak) * 1024)


def write_raw_predictions(store: ObjectStore, shape: Shape) -> None:
    """Write the library's shards and their raw predictions. All parts have the same values."""
    columns = tuple(
        Column(f"value_{i}", "integer" if shape.kind == "integers" else "float", "", "") for i in range(shape.columns)
    )
    keys, hashes = sorted_keys(2 * shape.molecules)
    half = int(np.searchsorted(hashes, np.uint64(1 << 63)))
    infos = {}
    for shard, molecules in zip(SHARDS, (keys[:half], keys[half:]), strict=True):
        digest = hashlib.sha256("\n".join(molecules).encode()).hexdigest()
        table = pa.table([molecules, ["CCO"] * len(molecules)], schema=SHARD_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(with_digest(table, digest), sink, row_group_size=GROUP_ROWS, compression="zstd")
        content = sink.getvalue().to_pybytes()
        obstore.put(store, storage.library_shard(shard, digest), content)
        infos[shard] = ShardInfo(rows=len(molecules), bytes=len(content), digest=digest)
    library = LibraryManifest(
        source="none",
        source_sha256="",
        source_file="",
        rejected_file="library/rejected.csv",
        other_forms_file="library/other_forms.csv",
        n_shards=2,
        rows=len(keys),
        rejected=0,
        duplicates=0,
        other_forms=0,
        molecules=len(keys),
        rdkit="",
        digest="",
        built_at=datetime.now(UTC),
        seconds=0,
        shards=infos,
    )
    obstore.put(store, storage.LIBRARY_MANIFEST, library.model_dump_json().encode())
    lines = value_lines(shape)
    header = ",".join(["key,input,quarantine", *(column.name for column in columns)])
    for shard, molecules in zip(SHARDS, (keys[:half], keys[half:]), strict=True):
        parts = []
        for start in range(0, len(molecules), PART_ROWS):
            some = molecules[start : start + PART_ROWS]
            text = "\n".join([header, *(f"{key},CCO,,{line}" for key, line in zip(some, lines, strict=False)), ""])
            content = gzip.compress(text.encode(), 1)
            name = f"raw/model={MODEL}/shard={shard}/part-{start}.csv.gz"
            obstore.put(store, name, content)
            sha256 = hashlib.sha256(content).hexdigest()
            parts.append(PartInfo(name=name, rows=len(some), quarantined=0, bytes=len(content), sha256=sha256))
        manifest = RawManifest(
            model=MODEL,
            release="v1.0.0",
            shard=shard,
            shard_digest=infos[shard].digest,
            columns=columns,
            parts=tuple(parts),
            rows=len(molecules),
            quarantined=0,
            environment="",
            seconds=0,
            finished_at=datetime.now(UTC),
        )
        obstore.put(store, manifest_name(MODEL, shard), manifest.model_dump_json().encode())


def value_lines(shape: Shape) -> list[str]:
    """Return lines of CSV for a part: counts as of rare fragments, or random doubles."""
    random = np.random.default_rng(3)
    if shape.kind == "integers":
        values = random.poisson(0.3, (PART_ROWS, shape.columns))
    else:
        values = random.standard_normal((PART_ROWS, shape.columns))
    frame = pl.DataFrame(values)
    # Nulls take another way through the code than values.
    first = frame.to_series(0).scatter(range(0, PART_ROWS, 100), None)
    return frame.with_columns(first).write_csv(include_header=False).splitlines()


if __name__ == "__main__":
    main()

"""Screens of 1.4 million molecules: `python -m benchmarks.screen [FILE]`, a CSV of molecules with a header.

Each of the file's molecules is there 140 times, with the isotope of helium of that number beside it. Keys are
invented, and values are random, since what they are costs nothing. The model of 2,048 counts has the same file for each
of its shards. The baseline is DuckDB on the same files, by hand, with its cache of metadata.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import polars as pl

from benchmarks.command import begin, end, figure, molecule_file, read_molecules, size
from benchmarks.invented import sorted_keys, with_isotopes
from precalc.expressions import make_question
from precalc_assets.columns import Column
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance, open_parquet
from precalc_assets.screening.engine import ScreeningEngine
from precalc_assets.screening.query import read_question
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store, predictions

N_SHARDS = size(50, 2)
N_ISOTOPES = size(140, 2)
TIMES = size(40, 2)
NARROW, OTHER, WIDE = "eos0nar", "eos0oth", "eos0wid"
N_COLUMNS = {NARROW: 11, OTHER: 4, WIDE: size(2_048, 64)}

COUNT = make_question(f"{NARROW}.c3 between 0 and 0.5", limit=0)
WIDE_COUNT = make_question(f"{WIDE}.c3 >= 2", limit=0)
TOP = make_question(f"{NARROW}.c3 between 0 and 0.5 and {OTHER}.c1 > 0.5", order=f"{NARROW}.c4 desc", limit=100)
MANY = make_question(
    f"{WIDE}.c3 >= 1", select=", ".join(f"{WIDE}.c{at}" for at in range(size(100, 64))), limit=size(10_000, 10)
)
BARS = make_question(f"{NARROW}.c3 > 0", limit=0, distributions=[f"{NARROW}.c4"])


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        molecules = read_molecules(molecule_file())
        apart(write_files, folder, molecules)
        begin(f"{len(molecules) * N_ISOTOPES:,} molecules, {N_SHARDS} shards")
        ours = apart(time_ours, folder)
        many = apart(time_many, folder)
        baseline = apart(time_duckdb, folder)
        for name, limit in (("count", 150), ("join and top 100", 400)):
            figure(f"{name}, warm, p95", ours[name], "ms", at_most=limit)
            figure(f"{name}, warm, median", ours[f"{name}, median"], "ms", baseline=baseline[name], at_least=1 / 1.5)
        figure("join and top 100, cold", ours["cold"], "ms", at_most=2_000)
        figure("count with a distribution, warm, p95", ours["bars"], "ms", at_most=300)
        figure("count, cold, 2,048 columns", ours["wide, cold"], "ms", at_most=2_000)
        figure("count, warm, 2,048 columns", ours["wide, median"], "ms", baseline=ours["count, median"], at_least=0.67)
        figure("memory", ours["memory"], "MB", at_most=600)
        figure("10,000 molecules with 100 columns, cold", many["cold"], "ms")
        figure("10,000 molecules with 100 columns, memory", many["memory"], "MB", at_most=600)
    end()


def apart(work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - what the work returns
    """Run a function in a process of its own, whose memory is its own too."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def write_files(folder: Path, molecules: list[str]) -> None:
    smiles = list(with_isotopes(molecules, N_ISOTOPES))
    keys = sorted_keys(len(smiles))[0]
    per_shard = len(keys) // N_SHARDS
    rng = np.random.default_rng(1)
    for at, shard in enumerate(shard_keys(N_SHARDS)):
        part = slice(at * per_shard, (at + 1) * per_shard)
        head = {"inchikey": keys[part], "smiles": smiles[part]}
        for model in (NARROW, OTHER):
            write(folder, model, shard, head, rng.standard_normal((N_COLUMNS[model], per_shard)))
        if at == 0:
            written = write(folder, WIDE, shard, head, rng.poisson(0.2, (N_COLUMNS[WIDE], per_shard)))
        else:
            (folder / predictions(WIDE, shard)).hardlink_to(written)


def write(folder: Path, model: str, shard: str, head: dict[str, list[str]], values: np.ndarray) -> Path:
    path = folder / predictions(model, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "float" if values.dtype.kind == "f" else "integer"
    columns = tuple(Column(f"c{at}", kind, "", "What the column means, in some words") for at in range(len(values)))
    provenance = Provenance(
        model=model,
        release="v1.0.0",
        shard=shard,
        n_shards=N_SHARDS,
        shard_digest="",
        raw_digest=model,
        quarantined=0,
        columns=columns,
    )
    rows = len(head["inchikey"])
    writer = PredictionsWriter(path, provenance, rows)
    frame = pl.DataFrame(head | {column.name: each for column, each in zip(columns, values, strict=True)})
    for batch in frame.iter_slices(1_000):
        writer.write(batch)
    writer.close()
    return path


def open_engine(folder: Path) -> ScreeningEngine:
    """Return an engine over the files, as if tables had been loaded from them."""
    entries = {}
    for model in N_COLUMNS:
        directories = {}
        first = folder / predictions(model, shard_keys(N_SHARDS)[0])
        with open_parquet(first, first.name) as (parquet, provenance):
            rows = parquet.metadata.num_rows
            reader = SimpleNamespace(columns=provenance.columns, n_shards=N_SHARDS)
        for shard in shard_keys(N_SHARDS):
            path = folder / predictions(model, shard)
            directories[shard] = SimpleNamespace(
                file_sha256=f"{model} {shard}",
                file_bytes=path.stat().st_size,
                built_from=model,
                shard_digest="" if model != WIDE else shard,
                rows=rows,
                release="v1.0.0",
            )
        entries[model] = SimpleNamespace(
            model=model, reader=reader, directories=directories, library_digest="", card=None
        )
    return ScreeningEngine(open_store(folder.as_uri()), entries.get, lambda: list(entries))


def time_ours(folder: Path) -> dict[str, float]:
    open_engine(folder).answer(read_question(COUNT))  # modules are imported at first use
    found = {
        "cold": milliseconds(open_engine(folder), TOP),
        "wide, cold": milliseconds(open_engine(folder), WIDE_COUNT),
    }
    engine = open_engine(folder)
    for name, question in {"count": COUNT, "join and top 100": TOP, "bars": BARS, "wide": WIDE_COUNT}.items():
        milliseconds(engine, question)
        times = sorted(milliseconds(engine, question) for _ in range(TIMES))
        found[name] = times[int(0.95 * (len(times) - 1))]
        found[f"{name}, median"] = times[len(times) // 2]
    return found | {"memory": memory()}


def time_many(folder: Path) -> dict[str, float]:
    return {"cold": milliseconds(open_engine(folder), MANY), "memory": memory()}


def memory() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000


def milliseconds(engine: ScreeningEngine, question: dict[str, Any]) -> float:
    query = read_question(question)
    started = time.perf_counter()
    engine.answer(query)
    return 1e3 * (time.perf_counter() - started)


def time_duckdb(folder: Path) -> dict[str, float]:
    """Return the medians of the same questions, in SQL."""
    connection = duckdb.connect()
    connection.execute(f"SET threads={os.cpu_count()}; SET parquet_metadata_cache=true; SET enable_progress_bar=false")
    files = {model: str(folder / "predictions" / f"model={model}" / "*.parquet") for model in (NARROW, OTHER)}
    narrow, other = (f"read_parquet('{files[model]}', hive_partitioning=false)" for model in (NARROW, OTHER))
    found = {}
    for name, sql in {
        "count": f"SELECT count(*) FROM {narrow} WHERE c3 BETWEEN 0 AND 0.5",
        "join and top 100": f"SELECT a.inchikey, a.smiles, a.c4, a.c3, b.c1 FROM {narrow} a JOIN {other} b "
        "USING (inchikey) WHERE a.c3 BETWEEN 0 AND 0.5 AND b.c1 > 0.5 ORDER BY a.c4 DESC, a.inchikey LIMIT 100",
    }.items():
        connection.execute(sql).fetchall()
        times = []
        for _ in range(TIMES):
            started = time.perf_counter()
            connection.execute(sql).fetchall()
            times.append(1e3 * (time.perf_counter() - started))
        found[name] = sorted(times)[len(times) // 2]
    return found


if __name__ == "__main__":
    main()

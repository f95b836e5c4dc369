"""The cost of writing a prediction table: `python -m benchmarks.pages [FILE]`, a CSV of one column with a header.

The built-in models' output on the file's molecules is loaded into tables of our pages: first as one shard, as large as
a shard of a library of half a million, then as 50 small ones. The baseline is one DynamoDB item per molecule with its
key and the list of its numbers. Both are counted in write units by DynamoDB's documented rules. The benchmark also
prints the cost of zstd's levels and the time to read one molecule.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rdkit import Chem

from benchmarks.command import end, molecule_file
from precalc_assets.columns import Column, read_columns
from precalc_assets.settings import BUILT_IN_MODELS
from precalc_assets.sharding import key_hash, shard_keys, shard_of
from precalc_assets.tables import KeyValueStore, TableReader, open_tables, page_writer
from precalc_assets.tables.loader import LoadResult, load_shard
from precalc_assets.tables.store import WRITE_UNIT_BYTES

MODELS = {"eos0bbb": "2,048 counts", "eos0aaa": "descriptors"}
TARGETS = {"eos0bbb": 40}
"""The least ratio of the baseline's write units to ours, with full pages."""
LEVELS = (3, 9, 12, 15, 17, 19)
ARROW_TYPES = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}


def main() -> None:
    source = molecule_file()
    smiles = source.read_text().splitlines()[1:]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        store = open_tables(f"sqlite:///{folder}/tables.db")
        keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(text)) for text in smiles]
        print(f"write units per molecule, {len(set(keys))} molecules of {source.name}")
        print(f"{'model':<24}{'shards':>7}{'pages':>8}{'bytes/page':>12}{'ours':>9}{'baseline':>10}{'ratio':>7}")
        for model, what in MODELS.items():
            columns, _ = read_columns(BUILT_IN_MODELS / model / "model" / "framework")
            rows = in_table_order(keys, run_model(model, columns, source, Path(folder)))
            baseline = baseline_units(rows, columns) / rows.num_rows
            for n_shards in (1, 50):
                results = load(store, model, rows, columns, n_shards)
                ratio = baseline / units_per_molecule(results)
                report(f"{model}, {what}", results, baseline)
                if n_shards == 1 and ratio < TARGETS.get(model, 0):
                    missed.append(f"{model}: {ratio:.0f}, the target is {TARGETS[model]}")
                if n_shards == 1:
                    read_time = seconds_per_page(store, model, rows)
            print_levels(store, model, rows, columns)
            print(f"  reading one molecule: {1e6 * read_time:.0f} µs a page, from SQLite to its values")
        store.close()
    end(missed)


def run_model(model: str, columns: tuple[Column, ...], source: Path, folder: Path) -> pa.Table:
    framework = BUILT_IN_MODELS / model / "model" / "framework"
    output = folder / f"{model}.csv"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", framework / "run.sh", framework, source, output], check=True, env=environment)
    types = pyarrow.csv.ConvertOptions(column_types={column.name: ARROW_TYPES[column.type] for column in columns})
    return pyarrow.csv.read_csv(output, convert_options=types)


def in_table_order(keys: list[str], rows: pa.Table) -> pa.RecordBatch:
    """Return each molecule's row once, by hash, as tables are loaded."""
    places = dict(zip(keys, range(len(keys)), strict=True))
    ordered = sorted(places, key=key_hash)
    rows = rows.take([places[key] for key in ordered]).combine_chunks()
    return rows.add_column(0, "inchikey", pa.array(ordered)).to_batches()[0]


def load(
    store: KeyValueStore, model: str, rows: pa.RecordBatch, columns: tuple[Column, ...], n_shards: int
) -> list[LoadResult]:
    store.drop_table(model)
    shards = np.array([shard_of(key, n_shards) for key in rows.column("inchikey").to_pylist()])
    identity = {"columns": columns, "n_shards": n_shards, "release": "", "shard_digest": "", "built_from": ""}
    return [
        load_shard(store, model, shard, batches_of(rows, shards == shard), **identity) for shard in shard_keys(n_shards)
    ]


def batches_of(rows: pa.RecordBatch, chosen: np.ndarray) -> Callable[[], Iterator[pa.RecordBatch]]:
    part = rows.filter(pa.array(chosen))
    return lambda: iter([part])


def units_per_molecule(results: list[LoadResult]) -> float:
    """Return the write units per molecule of all writes: pages, directories and columns."""
    return sum(result.consumed.write_units for result in results) / sum(result.rows for result in results)


def report(name: str, results: list[LoadResult], baseline: float) -> None:
    ours = units_per_molecule(results)
    pages = sum(result.n_pages for result in results)
    size = sum(result.page_bytes for result in results) / pages
    print(
        f"{name:<24}{len(results):>7}{pages:>8}{size:>12.0f}{ours:>9.4f}{baseline:>10.2f}{baseline / ours:>7.1f}",
        flush=True,
    )


def baseline_units(rows: pa.RecordBatch, columns: tuple[Column, ...]) -> int:
    """Return the write units of one item per molecule: a string `key`, and a list of numbers as `value`.

    By the Developer Guide's "DynamoDB item sizes and formats": a number takes one byte for each two significant
    digits, leading and trailing zeros trimmed, and one byte; each element of a list one byte more, the list three.
    By that rule 0 takes one byte, which favours the baseline.
    """
    sizes = np.full(rows.num_rows, len("key") + 27 + len("value") + 3)
    for column in columns:
        values = rows.column(column.name)
        encoded = values.dictionary_encode()
        lengths = np.array([number_bytes(value) for value in encoded.dictionary.to_pylist()])
        sizes += 1 + lengths[encoded.indices.to_numpy()]
    return int((-(-sizes // WRITE_UNIT_BYTES)).sum())


def number_bytes(value: float) -> int:
    digits = "".join(map(str, Decimal(repr(value)).as_tuple().digits)).strip("0")
    return (len(digits) + 1) // 2 + 1


def print_levels(store: KeyValueStore, model: str, rows: pa.RecordBatch, columns: tuple[Column, ...]) -> None:
    chosen = page_writer.ZSTD_LEVEL
    for level in LEVELS:
        page_writer.ZSTD_LEVEL = level
        start = time.process_time()
        units = units_per_molecule(load(store, model, rows, columns, 1))
        cpu = 1e6 * (time.process_time() - start) / rows.num_rows
        mark = "  <- in use" if level == chosen else ""
        print(f"  zstd {level:>2}: {units:.4f} units, {cpu:4.0f} µs CPU of loading per molecule{mark}", flush=True)
    page_writer.ZSTD_LEVEL = chosen


def seconds_per_page(store: KeyValueStore, model: str, rows: pa.RecordBatch) -> float:
    reader = TableReader(store, model)
    keys = rows.column("inchikey").to_pylist()[:: max(1, rows.num_rows // 200)]
    for key in keys:
        reader.get([key])
    start = time.perf_counter()
    for key in keys:
        reader.get([key])
    return (time.perf_counter() - start) / len(keys)


if __name__ == "__main__":
    main()

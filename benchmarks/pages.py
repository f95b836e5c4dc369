"""The cost of writing a prediction table: `python -m benchmarks.pages [FILE]`, a CSV of one column with a header.

The built-in models' output on the file's molecules is loaded into tables of our pages: first as one shard, as large as
a shard of a library of half a million, then as 50 small ones. The baseline is one DynamoDB item per molecule with its
key and the list of its numbers. Both are counted in write units by DynamoDB's documented rules. The benchmark also
states what zstd's levels cost for counts, and the time to read one molecule from SQLite to its values.
"""

import os
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rdkit import Chem

from benchmarks.command import begin, cpu_seconds, end, figure, molecule_file, read_molecules
from benchmarks.invented import Shape, load_all
from precalc_assets.columns import Column, read_columns
from precalc_assets.settings import BUILT_IN_MODELS
from precalc_assets.sharding import key_hash
from precalc_assets.tables import KeyValueStore, TableReader, open_tables, page_writer
from precalc_assets.tables.loader import LoadResult
from precalc_assets.tables.store import WRITE_UNIT_BYTES

COUNTS = "eos0bbb"
MODELS = {COUNTS: 60, "eos0aaa": None}
"""The least ratio of the baseline's write units to ours, with full pages."""
LEVELS = (3, 9, 12, 15, 17, 19)
ARROW_TYPES = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}


def main() -> None:
    source = molecule_file()
    begin(f"{len(read_molecules(source)):,} molecules of {source.name}")
    with tempfile.TemporaryDirectory() as folder:
        store = open_tables(f"sqlite:///{folder}/tables.db")
        for model, at_least in MODELS.items():
            shape = model_output(model, source)
            baseline = baseline_units(shape.rows, shape.columns) / shape.rows.num_rows
            for n_shards in (50, 1):
                results = load(store, model, shape, n_shards)
                shards = f"{n_shards} shard{'s' * (n_shards > 1)}"
                figure(
                    f"{shape.name}, {shards}",
                    units_per_molecule(results),
                    "units a molecule",
                    baseline=baseline,
                    at_least=at_least if n_shards == 1 else None,
                    counted=True,
                )
                page_bytes = sum(result.directory.page_bytes for result in results) / shape.rows.num_rows
                figure(f"{shape.name}, {shards}, pages", page_bytes, "bytes a molecule", counted=True)
            figure(f"{shape.name}, reading a molecule", 1e6 * seconds_per_page(store, model, shape.rows), "µs")
            if model == COUNTS:
                state_levels(store, shape)
        store.close()
    end()


def model_output(model: str, source: Path) -> Shape:
    """Return a built-in model's output on the file's molecules, each molecule once, in the order of a table."""
    framework = BUILT_IN_MODELS / model / "model" / "framework"
    columns, _ = read_columns(framework)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    types = pyarrow.csv.ConvertOptions(column_types={column.name: ARROW_TYPES[column.type] for column in columns})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output.csv"
        subprocess.run(["bash", framework / "run.sh", framework, source, output], check=True, env=environment)
        rows = pyarrow.csv.read_csv(output, convert_options=types)
    keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(text)) for text in read_molecules(source)]
    places = dict(zip(keys, range(len(keys)), strict=True))
    ordered = sorted(places, key=key_hash)
    rows = rows.take([places[key] for key in ordered]).combine_chunks()
    kind = "counts" if columns[0].type == "integer" else "descriptors"
    batch = rows.add_column(0, "inchikey", pa.array(ordered)).to_batches()[0]
    return Shape(f"{len(columns):,} {kind}", columns, batch)


def load(store: KeyValueStore, model: str, shape: Shape, n_shards: int) -> list[LoadResult]:
    store.drop_table(model)
    return load_all(store, shape, n_shards, model)


def units_per_molecule(results: list[LoadResult]) -> float:
    """Return the write units per molecule of all writes: pages, directories and columns."""
    return sum(result.consumed.write_units for result in results) / sum(result.directory.rows for result in results)


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


def state_levels(store: KeyValueStore, shape: Shape) -> None:
    chosen = page_writer.ZSTD_LEVEL
    for level in LEVELS:
        page_writer.ZSTD_LEVEL = level
        results: list[LoadResult] = []
        cpu = cpu_seconds(lambda results=results: results.extend(load(store, COUNTS, shape, 1)))
        what = f"{shape.name}, zstd {level}{', in use' * (level == chosen)}"
        figure(what, units_per_molecule(results), "units a molecule")
        figure(f"{what}, loading", 1e6 * cpu / shape.rows.num_rows, "µs CPU a molecule")
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

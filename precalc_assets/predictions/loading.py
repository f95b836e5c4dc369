"""Load predictions into the prediction table: write a shard's Parquet file as pages, and read a sample back."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.library import LibraryManifest, read_shard
from precalc_assets.outcomes import Check, ShardOutcome, each_shard, reason
from precalc_assets.platform_errors import ShardError, TableError
from precalc_assets.predictions.parquet import copy_predictions, open_copy
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader
from precalc_assets.tables.loader import load_shard

_BATCH_ROWS = 1_000
_KEPT_BYTES = 32 << 20
"""Maximum uncompressed bytes of a file to keep in memory: a shard of 2,000 rows by 2,048 columns."""

_READ_BACK_CELLS = 20_000
_READ_BACK_ROWS = 100
"""Limits of the sample that is read back: values, and molecules, spread evenly to touch many pages."""

TABLE_CHECKS = {
    "row_count": "the table has as many molecules as the file",
    "read_back": "values read from the table equal the file's, to the last bit",
}
"""The checks of a loaded shard: name and description."""

LIBRARY_SHARD_CHECKS = {
    "membership": "every molecule is in the shard that its hash assigns",
    "row_count": "the table has as many molecules as the file",
}

SMILES = Column("smiles", "string", "", "The molecule as the reference library's file has it")


def load_library_shards(
    store: ObjectStore, tables: KeyValueStore, library: LibraryManifest, shards: Iterable[str]
) -> Iterator[ShardOutcome]:
    """Load each shard of the library into the library's own table: SMILES by InChIKey.

    A table with another number of shards is dropped first: it can be rebuilt from the library.
    """
    if tables.has_table(LIBRARY) and _shards_of(tables, LIBRARY) not in (None, library.n_shards):
        tables.drop_table(LIBRARY)
    yield from each_shard(shards, lambda shard: _load_library_shard(store, tables, library, shard))


def _shards_of(tables: KeyValueStore, table: str) -> int | None:
    """Return the number of shards that a table was made with; None if it is empty."""
    try:
        return TableReader(tables, table).n_shards
    except TableError:
        return None


def _load_library_shard(
    store: ObjectStore, tables: KeyValueStore, library: LibraryManifest, shard: str
) -> ShardOutcome:
    started = time.perf_counter()
    molecules = read_shard(store, library, shard)
    info = library.shards[shard]
    strays = [key for key in molecules["inchikey"].to_pylist() if shard_of(key, library.n_shards) != shard]
    if strays:
        check = Check(
            "membership",
            passed=False,
            description=f"{len(strays)} molecules belong to other shards, such as {strays[0]}",
        )
        return ShardOutcome(shard, failure=f"{check.description}; build the library again", checks=(check,))
    loaded = load_shard(
        tables,
        LIBRARY,
        shard,
        lambda: iter(molecules.to_batches(_BATCH_ROWS)),
        columns=(SMILES,),
        n_shards=library.n_shards,
        release="",
        shard_digest=info.digest,
        built_from=info.digest,
    )
    return ShardOutcome(
        shard,
        digest=info.digest,
        source_digest=library.digest,
        facts={
            "rows": molecules.num_rows,
            "bytes": info.bytes,
            "path": storage.library_shard(shard),
            "pages": loaded.n_pages,
            "write_units": loaded.consumed.write_units,
            "seconds": round(time.perf_counter() - started, 3),
        },
        checks=(
            Check("membership", passed=True, description=f"all {molecules.num_rows} are in the shard of their hash"),
            _count_rows(loaded.rows, info.rows),
        ),
    )


def load_shards(store: ObjectStore, tables: KeyValueStore, model: str, shards: Iterable[str]) -> Iterator[ShardOutcome]:
    """Load each shard's predictions into the model's table, read a sample back, and yield the outcome.

    A loaded shard is not written again, but read back, and rewritten if that shows damage. Memory is bounded by two
    small files, or by a batch of larger ones.
    """
    yield from each_shard(shards, lambda shard: _load_shard(store, tables, model, shard))


def _load_shard(store: ObjectStore, tables: KeyValueStore, model: str, shard: str) -> ShardOutcome:
    started = time.perf_counter()
    with copy_predictions(store, storage.predictions(model, shard)) as copy, open_copy(copy) as (parquet, provenance):
        batches = _batches(parquet, ["inchikey", *(column.name for column in provenance.columns)])
        rows = parquet.metadata.num_rows
        sample = _sample_rows(batches(), rows, len(provenance.columns))
        for rewrite in (False, True):
            loaded = load_shard(
                tables,
                model,
                shard,
                batches,
                columns=provenance.columns,
                n_shards=provenance.n_shards,
                release=provenance.release,
                shard_digest=provenance.shard_digest,
                built_from=provenance.raw_digest,
                file_bytes=copy.bytes,
                file_sha256=copy.sha256,
                rewrite=rewrite,
            )
            checks = (_count_rows(loaded.rows, rows), _read_back(tables, model, provenance.columns, sample))
            broken = [check.description for check in checks if not check.passed]
            if loaded.written or not broken:
                break
    return ShardOutcome(
        shard,
        digest=loaded.generation,
        source_digest=provenance.raw_digest,
        columns=provenance.columns,
        failure=f"shard {shard} of {model}: {'; '.join(broken)}; load it again" if broken else "",
        facts={
            "rows": loaded.rows,
            "pages": loaded.n_pages,
            "bytes": loaded.page_bytes,
            "write_units": loaded.consumed.write_units,
            "quarantined": provenance.quarantined,
            "release": provenance.release,
            "seconds": round(time.perf_counter() - started, 3),
        },
        checks=checks,
    )


def _batches(parquet: pq.ParquetFile, names: list[str]) -> Callable[[], Iterator[pa.RecordBatch]]:
    """Return a function that iterates over the file. A small file is kept in memory: loading iterates several times."""
    groups = range(parquet.metadata.num_row_groups)
    if sum(parquet.metadata.row_group(group).total_byte_size for group in groups) > _KEPT_BYTES:
        return lambda: _batches_of(lambda: parquet.iter_batches(_BATCH_ROWS, columns=names))
    kept = list(_batches_of(lambda: parquet.read(names, use_threads=False).to_batches(_BATCH_ROWS)))
    return lambda: iter(kept)


def _batches_of(read: Callable[[], Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    try:
        yield from read()
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"the predictions of the shard are damaged ({reason(error)}); load it again") from None


def _sample_rows(batches: Iterable[pa.RecordBatch], rows: int, columns: int) -> list[tuple[object, ...]]:
    """Return every n-th row, within the limits of the sample."""
    step = max(1, -(-rows // min(_READ_BACK_ROWS, max(1, _READ_BACK_CELLS // columns))))
    sample: list[tuple[object, ...]] = []
    seen = 0
    for batch in batches:
        chosen = pa.array(range((-seen) % step, batch.num_rows, step), pa.int64())
        sample += zip(*(column.to_pylist() for column in batch.take(chosen).columns), strict=True)
        seen += batch.num_rows
    return sample


def _count_rows(loaded: int, expected: int) -> Check:
    return Check("row_count", loaded == expected, f"{loaded} molecules in the table, {expected} in the file")


def _read_back(tables: KeyValueStore, model: str, columns: Sequence[Column], sample: list[tuple[object, ...]]) -> Check:
    """Compare rows of the file with the table's answer, by `repr`: 2 is not 2.0, and 0.0 is not -0.0.

    The table may have the columns of a newer release; columns that the file lacks read as null.
    """
    try:
        reader = TableReader(tables, model, consistent=True)
        answers = reader.get([str(row[0]) for row in sample])
    except TableError as error:
        return Check("read_back", passed=False, description=str(error))
    places = {(column.name, column.type): at for at, column in enumerate(columns, start=1)}
    picks = [places.get((column.name, column.type)) for column in reader.columns]
    expected = [tuple(None if at is None else row[at] for at in picks) for row in sample]
    pairs = zip(sample, expected, answers, strict=True)
    wrong = [row[0] for row, values, answer in pairs if repr(values) != repr(answer)]
    found = f"{len(sample) - len(wrong)} of {len(sample)} molecules read back equal"
    return Check("read_back", not wrong, f"{found}, {wrong[0]} does not" if wrong else found)

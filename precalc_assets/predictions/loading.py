"""Load predictions into the prediction table: write a shard's Parquet file as pages, and read a sample back."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.library.library_manifest import LibraryManifest, open_shard
from precalc_assets.outcomes import Check, ShardOutcome, each_shard, reason
from precalc_assets.own_process import return_memory
from precalc_assets.platform_errors import MissingTableError, ShardError, TableError
from precalc_assets.predictions.parquet import LOAD, Provenance, copy_predictions, one_large_read, open_parquet
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, KeyValueStore, TableReader
from precalc_assets.tables.comparison import differences
from precalc_assets.tables.directory import Origin, TableColumns
from precalc_assets.tables.loader import LoadResult, load_shard
from precalc_assets.tables.paging import Batches, ShardRows

_BATCH_ROWS = 1_000
_BATCH_CELLS = 2_000_000
"""Rows to read at a time; fewer if they have more cells than this."""
_SPOOLED_COLUMNS = 128
_SPOOLED_CELLS = 2_000_000
"""Columns of a large file to copy at a time; fewer if a row group has more cells of them than this."""
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

SMILES = Column("smiles", "string", "", "The canonical SMILES of the molecule, which models predict from")


@dataclass(frozen=True, slots=True)
class _Source:
    """The rows of a shard with their number, and where they come from."""

    molecules: ShardRows
    rows: int
    origin: Origin


def load_library_shards(
    store: ObjectStore, tables: KeyValueStore, library: LibraryManifest, shards: Iterable[str]
) -> Iterator[ShardOutcome]:
    """Load each shard of the library into the library's own table: SMILES by InChIKey.

    A table of another number of shards, or with a damaged record, is dropped first: the library's files make it again.
    Then all shards are loaded, whichever are asked for.
    """
    chosen = list(shards)
    if tables.has_table(LIBRARY) and not _is_usable(tables, library.n_shards):
        tables.drop_table(LIBRARY)
        for outcome in each_shard(
            [shard for shard in library.shards if shard not in chosen],
            lambda shard: _load_library_shard(store, tables, library, shard),
        ):
            if outcome.failure:
                raise TableError(f"{outcome.failure}; the library's table was dropped, since it was damaged")
    yield from each_shard(chosen, lambda shard: _load_library_shard(store, tables, library, shard))


def _is_usable(tables: KeyValueStore, n_shards: int) -> bool:
    """Return whether the library's table is empty, or has so many shards and no damaged record."""
    try:
        reader = TableReader(tables, LIBRARY)
        reader.directories()
    except MissingTableError:
        return True
    except TableError:
        return False
    return reader.n_shards == n_shards


def _load_library_shard(
    store: ObjectStore, tables: KeyValueStore, library: LibraryManifest, shard: str
) -> ShardOutcome:
    started = time.perf_counter()
    info = library.shards[shard]
    with _open_library(store, library, shard) as source:
        keys = (key for batch in source.molecules.batches() for key in batch.column("inchikey").to_pylist())
        strays = [key for key in keys if shard_of(key, library.n_shards) != shard]
        if strays:
            check = Check(
                "membership",
                passed=False,
                description=f"{len(strays)} molecules belong to other shards, such as {strays[0]}",
            )
            return ShardOutcome(shard, failure=f"{check.description}; build the library again", checks=(check,))
        loaded, (row_count, read_back) = _load_and_read_back(tables, source)
    broken = [check.description for check in (row_count, read_back) if not check.passed]
    return ShardOutcome(
        shard,
        digest=info.digest,
        source_digest=library.digest,
        failure=f"shard {shard} of the library: {'; '.join(broken)}; build the library again" if broken else "",
        facts={
            "rows": source.rows,
            "bytes": info.bytes,
            "path": storage.library_shard(shard, info.digest),
            "pages": loaded.directory.n_pages,
            "write_units": loaded.consumed.write_units,
            "seconds": round(time.perf_counter() - started, 3),
        },
        checks=(
            Check("membership", passed=True, description=f"all {source.rows} are in the shard of their hash"),
            row_count,
        ),
    )


def load_shards(store: ObjectStore, tables: KeyValueStore, model: str, shards: Iterable[str]) -> Iterator[ShardOutcome]:
    """Load each shard's predictions into the model's table, read a sample back, and yield the outcome.

    A loaded shard is not written again, unless a page is lost or the sample shows damage. Memory is bounded by two
    small files, or by a batch of larger ones.
    """
    yield from each_shard(shards, lambda shard: _load_shard(store, tables, model, shard))


def _load_shard(store: ObjectStore, tables: KeyValueStore, model: str, shard: str) -> ShardOutcome:
    started = time.perf_counter()
    with _open_source(store, model, shard) as (source, provenance):
        loaded, checks = _load_and_read_back(tables, source)
    broken = [check.description for check in checks if not check.passed]
    return ShardOutcome(
        shard,
        digest=loaded.directory.generation,
        source_digest=provenance.raw_digest,
        columns=provenance.columns,
        failure=f"shard {shard} of {model}: {'; '.join(broken)}; load it again" if broken else "",
        facts={
            "rows": loaded.directory.rows,
            "pages": loaded.directory.n_pages,
            "bytes": loaded.directory.page_bytes,
            "write_units": loaded.consumed.write_units,
            "quarantined": provenance.quarantined,
            "release": provenance.release,
            "seconds": round(time.perf_counter() - started, 3),
        },
        checks=checks,
    )


def verify_shards(
    store: ObjectStore,
    tables: KeyValueStore,
    table: str,
    shards: Iterable[str],
    *,
    library: LibraryManifest,
    repair: bool,
) -> Iterator[ShardOutcome]:
    """Compare every molecule and value of a model's or the library's table with the Parquet files.

    The outcome of a shard that differs is a failure. With `repair`, such a shard is written anew and compared again.
    """

    def verify(shard: str) -> ShardOutcome:
        started = time.perf_counter()
        with ExitStack() as stack:
            if table == LIBRARY:
                source = stack.enter_context(_open_library(store, library, shard))
            else:
                source, _ = stack.enter_context(_open_source(store, table, shard))
            found = before = differences(tables, source.molecules, source.rows)
            if found and repair:
                load_shard(tables, source.molecules, source.origin, rewrite=True)
                found = differences(tables, source.molecules, source.rows)
        way_out = "load it again" if repair else f"run `precalc verify {table} --repair`"
        return ShardOutcome(
            shard,
            failure=f"shard {shard} of {table}: {found}; {way_out}" if found else "",
            facts={"rows": source.rows, "seconds": round(time.perf_counter() - started, 3)},
            checks=(Check("equal", passed=not before, description=f"{before}; written anew"),),
        )

    yield from each_shard(shards, verify)


@contextmanager
def _open_source(store: ObjectStore, model: str, shard: str) -> Iterator[tuple[_Source, Provenance]]:
    """Open a shard's predictions. Raises ShardError if there are none or they are damaged."""
    name = storage.predictions(model, shard)
    with copy_predictions(store, name) as copy, one_large_read(copy.path):
        batches, rows, provenance = _read_rows(copy.path, name)
        return_memory()
        origin = Origin(
            release=provenance.release,
            shard_digest=provenance.shard_digest,
            built_from=provenance.raw_digest,
            file_bytes=copy.bytes,
            file_sha256=copy.sha256,
        )
        table = TableColumns(model, provenance.n_shards, provenance.columns)
        yield _Source(ShardRows(table, shard, batches), rows, origin), provenance


@contextmanager
def _open_library(store: ObjectStore, library: LibraryManifest, shard: str) -> Iterator[_Source]:
    """Open a shard of the library. Raises LibraryError if it is missing or damaged."""
    info = library.shards[shard]
    with open_shard(store, library, shard) as batches:
        rows = ShardRows(TableColumns(LIBRARY, library.n_shards, (SMILES,)), shard, batches)
        yield _Source(rows, info.rows, Origin(release="", shard_digest=info.digest, built_from=info.digest))


def _load_and_read_back(tables: KeyValueStore, source: _Source) -> tuple[LoadResult, tuple[Check, Check]]:
    """Load a shard and read a sample back. Write it anew if that shows damage to what an earlier load wrote."""
    table = source.molecules.table
    sample = _sample_rows(source.molecules.batches(), source.rows, len(table.columns))
    for rewrite in (False, True):
        loaded = load_shard(tables, source.molecules, source.origin, rewrite=rewrite)
        rows = loaded.directory.rows
        row_count = Check("row_count", rows == source.rows, f"{rows} molecules in the table, {source.rows} in the file")
        checks = row_count, _read_back(tables, table.model, table.columns, sample)
        if loaded.written or all(check.passed for check in checks):
            break
    return loaded, checks


def _read_rows(path: Path, name: str) -> tuple[Batches, int, Provenance]:
    """Return a function that iterates over a file's rows, which loading does several times; their number and origin.

    The rows of a small file stay in memory. Those of a larger one are copied, some columns at a time, into files of
    record batches beside it: to read whole rows of thousands of columns, Parquet takes hundreds of MB. Nothing of the
    Parquet file stays in memory, since its footer takes a KB for each column of each row group.
    """
    with open_parquet(path, name) as (parquet, provenance):
        names = ["inchikey", *(column.name for column in provenance.columns)]
        groups = [parquet.metadata.row_group(at) for at in range(parquet.metadata.num_row_groups)]
        small = sum(group.total_byte_size for group in groups) <= _KEPT_BYTES
        rows = max(1, min(_BATCH_ROWS, _BATCH_CELLS // len(names)))

        def read(some: list[str]) -> Iterator[pa.RecordBatch]:
            try:
                yield from parquet.iter_batches(rows, columns=some, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise ShardError(f"{name} is damaged ({reason(error)}); {LOAD}") from None

        if small:
            kept = list(read(names))
            return lambda: iter(kept), parquet.metadata.num_rows, provenance
        paths = []
        arrow_schema = parquet.schema_arrow  # made anew at each access, in a millisecond for 2,048 columns
        tallest = max(1, *(group.num_rows for group in groups))
        at_once = max(1, min(_SPOOLED_COLUMNS, _SPOOLED_CELLS // tallest))
        for at in range(0, len(names), at_once):
            paths.append(path.with_name(f"{at}.arrows"))
            some = names[at : at + at_once]
            schema = pa.schema([arrow_schema.field(name) for name in some])
            with pa.ipc.new_stream(paths[-1], schema) as file:
                for batch in read(some):
                    file.write_batch(batch)
        return lambda: _side_by_side(paths, names), parquet.metadata.num_rows, provenance


def _side_by_side(paths: list[Path], names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of files that have some columns each, as batches of all columns."""
    with ExitStack() as stack:
        files = [stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(path))))) for path in paths]
        # A loop would keep one batch while it reads the next.
        yield from map(lambda *parts: pa.record_batch([column for part in parts for column in part], names), *files)


def _sample_rows(batches: Iterable[pa.RecordBatch], rows: int, columns: int) -> list[tuple[object, ...]]:
    step = max(1, -(-rows // min(_READ_BACK_ROWS, max(1, _READ_BACK_CELLS // columns))))
    sample: list[tuple[object, ...]] = []
    seen = 0
    for batch in batches:
        chosen = range((-seen) % step, batch.num_rows, step)
        sample += [tuple(column[at].as_py() for column in batch.columns) for at in chosen]
        seen += batch.num_rows
    return sample


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

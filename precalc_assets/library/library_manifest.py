"""Reading the library in the store: its manifest, and its shards, verified against the manifest.

`build` writes them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore
from pydantic import NonNegativeInt, PositiveInt, StringConstraints, model_validator

from precalc_assets import storage
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import Slot
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import LibraryError
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import arrow_reader, local_copy

SHARD_SCHEMA = pa.schema([("inchikey", pa.string()), ("smiles", pa.string())])

_DIGEST = b"precalc.digest"
_REBUILD = "run `precalc library build`"

_BATCH_ROWS = 1_000
GROUP_ROWS = 100_000
"""Rows of a row group, whose columns are read as a whole: some MB."""

Batches = Callable[[], Iterator[pa.RecordBatch]]

_RowsFile = Annotated[str, StringConstraints(pattern=r"^(library/[\w-]+\.csv)?$")]


class ShardInfo(FrozenRecord):
    """One shard: the number of its molecules, their digest (hex SHA-256), and the size of its file in bytes."""

    rows: NonNegativeInt
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]
    bytes: NonNegativeInt


class LibraryManifest(FrozenRecord):
    """The library that a build wrote to the store. It is written last, so every object that it names exists.

    `rows` counts the rows of the source file that have a filled cell; each row is one of `molecules`,
    `duplicates` (of an earlier row's InChIKey) or `rejected`. `other_forms` of the duplicates have another canonical
    SMILES than that row. `digest` is the library's version: it depends only on the molecules, their SMILES and the
    number of shards. `shards` are in order. `rdkit` is the version that wrote the SMILES. `source` is the name of the
    file that it was built from, `column` that of its molecules if it was given; names that end in `_file` are those of
    objects in the store.
    """

    format: Literal[1] = 1
    source: str
    column: str | None = None
    source_file: str
    source_sha256: str
    rejected_file: _RowsFile
    other_forms_file: _RowsFile
    n_shards: PositiveInt
    rows: PositiveInt
    rejected: NonNegativeInt
    duplicates: NonNegativeInt
    other_forms: NonNegativeInt
    molecules: NonNegativeInt
    rdkit: str
    digest: str
    built_at: datetime
    seconds: float
    shards: dict[str, ShardInfo]

    @model_validator(mode="after")
    def _has_all_shards(self) -> "LibraryManifest":
        if len(self.shards) != self.n_shards or list(self.shards) != shard_keys(self.n_shards):
            raise ValueError(f"it does not list {self.n_shards} shards in order")
        return self


def find_library(store: ObjectStore) -> LibraryManifest | None:
    """Return the manifest of the library in the store, or None. Raises LibraryError if the manifest is damaged."""
    remedy = f"{_REBUILD} for {store}"
    return Slot(store, storage.LIBRARY_MANIFEST, LibraryManifest, LibraryError, remedy).read()


def read_manifest(store: ObjectStore) -> LibraryManifest:
    """Return the manifest of the library in the store. Raises LibraryError if there is none, or if it is damaged."""
    library = find_library(store)
    if library is None:
        raise LibraryError(f"no reference library in {store}; {_REBUILD}")
    return library


def require_shards(library: LibraryManifest, n_shards: int) -> LibraryManifest:
    """Return the library. Raises LibraryError if it has another number of shards than the setting."""
    if library.n_shards != n_shards:
        raise LibraryError(
            f"the reference library has {library.n_shards} shards, but PRECALC_N_SHARDS is {n_shards}; "
            f"set PRECALC_N_SHARDS={library.n_shards}, or {_REBUILD}"
        )
    return library


def read_shard(store: ObjectStore, library: LibraryManifest, shard: str) -> pa.Table:
    """Return a shard's `inchikey` and `smiles`, sorted by `key_hash`. Raises LibraryError if missing or damaged."""
    name = storage.library_shard(shard, library.shards[shard].digest)
    try:
        content = storage.read_object(store, name)
    except FileNotFoundError:
        raise _missing(store, name) from None
    return pa.Table.from_batches(_read_rows(arrow_reader(content), store, library, shard), SHARD_SCHEMA)


@contextmanager
def open_shard(store: ObjectStore, library: LibraryManifest, shard: str) -> Iterator[Batches]:
    """Copy a shard to a file, and give a function that yields what `read_shard` returns, again at each call."""
    name = storage.library_shard(shard, library.shards[shard].digest)
    with local_copy(store, name, _missing(store, name)) as copy:
        yield lambda: _read_rows(copy.path, store, library, shard)


def _missing(store: ObjectStore, name: str) -> LibraryError:
    return LibraryError(f"{name} is missing from {store}, or a new library replaces it; try again, or {_REBUILD}")


def _read_rows(
    source: Path | pa.BufferReader, store: ObjectStore, library: LibraryManifest, shard: str
) -> Iterator[pa.RecordBatch]:
    digest = library.shards[shard].digest
    name = storage.library_shard(shard, digest)
    try:
        with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False) as parquet:
            if (parquet.schema_arrow.metadata or {}).get(_DIGEST) != digest.encode():
                raise LibraryError(f"{name} in {store} is not the one in the manifest; {_REBUILD}")
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                yield batch.replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise LibraryError(f"{name} in {store} is damaged ({reason(error)}); {_REBUILD}") from error


def read_sample(store: ObjectStore, library: LibraryManifest, n: int) -> pa.Table:
    """Return the first `n` molecules by `key_hash`, or all; columns as in `read_shard`. Reads only the first shards."""
    tables = [SHARD_SCHEMA.empty_table()]
    missing = n
    for shard in library.shards:
        if missing <= 0:
            break
        tables.append(read_shard(store, library, shard).slice(0, missing))
        missing -= tables[-1].num_rows
    return pa.concat_tables(tables)


def with_digest(table: pa.Table, digest: str) -> pa.Table:
    """Return the table with its digest in the schema's metadata, where `read_shard` looks for it."""
    return table.replace_schema_metadata({_DIGEST: digest})

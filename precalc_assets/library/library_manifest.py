"""Reading the library in the store: its manifest, and its shards, verified against the manifest.

`build` writes them.
"""

from datetime import datetime
from typing import Literal

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict

from precalc_assets import storage
from precalc_assets.json_records import Slot
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import LibraryError
from precalc_assets.storage import arrow_reader

SHARD_SCHEMA = pa.schema([("inchikey", pa.string()), ("smiles", pa.string())])

_DIGEST = b"precalc.digest"
_REBUILD = "run `precalc library build`"


class ShardInfo(BaseModel):
    """One shard: the number of its molecules, their digest (hex SHA-256), and the size of its file in bytes."""

    model_config = ConfigDict(frozen=True)

    rows: int
    digest: str
    bytes: int


class LibraryManifest(BaseModel):
    """The library that a build wrote to the store. It is written last, so every shard that it lists exists.

    `rows` counts the rows of the source file without its header and `blank_lines`; each row is one of `molecules`,
    `duplicates` (of an earlier row's InChIKey) or `rejected`. `digest` is the library's version: it depends only on the
    molecules, their SMILES and the number of shards. `shards` are in order.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    source: str
    source_sha256: str
    n_shards: int
    rows: int
    blank_lines: int
    rejected: int
    duplicates: int
    molecules: int
    digest: str
    built_at: datetime
    seconds: float
    shards: dict[str, ShardInfo]


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
    """Return a shard's molecules: columns `inchikey` and `smiles` (both string), sorted by `key_hash`.

    Raises LibraryError if the file is missing, damaged, or not the one in the manifest.
    """
    name = storage.library_shard(shard)
    try:
        reader = arrow_reader(obstore.get(store, name).bytes())
        table = pq.read_table(reader, page_checksum_verification=True, use_threads=False)
    except FileNotFoundError:
        raise LibraryError(f"{name} is missing from {store}; {_REBUILD}") from None
    except (pa.ArrowException, OSError) as error:
        raise LibraryError(f"{name} in {store} is damaged ({reason(error)}); {_REBUILD}") from error
    if _digest_in(table.schema.metadata) != library.shards[shard].digest:
        raise LibraryError(
            f"{name} in {store} is not the one in the manifest: a build is under way or was interrupted; "
            f"wait for it, or {_REBUILD}"
        )
    return table.replace_schema_metadata(None)


def read_sample(store: ObjectStore, library: LibraryManifest, n: int) -> pa.Table:
    """Return the first `n` molecules by `key_hash`, fewer if the library has fewer; columns as in `read_shard`.

    Reads only the first shards, since shards are ranges of the hash.
    """
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


def _digest_in(metadata: dict[bytes, bytes] | None) -> str | None:
    digest = (metadata or {}).get(_DIGEST)
    return digest.decode() if digest is not None else None

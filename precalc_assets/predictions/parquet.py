"""A shard's predictions as a Parquet file, written batch by batch, with the provenance in its footer."""

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import RawIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, ValidationError

from precalc_assets.columns import Column
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.cells import ARROW_TYPES

_CHUNK = 8 << 20
"""Bytes to copy from the store at a time."""

_METADATA_KEY = b"precalc"


class Provenance(BaseModel):
    """The inputs of predictions. They are in the file's footer, so the file can be served on its own."""

    model_config = ConfigDict(frozen=True)

    model: str
    release: str
    shard: str
    n_shards: int
    shard_digest: str
    raw_digest: str
    quarantined: int
    columns: tuple[Column, ...]


class PredictionsWriter:
    """Writes predictions to a local Parquet file, one row group per batch.

    Queries skip row groups by their statistics. In a small shard with thousands of columns, most of the file would be
    footer. So it omits Arrow's copy of the schema, compresses the provenance (zstd, base64), and only `smiles` may have
    a dictionary.
    """

    def __init__(self, path: Path, provenance: Provenance) -> None:
        fields = [("inchikey", pa.string()), ("smiles", pa.string())]
        fields += [(column.name, ARROW_TYPES[column.type]) for column in provenance.columns]
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["smiles"],
            store_schema=False,
            write_page_checksum=True,
        )
        packed = zstandard.compress(provenance.model_dump_json().encode())
        self._writer.add_key_value_metadata({_METADATA_KEY: b64encode(packed)})

    def write(self, frame: pl.DataFrame) -> None:
        """Append a batch: `inchikey`, `smiles` and the provenance's columns, in this order."""
        self._writer.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema))

    def close(self) -> None:
        """Write the footer, which completes the file."""
        self._writer.close()


class Copy(NamedTuple):
    """A local copy of the object `name`, with its size in bytes and its SHA-256 in hexadecimal."""

    name: str
    path: Path
    bytes: int
    sha256: str


@contextmanager
def copy_predictions(store: ObjectStore, name: str) -> Iterator[Copy]:
    """Copy a Parquet file from the store to a local file, which is deleted on exit.

    Raises ShardError if there is none.
    """
    with TemporaryDirectory(prefix="precalc-") as folder:
        path = Path(folder) / "predictions.parquet"
        digest = sha256()
        try:
            with path.open("wb") as file:
                for chunk in obstore.get(store, name).stream(min_chunk_size=_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
        except FileNotFoundError:
            raise ShardError(f"{name} does not exist: there are no predictions for this shard yet") from None
        yield Copy(name, path, path.stat().st_size, digest.hexdigest())


@contextmanager
def open_copy(copy: Copy) -> Iterator[tuple[pq.ParquetFile, Provenance]]:
    """Open a copy. Raises ShardError if it is damaged or not ours."""
    with open_parquet(copy.path, copy.name) as opened:
        yield opened


@contextmanager
def open_parquet(source: Path | RawIOBase, name: str) -> Iterator[tuple[pq.ParquetFile, Provenance]]:
    """Open the content of the object `name`. Raises ShardError if it is damaged or not ours."""
    try:
        # Pre-buffering reads neighbouring columns in one request.
        parquet = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        packed = b64decode((parquet.metadata.metadata or {})[_METADATA_KEY])
        provenance = Provenance.model_validate_json(zstandard.decompress(packed))
    except (pa.ArrowException, ValidationError, LookupError, ValueError, zstandard.ZstdError) as error:
        raise ShardError(f"{name} is damaged or not one of ours ({type(error).__name__}); delete it") from None
    with parquet:
        yield parquet, provenance


@contextmanager
def open_predictions(store: ObjectStore, name: str) -> Iterator[tuple[pq.ParquetFile, Provenance]]:
    """Open a Parquet file of the store through a local copy, which is deleted on exit.

    Raises ShardError if it is missing, damaged or not ours.
    """
    with copy_predictions(store, name) as copy, open_copy(copy) as opened:
        yield opened

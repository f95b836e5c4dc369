"""A shard's predictions as a Parquet file, written batch by batch, with the provenance in its footer."""

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import SEEK_CUR, SEEK_END, SEEK_SET, FileIO, RawIOBase
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from obstore.exceptions import PreconditionError
from obstore.store import ObjectStore
from pydantic import ValidationError
from typing_extensions import Buffer

from precalc_assets.columns import Column
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.own_process import return_memory
from precalc_assets.platform_errors import ShardError
from precalc_assets.storage import LocalCopy, local_copy

if TYPE_CHECKING:
    import polars as pl
    from obstore import GetOptions

ARROW_TYPES = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}

LOAD = "run `precalc load` for its model, which writes it from the raw predictions"

_METADATA_KEY = b"precalc"
_MOST_PROVENANCE = 64 << 20
"""The most bytes of provenance that a reader believes in; 2,048 columns with descriptions take 200 KB."""

_GROUP_CELLS = 1_000_000
"""Cells of a row group, 8 MB before compression."""
_MOST_CHUNKS = 16_384
"""Column chunks of a file, above which row groups are larger: each chunk takes a KB of whoever writes or reads it."""

_MAPPED_WRITES = 256
"""Writes of the file, two for each page, after which what was mapped of the spool is let go."""

_LARGE_FOOTER = 512 << 10
"""Bytes of footer above which the rows take hundreds of MB to write or to read."""
_BYTES_OF_CHUNK = 100
"""Bytes that a column chunk takes in the footer."""
_large = Lock()


class Provenance(FrozenRecord):
    """The inputs of predictions. They are in the file's footer, so the file can be served on its own."""

    model: str
    release: str
    shard: str
    n_shards: int
    shard_digest: str
    raw_digest: str
    quarantined: int
    columns: tuple[Column, ...]


class PredictionsWriter:
    """Writes predictions of so many molecules to a local Parquet file.

    Queries skip row groups by their statistics. In a small shard with thousands of columns, most of the file would be
    footer. So it omits Arrow's copy of the schema, compresses the provenance (zstd, base64), and only `smiles` may have
    a dictionary. Memory holds a million cells, and a KB for each column of each group. A large row group is collected
    in a file and mapped from it: Arrow writes column after column, and what it has written leaves memory.
    """

    def __init__(self, path: Path, provenance: Provenance, molecules: int) -> None:
        fields = [("inchikey", pa.string()), ("smiles", pa.string())]
        fields += [(column.name, ARROW_TYPES[column.type]) for column in provenance.columns]
        self._schema = pa.schema(fields)
        self._group_rows = _group_rows(molecules, len(provenance.columns))
        self._pending: list[pa.Table] = []
        self._rows = 0
        large = self._group_rows * len(provenance.columns) > _GROUP_CELLS
        self._spool = path.with_suffix(".arrows") if large else None
        self._spooled = pa.ipc.new_stream(self._spool, self._schema) if self._spool else None
        self._target = _MappingFile(path)
        self._writer = pq.ParquetWriter(
            self._target,
            self._schema,
            compression="zstd",
            use_dictionary=["smiles"],
            store_schema=False,
            write_page_checksum=True,
        )
        packed = zstandard.compress(provenance.model_dump_json().encode())
        self._writer.add_key_value_metadata({_METADATA_KEY: b64encode(packed)})

    def write(self, frame: "pl.DataFrame") -> None:
        """Append a batch: `inchikey`, `smiles` and the provenance's columns, in this order."""
        from polars import CompatLevel  # the screening Lambda reads files, and has no polars

        table = frame.to_arrow(compat_level=CompatLevel.oldest()).cast(self._schema)
        if self._spooled:
            self._spooled.write_table(table)
        else:
            self._pending.append(table)
        self._rows += frame.height
        if self._rows >= self._group_rows:
            self._write_group()

    def close(self) -> None:
        """Write the last row group and the footer, which completes the file."""
        self._write_group()
        self._writer.close()
        self._target.close()
        if self._spool and self._spooled:
            self._spooled.close()
            self._spool.unlink()

    def _write_group(self) -> None:
        if self._rows and self._spool and self._spooled:
            self._spooled.close()
            return_memory()
            with self._target.mapped(self._spool) as content:
                self._writer.write_table(pa.ipc.open_stream(content).read_all(), self._rows)
            self._spooled = pa.ipc.new_stream(self._spool, self._schema)
        elif self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending = []
        self._rows = 0


class _MappingFile(FileIO):
    """A file to write, and a mapped one that is written into it, whose pages leave memory as the writing goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._mapped: mmap | None = None
        self._writes = 0

    @contextmanager
    def mapped(self, path: Path) -> Iterator[pa.Buffer]:
        """Map a file until the context ends."""
        with path.open("rb") as file:
            self._mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
        yield pa.py_buffer(self._mapped)
        self._mapped = None

    def write(self, content: Buffer) -> int:
        """See `io.RawIOBase`."""
        self._writes += 1
        if self._mapped and self._writes % _MAPPED_WRITES == 0:
            self._mapped.madvise(MADV_DONTNEED)
        return super().write(content)


def _group_rows(molecules: int, columns: int) -> int:
    """Return the rows of a row group: a million cells, or more if the file had too many column chunks."""
    return max(1, _GROUP_CELLS // max(1, columns), -(-molecules * columns // _MOST_CHUNKS))


def one_large_write(molecules: int, columns: int) -> AbstractContextManager[object]:
    """Return a context that only one thread enters at a time to write or read a file that takes much memory."""
    footer = _BYTES_OF_CHUNK * columns * -(-molecules // _group_rows(molecules, columns))
    return _large if footer > _LARGE_FOOTER else nullcontext()


def one_large_read(path: Path) -> AbstractContextManager[object]:
    """Return the same context for reading the rows of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        footer = int.from_bytes(file.read(4), "little")
    return _large if footer > _LARGE_FOOTER else nullcontext()


class StoredFile(RawIOBase):
    """An object of the store as a seekable file: each read is a request for a range, so Arrow gets only what it needs.

    Raises FileNotFoundError at first; a read of an object that was replaced meanwhile raises OSError.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name
        found = obstore.head(store, name)
        self.size = found["size"]
        self._version = found["e_tag"]
        self._at = 0

    def readable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def tell(self) -> int:
        """See `io.IOBase`."""
        return self._at

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """See `io.IOBase`."""
        self._at = offset + {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase`."""
        end = self.size if size < 0 else min(self.size, self._at + size)
        if end <= self._at:
            return b""
        options: GetOptions = {"range": (self._at, end)}
        if self._version:
            options["if_match"] = self._version
        try:
            content = bytes(obstore.get(self._store, self._name, options=options).bytes())
        except PreconditionError:
            raise OSError(f"{self._name} was replaced while it was read") from None
        self._at += len(content)
        return content


def copy_predictions(store: ObjectStore, name: str) -> AbstractContextManager[LocalCopy]:
    """Copy a Parquet file of the store to a local one, deleted on exit. Raises ShardError if there is none."""
    return local_copy(
        store, name, ShardError(f"{name} does not exist: there are no predictions for this shard; {LOAD}")
    )


@contextmanager
def open_parquet(source: Path | RawIOBase, name: str) -> Iterator[tuple[pq.ParquetFile, Provenance]]:
    """Open the content of the object `name`. Raises ShardError if it is damaged or not ours."""
    try:
        # Pre-buffering reads neighbouring columns in one request, and holds them until the file is closed.
        pre_buffer = not isinstance(source, Path)
        parquet = pq.ParquetFile(source, pre_buffer=pre_buffer, page_checksum_verification=True)
        packed = b64decode((parquet.metadata.metadata or {})[_METADATA_KEY])
        if zstandard.frame_content_size(packed) > _MOST_PROVENANCE:
            raise ValueError("its provenance is too large")
        provenance = Provenance.model_validate_json(zstandard.decompress(packed))
        fields = [("inchikey", pa.string()), ("smiles", pa.string())]
        fields += [(column.name, ARROW_TYPES[column.type]) for column in provenance.columns]
        if [(field.name, field.type) for field in parquet.schema_arrow] != fields:
            raise ValueError("it has other columns than its provenance")
    except (pa.ArrowException, OSError, ValidationError, LookupError, ValueError, zstandard.ZstdError) as error:
        raise ShardError(f"{name} is damaged or not one of ours ({type(error).__name__}); {LOAD}") from None
    with parquet:
        yield parquet, provenance

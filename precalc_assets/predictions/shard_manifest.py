"""The manifest of a shard's raw predictions. It is written last and names the parts; readers start from it."""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from tempfile import TemporaryFile
from typing import IO, Self

import obstore
import polars as pl
from obstore.store import ObjectStore
from pydantic import model_validator

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import ModelId, ShardKey, Slot
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.cells import InvalidCells, read_cells

_PART = re.compile(r"part-[\w.-]+\.csv\.gz")

_BLOCK_BYTES = 4 << 20
_FIRST_BYTES = 1 << 20
_BLOCK_CELLS = 1_000_000
"""Text and cells of a part to parse at a time; the first block shows how long a row is."""


class PartInfo(FrozenRecord):
    """One object with raw predictions: gzipped CSV, `key,input,quarantine` and the model's columns, as printed.

    `key` is the InChIKey, `input` the SMILES, `quarantine` the reason why the model could not answer (then its columns
    are empty).
    """

    name: str
    rows: int
    quarantined: int
    bytes: int
    sha256: str


class RawManifest(FrozenRecord):
    """The parts of a shard's raw predictions, and their inputs.

    `emptied` counts the cells that are served as null, by column, although the parts have a text there. `environment`
    names the environment of the latest computation; it is empty if unknown. `adopted` describes predictions that an
    earlier release has computed and this one reproduces.
    The run that finished the shard waited `seconds` for the model; the runs that finished it before, for an earlier
    library or release, `seconds_before`.
    """

    model: ModelId
    release: str
    shard: ShardKey
    shard_digest: str
    columns: tuple[Column, ...]
    parts: tuple[PartInfo, ...]
    rows: int
    quarantined: int
    emptied: tuple[EmptiedColumn, ...] = ()
    environment: str
    adopted: Adoption | None = None
    seconds: float
    seconds_before: float = 0.0
    finished_at: datetime

    @model_validator(mode="after")
    def _has_parts_of_its_own(self) -> Self:
        folder = f"{storage.raw_prefix(self.model, self.shard)}/"
        for part in self.parts:
            name = part.name.removeprefix(folder)
            if name == part.name or not _PART.fullmatch(name):
                raise ValueError(f"{part.name[:80]!r} is not the name of a part of this shard")
        return self

    @property
    def seconds_in_all(self) -> float:
        """The seconds of all runs that have finished the shard."""
        return self.seconds_before + self.seconds

    @property
    def computed_by(self) -> tuple[str, ...]:
        """The releases that have computed the predictions."""
        return tuple(sorted({self.release, *(self.adopted.computed_by if self.adopted else ())}))

    @cached_property
    def digest(self) -> str:
        """Digest of the content: equal for equal values of the same release, regardless of time and environment.

        The names of parts have the environment; their checksums stay, and determine the emptied cells.
        """
        ignored = dict.fromkeys(("emptied", "environment", "adopted", "seconds", "seconds_before", "finished_at"), True)
        content = self.model_dump_json(exclude={**ignored, "parts": {"__all__": {"name"}}})
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def manifest_name(model: str, shard: str) -> str:
    """Return the object name of a shard's manifest."""
    return f"{storage.raw_prefix(model, shard)}/manifest.json"


def find_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest | None:
    """Return a shard's manifest, None without raw predictions. Raises ShardError if it is damaged."""
    remedy = f"delete it and predict shard {shard} again"
    slot = Slot(store, manifest_name(model, shard), RawManifest, ShardError, remedy)
    manifest = slot.read()
    if manifest and (manifest.model, manifest.shard) != (model, shard):
        raise ShardError(f"{slot.name} is damaged (it is of another model or shard); {remedy}")
    return manifest


def require_manifest(store: ObjectStore, model: str, shard: str) -> RawManifest:
    """Return a shard's manifest. Raises ShardError if it is missing or damaged."""
    manifest = find_manifest(store, model, shard)
    if manifest is None:
        raise ShardError(f"{model} has no raw predictions for this shard; run `precalc predict {model}` first")
    return manifest


def read_part(
    store: ObjectStore, part: PartInfo, columns: tuple[Column, ...]
) -> Iterator[tuple[pl.DataFrame, tuple[InvalidCells, ...]]]:
    """Read a part in frames: `key` and the model's typed columns, each with its invalid cells.

    Memory holds some 4 MB of text, a million cells, and 4 MB of the object; a file holds the rest of it. Raises
    ShardError if the object is missing, its SHA-256 is not the manifest's, or its content is not CSV.
    """
    remedy = "delete it and predict the shard again"
    with _checked_content(store, part, remedy) as file:
        header = b""
        try:
            for records in _split_content(file, len(columns)):
                yield read_cells(header + records, columns, "key")
                header = header or records[: _end_of_first(records)]
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise ShardError(f"{part.name} is not gzipped CSV ({reason(error)}); {remedy}") from None


@contextmanager
def _checked_content(store: ObjectStore, part: PartInfo, remedy: str) -> Iterator[IO[bytes]]:
    """Open a part's object as a file, in memory if it is small. Raises ShardError like `read_part`."""
    digest = hashlib.sha256()
    with io.BytesIO() if part.bytes <= _BLOCK_BYTES else TemporaryFile(prefix="precalc-") as file:
        try:
            for chunk in obstore.get(store, part.name).stream(min_chunk_size=_BLOCK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        except FileNotFoundError:
            raise ShardError(
                f"{part.name} is missing although its manifest names it; predict the shard again"
            ) from None
        if digest.hexdigest() != part.sha256:
            raise ShardError(f"{part.name} is damaged: its SHA-256 is not the manifest's; {remedy}")
        file.seek(0)
        yield file


def _split_content(file: IO[bytes], width: int) -> Iterator[bytes]:
    """Yield the text of a part in blocks of whole records: 4 MB, or fewer that have about a million cells."""
    if isinstance(file, io.BytesIO) and int.from_bytes(file.getvalue()[-4:], "little") <= _BLOCK_BYTES:
        # The last bytes of gzip are the size of the text, which is read faster in one piece.
        yield gzip.decompress(file.getvalue())
        return
    with gzip.GzipFile(fileobj=file, mode="rb") as content:
        rest, size = b"", _FIRST_BYTES
        while chunk := content.read(size):
            rest += chunk
            bytes_per_row = len(rest) // (rest.count(b"\n") + 1)
            size = min(_BLOCK_BYTES, max(_FIRST_BYTES, bytes_per_row * _BLOCK_CELLS // max(1, width)))
            end = _end_of_records(rest, rest.rfind(b"\n") + 1)
            chunk, rest = rest[:end], rest[end:]
            if chunk:
                yield chunk
        if rest:
            yield rest


def _end_of_first(text: bytes) -> int:
    """Return the end of the first record. Raises ValueError if it has none."""
    end = text.index(b"\n") + 1
    while text.count(b'"', 0, end) % 2:
        end = text.index(b"\n", end) + 1
    return end


def _end_of_records(text: bytes, end: int) -> int:
    """Return the last end of a record at or before a line's end, which may be within quotes; 0 if there is none."""
    quotes = text.count(b'"', 0, end)
    while quotes % 2:
        before = text.rfind(b"\n", 0, end - 1) + 1
        quotes -= text.count(b'"', before, end)
        end = before
    return end

"""Building the library: an external partition of the parsed rows into shards, and their files.

Rows stream from the source file through RDKit onto local disk, one spill file per shard; then shards are finished
one at a time. So memory holds a shard, never the library. `library_manifest` has what readers see of the result.
"""

import csv
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from precalc.molecule_files import read_rows, survey
from precalc.smiles_workers import BATCH, ParsedRow, parse_rows
from precalc_assets import storage
from precalc_assets.library.leftovers import shards_before, warn_of_leftovers
from precalc_assets.library.library_manifest import SHARD_SCHEMA, LibraryManifest, ShardInfo, with_digest
from precalc_assets.platform_errors import LibraryError
from precalc_assets.sharding import key_hash, shard_index, shard_key

Progress = Callable[[int, int], None]
"""Called with the rows parsed so far and the rows in all."""

_SPILL_AT = 20_000
"""Molecules held back before they go to the spill files: some 4 MB."""

_REASONS_SHOWN = 3


def build_library(
    store: ObjectStore,
    source: Path,
    *,
    n_shards: int,
    processes: int,
    on_progress: Progress | None = None,
) -> LibraryManifest:
    """Parse a library file, and write its shards, the rejected rows and the manifest to the store, in this order.

    A molecule's first row in the file is the one that is kept. Shards whose molecules have not changed are not
    written again. With another number of shards, what is left of the predictions of the old ones is named in the log,
    and stays. The source file itself does not go to the store: see `put_source`, for afterwards.
    Raises LibraryError for a file that cannot be read, and for one without a single molecule; the library that was
    in the store then stays as it was.
    """
    started = time.perf_counter()
    before = shards_before(store)
    found = survey(source)
    if found.rows == 0:
        raise LibraryError(f"{source.name}: there are no rows below the header; it needs one SMILES per line")
    with tempfile.TemporaryDirectory(prefix="precalc-library-") as folder:
        spill = _Spill(Path(folder), n_shards)
        rejected = Path(folder) / "rejected.csv"
        # More workers than batches would only start and stop.
        batches = parse_rows(read_rows(source), min(processes, -(-found.rows // BATCH)))
        n_rejected = _partition(_reporting(batches, found.rows, on_progress), spill, rejected)
        if n_rejected == found.rows:
            raise LibraryError(_nothing_left(source, found.rows, rejected))
        keys = [shard_key(i, n_shards) for i in range(n_shards)]
        shards = {key: _write_shard(store, key, spill.read(i)) for i, key in enumerate(keys)}
        obstore.put(store, storage.REJECTED, rejected)
    molecules = sum(shard.rows for shard in shards.values())
    manifest = LibraryManifest(
        source=source.name,
        source_sha256=_file_sha256(source),
        n_shards=n_shards,
        rows=found.rows,
        blank_lines=found.blank_lines,
        rejected=n_rejected,
        duplicates=found.rows - n_rejected - molecules,
        molecules=molecules,
        digest=_sha256(shard.digest for shard in shards.values()),
        built_at=datetime.now(UTC),
        seconds=round(time.perf_counter() - started, 3),
        shards=shards,
    )
    obstore.put(store, storage.LIBRARY_MANIFEST, manifest.model_dump_json(indent=2).encode())
    _delete_other_shards(store, shards)
    warn_of_leftovers(store, n_shards, before)
    return manifest


class _Spill:
    """Molecules on local disk, one file per shard, in the order in which they came.

    Files are opened only to be appended to: there may be more shards than a process may have open files.
    """

    def __init__(self, folder: Path, n_shards: int) -> None:
        self._folder = folder
        self._n_shards = n_shards
        self._held: dict[int, list[str]] = {}
        self._n_held = 0

    def add(self, inchikey: str, smiles: str) -> None:
        """Put a molecule to its shard. A SMILES that RDKit took has no white space, so the line needs no quotes."""
        shard = shard_index(key_hash(inchikey), self._n_shards)
        self._held.setdefault(shard, []).append(f"{inchikey}\t{smiles}\n")
        self._n_held += 1
        if self._n_held >= _SPILL_AT:
            self._flush()

    def read(self, shard: int) -> Iterator[tuple[str, str]]:
        """Yield a shard's (InChIKey, SMILES)."""
        self._flush()
        path = self._path(shard)
        if path.exists():
            with path.open(encoding="utf-8", newline="\n") as file:
                for line in file:
                    inchikey, _, smiles = line.rstrip("\n").partition("\t")
                    yield inchikey, smiles

    def _flush(self) -> None:
        for shard, lines in self._held.items():
            with self._path(shard).open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        self._held.clear()
        self._n_held = 0

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard}.tsv"


def _partition(batches: Iterable[list[ParsedRow]], spill: _Spill, rejected: Path) -> int:
    """Send molecules to the spill and the other rows to a CSV of row, input and reason; return how many these are."""
    n_rejected = 0
    with rejected.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "input", "reason"))
        for parsed in batches:
            for row, smiles, inchikey, reason in parsed:
                if reason:
                    writer.writerow((row, smiles, reason))
                    n_rejected += 1
                else:
                    spill.add(inchikey, smiles)
    return n_rejected


def _reporting(
    batches: Iterable[list[ParsedRow]], total: int, on_progress: Progress | None
) -> Iterator[list[ParsedRow]]:
    done = 0
    for parsed in batches:
        yield parsed
        done += len(parsed)
        if on_progress is not None:
            on_progress(done, total)


def _write_shard(store: ObjectStore, shard: str, molecules: Iterable[tuple[str, str]]) -> ShardInfo:
    """Write a shard in one put, unless the store has just these molecules in it already."""
    kept = distinct(molecules)
    digest = _sha256(f"{inchikey}\t{smiles}\n" for inchikey, smiles in kept)
    columns = [[inchikey for inchikey, _ in kept], [smiles for _, smiles in kept]]
    sink = pa.BufferOutputStream()
    pq.write_table(
        with_digest(pa.table(columns, schema=SHARD_SCHEMA), digest),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    content = sink.getvalue().to_pybytes()
    name = storage.library_shard(shard)
    if _stored(store, name) != content:
        obstore.put(store, name, content)
    return ShardInfo(rows=len(kept), digest=digest, bytes=len(content))


def _stored(store: ObjectStore, name: str) -> bytes | None:
    try:
        return obstore.get(store, name).bytes().to_bytes()
    except FileNotFoundError:
        return None


def distinct(molecules: Iterable[tuple[str, str]], place: Callable[[str], int] = key_hash) -> list[tuple[str, str]]:
    """Return (InChIKey, SMILES) sorted by `place` of the InChIKey, the first of those with the same InChIKey.

    Raises LibraryError for two InChIKeys in one place: pages find a molecule by its hash alone.
    """
    first: dict[str, str] = {}
    for inchikey, smiles in molecules:
        first.setdefault(inchikey, smiles)
    placed = sorted((place(inchikey), inchikey, smiles) for inchikey, smiles in first.items())
    for (h, inchikey, _), (next_h, other, _) in pairwise(placed):
        if h == next_h:
            raise LibraryError(f"{inchikey} and {other} have the same hash; take one of them out of the library")
    return [(inchikey, smiles) for _, inchikey, smiles in placed]


def _delete_other_shards(store: ObjectStore, shards: Iterable[str]) -> None:
    """Delete the shards of a library with more of them: the folder is also read as one table."""
    ours = {storage.library_shard(shard) for shard in shards}
    prefix = storage.library_shard("").removesuffix(".parquet")
    listed = storage.list_sizes(store, prefix.rpartition("/")[0])
    others = [name for name in listed if name.startswith(prefix) and name not in ours]
    if others:
        obstore.delete(store, others)


def _nothing_left(source: Path, rows: int, rejected: Path) -> str:
    with rejected.open(encoding="utf-8", newline="") as file:
        first = islice(csv.DictReader(file), _REASONS_SHOWN)
        reasons = "; ".join(f"row {row['row']}: {row['reason']}" for row in first)
    return f"{source.name}: none of its {rows} rows is a molecule ({reasons}); nothing was changed"


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Building the library: partition the rows of the source file into shards, and write the shards' files.

Rows stream from the source file through RDKit to local disk, one spill file per shard. Then each shard is written in
turn, so memory holds one shard, never the library. `library_manifest` reads the result.
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
"""Called with the number of rows parsed so far and the total."""

_SPILL_AT = 20_000
"""Molecules buffered before they are written to the spill files: some 4 MB."""

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

    Of duplicate molecules, the first row counts. Unchanged shards are not rewritten. If the number of shards changed,
    predictions of the old shards stay, and the log warns of them. The source file is not copied to the store: call
    `put_source` afterwards.

    Raises LibraryError for a file that cannot be read or has no molecule; the store is then unchanged.
    """
    started = time.perf_counter()
    before = shards_before(store)
    counts = survey(source)
    if counts.rows == 0:
        raise LibraryError(f"{source.name}: there are no rows below the header; it needs one SMILES per line")
    with tempfile.TemporaryDirectory(prefix="precalc-library-") as folder:
        spill = _Spill(Path(folder), n_shards)
        rejected = Path(folder) / "rejected.csv"
        # More workers than batches would be idle.
        batches = parse_rows(read_rows(source), min(processes, -(-counts.rows // BATCH)))
        n_rejected = _partition(_reporting(batches, counts.rows, on_progress), spill, rejected)
        if n_rejected == counts.rows:
            raise LibraryError(_no_molecules(source, counts.rows, rejected))
        keys = [shard_key(i, n_shards) for i in range(n_shards)]
        shards = {key: _write_shard(store, key, spill.read(i)) for i, key in enumerate(keys)}
        obstore.put(store, storage.REJECTED, rejected)
    molecules = sum(shard.rows for shard in shards.values())
    manifest = LibraryManifest(
        source=source.name,
        source_sha256=_file_sha256(source),
        n_shards=n_shards,
        rows=counts.rows,
        blank_lines=counts.blank_lines,
        rejected=n_rejected,
        duplicates=counts.rows - n_rejected - molecules,
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
    """Molecules on local disk, one file per shard, in the order of the source file.

    Files are opened only for each append: there may be more shards than a process may have open files.
    """

    def __init__(self, folder: Path, n_shards: int) -> None:
        self._folder = folder
        self._n_shards = n_shards
        self._held: dict[int, list[str]] = {}
        self._n_held = 0

    def add(self, inchikey: str, smiles: str) -> None:
        """Add a molecule to its shard. A SMILES that RDKit parsed has no white space, so lines need no quotes."""
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
    """Write molecules to the spill, rejected rows to a CSV (row, input, reason); return the number of rejected rows."""
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
    """Write a shard in one put, unless the store holds the same bytes already."""
    unique = distinct(molecules)
    digest = _sha256(f"{inchikey}\t{smiles}\n" for inchikey, smiles in unique)
    columns = [[inchikey for inchikey, _ in unique], [smiles for _, smiles in unique]]
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
    return ShardInfo(rows=len(unique), digest=digest, bytes=len(content))


def _stored(store: ObjectStore, name: str) -> bytes | None:
    try:
        return obstore.get(store, name).bytes().to_bytes()
    except FileNotFoundError:
        return None


def distinct(molecules: Iterable[tuple[str, str]], place: Callable[[str], int] = key_hash) -> list[tuple[str, str]]:
    """Return (InChIKey, SMILES) sorted by `place(inchikey)`, only the first of each InChIKey.

    Raises LibraryError for two InChIKeys with the same place: pages find a molecule by its hash alone.
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
    """Delete the other shards of an earlier library, since the folder is also read as one table."""
    own_names = {storage.library_shard(shard) for shard in shards}
    prefix = storage.library_shard("").removesuffix(".parquet")
    listed = storage.list_sizes(store, prefix.rpartition("/")[0])
    others = [name for name in listed if name.startswith(prefix) and name not in own_names]
    if others:
        obstore.delete(store, others)


def _no_molecules(source: Path, rows: int, rejected: Path) -> str:
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

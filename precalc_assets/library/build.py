"""Building the library: partition the rows of the source file into shards, and write the shards' files.

Rows stream from the source file through RDKit to local disk, one spill file per shard. Then each shard is written in
turn, so memory holds one shard, never the library. `library_manifest` reads the result.

A build adds objects, whose names have their digests, replaces the manifest, and only then deletes the objects of the
library before. So a build that is killed at any instant leaves the old library or the new one.
"""

import csv
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from precalc.molecules.file_content import suffix_of
from precalc.molecules.molecule_columns import Wanted
from precalc.molecules.reading import MoleculeTable, read_table
from precalc.molecules.smiles_workers import BATCH, ParsedRow, parse_rows
from precalc.progress import OnProgress, ignore_progress
from precalc.scratch import scratch_folder
from precalc_assets import storage
from precalc_assets.library.library_manifest import (
    GROUP_ROWS,
    SHARD_SCHEMA,
    LibraryManifest,
    ShardInfo,
    find_library,
    with_digest,
)
from precalc_assets.platform_errors import LibraryError
from precalc_assets.sharding import key_hash, shard_index, shard_keys

logger = logging.getLogger(__name__)

_SPILL_AT = 20_000
"""Molecules buffered before they are written to the spill files: some 4 MB."""

_CHUNK = 8 << 20
_REASONS_SHOWN = 3
_WARNED_SHARE, _REFUSED_SHARE = 0.1, 0.5
"""Shares of rejected rows above which a build warns, and refuses the file: it is mostly another column, or format."""


def demo_library() -> Path:
    """Return RDKit's file of 4,999 molecules of the NCI, which include invalid ones and duplicates."""
    from rdkit import RDConfig  # RDKit takes long to load, and most commands do not need it.

    return Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def build_library(
    store: ObjectStore,
    source: Path | None,
    *,
    n_shards: int,
    processes: int,
    column: str | None = None,
    accept_rejected: bool = False,
    show: Callable[[int], AbstractContextManager[OnProgress]] = lambda _: nullcontext(ignore_progress),
) -> LibraryManifest:
    """Build the library from a file; by default from the one that it was built from or, if there is none, the demo's.

    A molecule is stored as its canonical SMILES. Of rows with the same InChIKey the first one counts; those that are
    another form of the molecule are listed. Unchanged shards are not rewritten. If the number of shards changed,
    predictions of the old shards stay, and the log warns of them. `show` gets the number of rows and returns the
    context that is told of those that are parsed.

    `column` names the file's column of molecules, which is otherwise found by its name; a rebuild reads the same one.

    Rows that are no molecules are listed, and three of them logged. Raises LibraryError for a new file of which more
    than half are none, unless `accept_rejected`, and for a file in the store that is missing or damaged;
    MoleculeFileError for a file that cannot be read. The library is then unchanged; the list is there, until the next
    build.
    """
    started = time.perf_counter()
    with scratch_folder() as folder:
        try:
            before = find_library(store)
        except LibraryError:
            before = None  # the build replaces a damaged manifest
        is_new = source is not None
        name = source.name if source else before.source if before else ""
        source = source or _fetch_source(store, before, folder)
        column = column if is_new else before.column if before else None
        table = read_table(source, Wanted(column, keys=False))
        n_rows = sum(1 for _ in _filled_rows(table))
        spill = _Spill(folder, n_shards)
        # More workers than batches would be idle.
        batches = parse_rows(_filled_rows(table), min(processes, -(-n_rows // BATCH)))
        with show(n_rows) as on_progress, _RowList(folder / "rejected.csv", "row", "input", "reason") as rejected:
            _partition(batches, spill, rejected, on_progress)
        rejected_file = storage.rejected(_file_sha256(rejected.path))
        refused = f"{_refused_rows(source, n_rows, rejected)}; {rejected_file} in {store} lists them"
        if rejected.rows == n_rows or (is_new and not accept_rejected and rejected.rows > _REFUSED_SHARE * n_rows):
            obstore.put(store, rejected_file, rejected.path)
            way = "name another file, or its column with --input-column"
            if rejected.rows < n_rows:
                way += "; if it is the right one, build with --accept-rejected"
            raise LibraryError(f"{refused}. The library stays as it was; {way}")
        sha256 = _file_sha256(source)
        source_file = storage.library_source(sha256, suffix_of(source))
        obstore.put(store, source_file, source)
        obstore.put(store, rejected_file, rejected.path)
        with _RowList(folder / "other_forms.csv", "row", "inchikey", "form", "smiles") as other_forms:
            shards = {
                key: _write_shard(store, key, spill.read(i), other_forms) for i, key in enumerate(shard_keys(n_shards))
            }
        other_forms_file = storage.other_forms(_file_sha256(other_forms.path))
        obstore.put(store, other_forms_file, other_forms.path)
    molecules = sum(shard.rows for shard in shards.values())
    manifest = LibraryManifest(
        source=name or source.name,
        column=column,
        source_file=source_file,
        source_sha256=sha256,
        rejected_file=rejected_file,
        other_forms_file=other_forms_file,
        n_shards=n_shards,
        rows=n_rows,
        rejected=rejected.rows,
        duplicates=n_rows - rejected.rows - molecules,
        other_forms=other_forms.rows,
        molecules=molecules,
        rdkit=version("rdkit"),
        digest=_sha256(shard.digest for shard in shards.values()),
        built_at=datetime.now(UTC),
        seconds=round(time.perf_counter() - started, 3),
        shards=shards,
    )
    own = {source_file, rejected_file, other_forms_file}
    own |= {storage.library_shard(shard, info.digest) for shard, info in shards.items()}
    names = {name for folder in (storage.LIBRARY, storage.SOURCES) for name in storage.list_sizes(store, folder)}
    stored = {name for name in names if name.startswith(storage.MADE_BY_BUILDS)}
    if not own <= stored:
        raise LibraryError(f"another build has replaced the library in {store} meanwhile; run the same command again")
    if rejected.rows:
        log = logger.warning if rejected.rows > _WARNED_SHARE * n_rows else logger.info
        log(refused)
    obstore.put(store, storage.LIBRARY_MANIFEST, manifest.model_dump_json(indent=2).encode())
    if stored - own:
        obstore.delete(store, sorted(stored - own))
    warn_of_leftovers(store, n_shards, before.n_shards if before else None)
    return manifest


def _is_rejected_list(name: str) -> bool:
    return name.startswith(f"{storage.LIBRARY}/rejected-")


def _fetch_source(store: ObjectStore, library: LibraryManifest | None, folder: Path) -> Path:
    """Return a verified copy of the file that the library was built from; the demo's if the store has no library."""
    sources = list(storage.list_sizes(store, storage.SOURCES))
    name = library.source_file if library else sources[0] if len(sources) == 1 else ""
    # A refused build leaves a list of rejected rows, also where no library is.
    if not (sources or [each for each in storage.list_sizes(store, storage.LIBRARY) if not _is_rejected_list(each)]):
        return demo_library()
    if name not in sources:
        raise LibraryError(
            f"the source file of the library in {store} is missing or not known; run `precalc library build PATH`"
        )
    path = folder / name.rpartition("/")[2]
    with path.open("wb") as file:
        file.writelines(obstore.get(store, name).stream(min_chunk_size=_CHUNK))
    sha256 = _file_sha256(path)
    if name != storage.library_source(sha256, suffix_of(path)) or (library and library.source_sha256 != sha256):
        raise LibraryError(
            f"{name} in {store} is damaged: it has another SHA-256 than when the library was built from it; run "
            f"`precalc library build PATH` with a good copy{f' of {library.source}' if library else ''}"
        )
    return path


def _filled_rows(table: MoleculeTable) -> Iterator[tuple[int, str]]:
    """Yield (row, text of the molecule) for the rows that have a filled cell: spreadsheets end in empty ones."""
    for batch in table.batches():
        cells = batch.cells() if "" in batch.texts else ()
        for at, (row, text) in enumerate(zip(batch.rows, batch.texts, strict=True)):
            if text or any(cells[at]):
                yield row, text


class _RowList:
    """A CSV on local disk of rows of the source file, and their number."""

    def __init__(self, path: Path, *names: str) -> None:
        self.path = path
        self.rows = 0
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, *cells: str | int) -> None:
        """Add a row."""
        self._writer.writerow(cells)
        self.rows += 1


class Molecule(NamedTuple):
    """A row of the source file that is a molecule."""

    row: int
    inchikey: str
    form: str


class _Spill:
    """Molecules on local disk, one file per shard, in the order of the source file.

    Files are opened only for each append: there may be more shards than a process may have open files.
    """

    def __init__(self, folder: Path, n_shards: int) -> None:
        self._folder = folder
        self._n_shards = n_shards
        self._held: dict[int, list[str]] = {}
        self._n_held = 0

    def add(self, molecule: Molecule) -> None:
        """Add a molecule to its shard. A canonical SMILES has no white space, so lines need no quotes."""
        shard = shard_index(key_hash(molecule.inchikey), self._n_shards)
        self._held.setdefault(shard, []).append("{}\t{}\t{}\n".format(*molecule))
        self._n_held += 1
        if self._n_held >= _SPILL_AT:
            self._flush()

    def read(self, shard: int) -> Iterator[Molecule]:
        """Yield a shard's molecules."""
        self._flush()
        path = self._folder / f"{shard}.tsv"
        if path.exists():
            with path.open(encoding="utf-8", newline="\n") as file:
                for line in file:
                    row, inchikey, form = line.rstrip("\n").split("\t")
                    yield Molecule(int(row), inchikey, form)

    def _flush(self) -> None:
        for shard, lines in self._held.items():
            with (self._folder / f"{shard}.tsv").open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        self._held.clear()
        self._n_held = 0


def _partition(batches: Iterable[list[ParsedRow]], spill: _Spill, rejected: _RowList, on_progress: OnProgress) -> None:
    for parsed in batches:
        for row, smiles, inchikey, form, reason in parsed:
            if reason:
                rejected.add(row, smiles, reason)
            else:
                spill.add(Molecule(row, inchikey, form))
        on_progress(len(parsed), 0)


def _write_shard(store: ObjectStore, shard: str, molecules: Iterable[Molecule], other_forms: _RowList) -> ShardInfo:
    """Write a shard in one put, unless the store holds the same bytes already, and list the rows of other forms."""
    forms: dict[str, str] = {}
    for row, inchikey, form in molecules:
        stored_form = forms.setdefault(inchikey, form)
        if form != stored_form:
            other_forms.add(row, inchikey, form, stored_form)
    unique = in_order(forms)
    digest = _sha256(f"{inchikey}\t{smiles}\n" for inchikey, smiles in unique)
    columns = [[inchikey for inchikey, _ in unique], [smiles for _, smiles in unique]]
    sink = pa.BufferOutputStream()
    pq.write_table(
        with_digest(pa.table(columns, schema=SHARD_SCHEMA), digest),
        sink,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        write_page_checksum=True,
    )
    content = sink.getvalue().to_pybytes()
    name = storage.library_shard(shard, digest)
    try:
        stored = storage.read_object(store, name)
    except FileNotFoundError:
        stored = None
    if stored != content:
        obstore.put(store, name, content)
    return ShardInfo(rows=len(unique), digest=digest, bytes=len(content))


def in_order(molecules: Mapping[str, str], place: Callable[[str], int] = key_hash) -> list[tuple[str, str]]:
    """Return (InChIKey, SMILES) sorted by place. Raises LibraryError for one that is taken: pages know only places."""
    placed = sorted((place(inchikey), inchikey, smiles) for inchikey, smiles in molecules.items())
    for (h, inchikey, _), (next_h, other, _) in pairwise(placed):
        if h == next_h:
            raise LibraryError(f"{inchikey} and {other} have the same hash; take one of them out of the library")
    return [(inchikey, smiles) for _, inchikey, smiles in placed]


def warn_of_leftovers(store: ObjectStore, n_shards: int, before: int | None) -> None:
    """Log a warning that names the predictions of another number of shards. The previous library had `before` shards.

    No command reads them any more, and nothing deletes them: if the change was a mistake, restoring the old number
    restores them, and other programs may read the folder as one table. Raw predictions are no leftovers: `precalc
    predict` reuses them for any number of shards, and deletes none that were made for another number.
    """
    changed = before not in (None, n_shards)
    own_shards = {f"shard={shard}" for shard in shard_keys(n_shards)}
    names = [name for folder in (storage.PREDICTIONS, storage.QUARANTINE) for name in storage.list_sizes(store, folder)]
    left = [name for name in names if changed or PurePosixPath(name).stem not in own_shards]
    if left:
        folders = f"{storage.PREDICTIONS}/ and {storage.QUARANTINE}/"
        back = f", or build the library with {before} shards again" if changed else ""
        logger.warning(
            f"{len(left)} files in {folders} are of another number of shards than {n_shards}, such as {left[0]}: "
            f"programs that read all files as one table find molecules twice; delete them{back}. Raw predictions stay, "
            "and `precalc predict` reuses them"
        )


def _refused_rows(source: Path, rows: int, rejected: _RowList) -> str:
    """Return how many rows are no molecules, with the first ones' reasons."""
    with rejected.path.open(encoding="utf-8", newline="") as file:
        first = islice(csv.DictReader(file), _REASONS_SHOWN)
        reasons = "; ".join(f"row {row['row']}: {row['reason']}" for row in first)
    return f"{source.name}: {rejected.rows:,} of {rows:,} rows are no molecules ({reasons})"


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

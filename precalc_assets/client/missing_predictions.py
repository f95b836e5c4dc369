"""Getting what is precalculated, and running the model on the rest, into one file in the order of the request.

There are three steps, and each continues after an interruption. What is precalculated is read into
`.out.csv.found.partial`. The missing molecules are computed into `.out.csv.computed`, batch by batch. Both are put
together. Nothing is written to tables or to the store.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from precalc.formats import Block, JsonLinesFormat, read_json_blocks
from precalc.getting import MISSING, REASONS, Computation, Counts, MissingFormat, OnRows, Request, fill, ignore_rows
from precalc.identifiers import read_inchikey
from precalc.partial_files import PartialFiles, write_all
from precalc.source import ModelInfo
from precalc.statuses import COMPUTED, KEY, MODEL_FAILED, SAME
from precalc_assets.columns import columns_digest
from precalc_assets.emptied_cells import EmptiedColumn, describe_emptied, merge_emptied
from precalc_assets.inference.batching import ComputedMolecule, predict_molecules
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.platform_errors import ModelError, PrecalcError
from precalc_assets.predictions.cells import count_emptied, read_records
from precalc_assets.settings import Settings, load_settings
from precalc_assets.tables.reader import Row

_log = logging.getLogger(__name__)

_NO_SMILES = "it was given by InChIKey, and its SMILES is not in the reference library"

OnComputed = Callable[[int], OnRows]
"""Called with how many molecules are to be computed; returns what is called with how many more are."""


def compute_missing(
    request: Request,
    path: Path,
    *,
    on_rows: OnRows = ignore_rows,
    on_computed: OnComputed = lambda _: ignore_rows,
    settings: Settings | None = None,
    open_it: Callable[[], ModelBackend] | None = None,
) -> tuple[Counts, Computation]:
    """Write predictions to a file, with those that are not precalculated.

    The status of these is `computed`, or `model_failed`, with the reason. They are computed by the settings' model and
    backend, or by the one that `open_it` opens. Raises ModelError if the model cannot be run; finished work is kept for
    the next call.
    """
    settings = settings or load_settings()
    info = request.model.info
    layout = replace(request.layout, keep_input=True)
    as_lines = MissingFormat(b"", lambda missing: "".join(f"{json.dumps(pair)}\n" for pair in missing))
    found, missing = (path.with_name(f"{path.name}.{kind}") for kind in ("found", "missing"))
    plan = request.plan | {"options": ["computed", request.smiles, request.reasons]}
    with PartialFiles(found, [missing], plan) as files:
        counts = fill(files, request, JsonLinesFormat(layout, {}), as_lines, on_rows)
        files.close()
        found, missing = files.partials
        if counts.of(*MISSING):
            backend = open_it() if open_it else open_backend(open_model(info.model, settings), settings)
            _warn_of_release(info, backend)
            made_by = [info.model, backend.release, columns_digest("", backend.columns), request.molecules.digest]
            file = path.with_name(f".{path.name}.computed")
            try:
                with closing(_Computed(file, made_by, info, backend)) as computed:
                    computed.add_missing(missing, settings, on_computed)
                    provenance = info.provenance | {"computed_by_release": backend.release}
                    _write(request, provenance, map(computed.complete, read_json_blocks(found, layout)), path)
            except sqlite3.Error as error:
                way = "make room" if isinstance(error, sqlite3.OperationalError) else "delete it, since it is damaged"
                raise PrecalcError(
                    f"{file} cannot be used: {error}; {way}, then run the same command to continue"
                ) from None
            file.unlink()
            outcome = computed.outcome
            if computed.emptied:
                _log.warning("WARNING: %s", describe_emptied(computed.emptied))
        else:
            outcome = Computation()
            _write(request, info.provenance, read_json_blocks(found, layout), path)
        files.remove()
    return counts, outcome


def _write(request: Request, provenance: dict[str, object], blocks: Iterable[Block], path: Path) -> None:
    writer = request.format(request.layout, provenance)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb", buffering=0) as file:
        write_all(file, writer.start())
        for block in blocks:
            write_all(file, writer.encode(block))
    writer.finish(partial, path)


class _Computed:
    """What the model printed for the missing molecules, by InChIKey, in an SQLite file that survives a kill."""

    def __init__(self, path: Path, made_by: Sequence[str], info: ModelInfo, backend: ModelBackend) -> None:
        """Open the file, and empty it if it was made by something else than `made_by`."""
        self.outcome = Computation(release=backend.release)
        self.emptied: tuple[EmptiedColumn, ...] = ()
        self._info = info
        self._backend = backend
        places = {(column.name, column.type): at for at, column in enumerate(backend.columns)}
        self._places = [places.get((column.name, column.type)) for column in info.columns]
        self._file = sqlite3.connect(path)
        with self._file as file:
            file.execute("CREATE TABLE IF NOT EXISTS made_by (words)")
            file.execute("CREATE TABLE IF NOT EXISTS molecules (inchikey TEXT PRIMARY KEY, smiles, record, reason)")
            words = json.dumps(made_by)
            if file.execute("SELECT words FROM made_by").fetchall() != [(words,)]:
                file.execute("DELETE FROM molecules")
                file.execute("DELETE FROM made_by")
                file.execute("INSERT INTO made_by VALUES (?)", (words,))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add_missing(self, missing: Path, settings: Settings, on_computed: OnComputed) -> None:
        """Compute the molecules of a file of JSON lines that are not computed yet, each of them once."""
        finished = {inchikey for (inchikey,) in self._file.execute("SELECT inchikey FROM molecules")}
        with missing.open(encoding="utf-8") as file:
            wanted = {key: smiles for key, smiles in map(json.loads, file) if smiles and key not in finished}
        if not wanted:
            return
        on_rows = on_computed(len(wanted))
        keys = iter(wanted)
        with self._backend:
            for batch in predict_molecules(self._info.model, self._backend, wanted.values(), settings):
                rows = [(next(keys), molecule.smiles, molecule.record, molecule.reason) for molecule in batch]
                with self._file as database:
                    database.executemany("INSERT INTO molecules VALUES (?, ?, ?, ?)", rows)
                on_rows(len(batch))

    def complete(self, block: Block) -> Block:
        """Return a block with the computed rows in it, and count them."""
        rows, statuses = list(block.rows), list(block.statuses)
        reasons, matches = list(block.reasons), list(block.matches)
        computed: dict[int, ComputedMolecule] = {}
        for at, (key, status) in enumerate(zip(block.inchikeys, statuses, strict=True)):
            if key is None or status not in MISSING:
                continue
            molecule = self._find(key)
            statuses[at] = MODEL_FAILED if molecule.reason else COMPUTED
            if not molecule.reason:
                computed[at] = molecule
                matches[at] = KEY if read_inchikey(block.texts[at]) else SAME
                continue
            reasons[at] = molecule.reason
            self.outcome.failed += 1
            if len(self.outcome.reasons) < REASONS:
                self.outcome.reasons.append(f"{block.texts[at][:60]!r}: {molecule.reason}")
        self.outcome.computed += len(computed)
        for at, row in zip(computed, self._typed(list(computed.values())), strict=True):
            rows[at] = row
        return replace(block, rows=rows, statuses=statuses, reasons=reasons, matches=matches)

    def _typed(self, molecules: Sequence[ComputedMolecule]) -> Iterator[Row]:
        """Yield what the model printed as the values that would be served, in the columns of the table."""
        if molecules:
            columns, records = self._backend.columns, [molecule.record for molecule in molecules]
            emptied = count_emptied([molecule.smiles for molecule in molecules], records, columns)
            self.emptied = merge_emptied([*self.emptied, *emptied])
            for row in read_records(records, columns).typed.iter_rows():
                yield tuple(None if at is None else row[at] for at in self._places)

    def _find(self, inchikey: str) -> ComputedMolecule:
        query = "SELECT smiles, record, reason FROM molecules WHERE inchikey = ?"
        row = self._file.execute(query, (inchikey,)).fetchone()
        return ComputedMolecule(*row) if row else ComputedMolecule("", b"", _NO_SMILES)


def _warn_of_release(info: ModelInfo, backend: ModelBackend) -> None:
    """Warn that two releases will be in one file. Raises ModelError if they have no column in common."""
    columns = {(column.name, column.type) for column in backend.columns}
    shared = columns & {(column.name, column.type) for column in info.columns}
    table = " and ".join(info.releases) or "no release"
    if not shared:
        raise ModelError(
            f"{info.model} {backend.release} computes other columns than the table of {table} has; "
            "get what is precalculated without --compute-missing"
        )
    if (backend.release,) != info.releases:
        lost = len(info.columns) - len(shared)
        without = f"; {lost:,} columns of the table stay empty in its rows" if lost else ""
        _log.warning(
            "WARNING: the table of %s is of release %s, but release %s computes the rest: both will be in one file, "
            "told apart by the column `status`%s",
            info.model,
            table,
            backend.release,
            without,
        )

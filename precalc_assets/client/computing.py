"""Getting what is precalculated, and running the model on the rest, into one file in the order asked.

In three steps, each of which goes on where it was interrupted or is over in a moment: what is precalculated is read
into `.out.csv.found.partial`, the rest is computed into `.out.csv.computed.partial`, a batch at a time, and both are
put together. Nothing is written to tables or to the store.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from precalc_assets.client.formats import COMPUTED, FAILED, Block, Layout, ParquetFormat, read_blocks
from precalc_assets.client.getting import (
    REASONS,
    Counts,
    Missing,
    MissingFormat,
    OnRows,
    Question,
    Reader,
    fill,
    ignore_rows,
    plan,
)
from precalc_assets.client.partial import PartialFiles, write_all
from precalc_assets.client.source import ModelInfo
from precalc_assets.columns import Column, columns_digest
from precalc_assets.errors import ModelError
from precalc_assets.inference.backend import ModelBackend
from precalc_assets.inference.molecules import ComputedMolecule, predict_molecules
from precalc_assets.tables.reader import Row

_log = logging.getLogger(__name__)

_NO_SMILES = "it was asked for by InChIKey, and its SMILES is not in the reference library"


@dataclass(slots=True)
class Computation:
    """What came of the molecules that were not precalculated: rows of the file that are `computed`, or `failed`.

    `release` is that of the model that computed, empty if nothing was to be computed. `reasons` has the first failures.
    """

    computed: int = 0
    failed: int = 0
    release: str = ""
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Computer:
    """How the rest is computed: what opens the model's backend, and how many molecules are sent to it at a time."""

    open_backend: Callable[[], ModelBackend]
    batch_size: int


def get_and_compute(
    question: Question,
    path: Path,
    computer: Computer,
    *,
    on_rows: OnRows = ignore_rows,
    on_computed: Callable[[int], OnRows] = lambda _: ignore_rows,
) -> tuple[Counts, Computation]:
    """Write predictions to a file, those that are not precalculated too, with the column `source`.

    That is `precalculated`, `computed`, `failed` for a molecule that the model cannot answer, or empty for what is no
    molecule. `on_computed` is told how many molecules are to be computed, and returns what is told of each batch.
    Raises ModelError if the model cannot be run; what is finished is kept for the next time.
    """
    info = question.model.info
    layout = Layout(info.columns, smiles=question.smiles, source=True)
    reader = Reader(question.model, layout, name_missing=True)
    options = {"options": ["computed", question.smiles]}
    found = path.with_name(f"{path.name}.found")
    missing = path.with_name(f"{path.name}.missing")
    with PartialFiles(found, [missing], plan(question) | options) as files:
        counts = fill(
            files, reader, question.molecules, ParquetFormat(layout, {}), MissingFormat(b"", _to_lines), on_rows
        )
        files.close()
        with ExitStack() as stack:
            rest = (
                stack.enter_context(_Rest.compute(question, info, path, files.partials[1], computer, on_computed))
                if counts.missing
                else None
            )
            outcome = rest.outcome if rest else Computation()
            computed_by = {"computed_by_release": rest.outcome.release} if rest else {}
            written = question.format(layout, {**info.provenance, **computed_by})
            partial = path.with_name(f".{path.name}.partial")
            with partial.open("wb", buffering=0) as file:
                write_all(file, written.start())
                for block in read_blocks(files.partials[0], layout):
                    write_all(file, written.encode(rest.complete(block) if rest else block))
            written.finish(partial, path)
            if rest:
                rest.remove()
        files.remove()
    return counts, outcome


class _Rest:
    """What the model printed for the molecules that were not precalculated, in a file of JSON lines; found by InChIKey.

    In memory is only where in the file each molecule is.
    """

    def __init__(self, files: PartialFiles, backend: ModelBackend, columns: Sequence[Column]) -> None:
        self._files = files
        self._columns = backend.columns
        places = {(column.name, column.type): at for at, column in enumerate(backend.columns)}
        self._picks = [places.get((column.name, column.type)) for column in columns]
        self._places: dict[str, int] = {}
        self.outcome = Computation(release=backend.release)

    @classmethod
    def compute(
        cls,
        question: Question,
        info: ModelInfo,
        path: Path,
        missing: Path,
        computer: Computer,
        on_computed: Callable[[int], OnRows],
    ) -> "_Rest":
        """Compute what is still to be computed of the missing molecules."""
        backend = computer.open_backend()
        _warn_of_release(info, backend)
        made_by = {
            "model": info.model,
            "release": backend.release,
            "columns": columns_digest("", backend.columns),
            "input": question.molecules.digest,
        }
        rest = cls(PartialFiles(path.with_name(f"{path.name}.computed"), [], made_by), backend, info.columns)
        with rest._files as files:
            rest._find_places()
            wanted = _wanted(missing, rest._places)
            if wanted:
                on_rows = on_computed(len(wanted))
                with backend:
                    batches = predict_molecules(info.model, backend, wanted.values(), batch_size=computer.batch_size)
                    keys = iter(wanted)
                    done = int(files.state.get("rows", 0))
                    for batch in batches:
                        lines = [_to_line(next(keys), molecule) for molecule in batch]
                        done += len(batch)
                        files.append(["".join(lines).encode()], {"rows": done})
                        on_rows(len(batch))
                rest._find_places()
        return rest

    def __enter__(self) -> Self:
        """Open what was computed."""
        self._file = self._files.partials[0].open("rb")
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def remove(self) -> None:
        """Remove what was computed: it is in the file now."""
        self._files.remove()

    def complete(self, block: Block) -> Block:
        """Return a block with the computed rows in it."""
        rows, sources = list(block.rows), list(block.sources or [])
        at_rows: list[int] = []
        molecules: list[ComputedMolecule] = []
        for at, (key, source) in enumerate(zip(block.inchikeys, sources, strict=True)):
            if key is None or source is not None:
                continue
            molecule = self._find(key)
            if molecule.reason:
                sources[at] = FAILED
                self.outcome.failed += 1
                if len(self.outcome.reasons) < REASONS:
                    self.outcome.reasons.append(f"{block.texts[at][:60]!r}: {molecule.reason}")
            else:
                sources[at] = COMPUTED
                self.outcome.computed += 1
                at_rows.append(at)
                molecules.append(molecule)
        for at, row in zip(at_rows, self._typed(molecules), strict=True):
            rows[at] = row
        return replace(block, rows=rows, sources=sources)

    def _typed(self, molecules: Sequence[ComputedMolecule]) -> Iterator[Row]:
        """Return what was printed as the values that it would be served as."""
        from precalc_assets.predictions import read_records

        if not molecules:
            return iter(())
        typed, _problems = read_records([molecule.record for molecule in molecules], self._columns)
        return (tuple(None if at is None else row[at] for at in self._picks) for row in typed.iter_rows())

    def _find(self, key: str) -> ComputedMolecule:
        place = self._places.get(key)
        if place is None:
            return ComputedMolecule("", b"", _NO_SMILES)
        self._file.seek(place)
        _key, smiles, record, reason = json.loads(self._file.readline())
        return ComputedMolecule(smiles, record.encode(), reason)

    def _find_places(self) -> None:
        with self._files.partials[0].open("rb") as file:
            place = 0
            for line in file:
                self._places[json.loads(line)[0]] = place
                place += len(line)


def _warn_of_release(info: ModelInfo, backend: ModelBackend) -> None:
    """Tell loudly that two releases are in one file. Raises ModelError if they have no column in common."""
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
        without = f"; {lost:,} columns of the table it does not have stay empty" if lost else ""
        _log.warning(
            "WARNING: the table of %s is of release %s, but release %s computes the rest: both will be in one file, "
            "told apart by the column `source`%s",
            info.model,
            table,
            backend.release,
            without,
        )


def _to_lines(missing: Iterable[Missing]) -> bytes:
    return "".join(f"{json.dumps(pair)}\n" for pair in missing).encode()


def _to_line(key: str, molecule: ComputedMolecule) -> str:
    return json.dumps([key, molecule.smiles, molecule.record.decode(), molecule.reason]) + "\n"


def _wanted(missing: Path, there: dict[str, int]) -> dict[str, str]:
    """Return the SMILES of what is to be computed by InChIKey, each molecule once."""
    with missing.open(encoding="utf-8") as file:
        pairs = map(json.loads, file)
        wanted: dict[str, str] = {}
        for key, smiles in pairs:
            if smiles and key not in there:
                wanted.setdefault(key, smiles)
        return wanted

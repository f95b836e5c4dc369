"""Getting predictions of many molecules into a file or a stream, batch by batch, in the order of the request."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from precalc.errors import MoleculeFileError
from precalc.formats import PRECALCULATED, Block, CsvFormat, Format, Layout
from precalc.identifiers import INCHIKEY
from precalc.molecule_input import MoleculeBatch, MoleculeInput
from precalc.partial_files import PartialFiles
from precalc.side_by_side import run_in_order
from precalc.source import OpenModel

_log = logging.getLogger(__name__)

REASONS = 3
"""Molecules that a summary names with the reason why they have no predictions."""

Missing = tuple[str, str | None]
"""A molecule that is not precalculated: its InChIKey, and its SMILES if that is known."""

OnRows = Callable[[int], None]
"""Called with how many more rows are written."""


class MissingFormat(NamedTuple):
    """How missing molecules are written."""

    header: bytes
    encode: Callable[[Sequence[Missing]], bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """Predictions to get: of which model, for which molecules, in which format, and whether with their SMILES."""

    model: OpenModel
    molecules: MoleculeInput
    format: type[Format] = CsvFormat
    smiles: bool = False

    @property
    def plan(self) -> dict[str, object]:
        """What has to be the same for a partial file to be continued, by names for a person."""
        info = self.model.info
        return {
            "source": info.source,
            "model": info.model,
            "release": list(info.releases),
            "library": info.library_digest,
            "last load": info.updated,
            "columns": info.columns_digest,
            "input": self.molecules.digest,
        }


class Answered(NamedTuple):
    """A batch with its rows; `reasons` why texts are unreadable, and the molecules that are not precalculated."""

    block: Block
    reasons: list[str]
    missing: list[Missing]


@dataclass(slots=True)
class Counts:
    """How many molecules are `found`, `missing` (not precalculated) and `unreadable`.

    Of those found, `silent` have no value at all: the model could not answer them. Of those missing, `unnamed` were
    given by InChIKey and their SMILES is not known, so that no model can run on them. `reasons` are those of the first
    unreadable ones.
    """

    rows: int = 0
    found: int = 0
    silent: int = 0
    missing: int = 0
    unnamed: int = 0
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, answered: Answered) -> None:
        """Count a batch."""
        rows = answered.block.rows
        empty, unreadable = rows.count(None), answered.block.inchikeys.count(None)
        self.rows += len(rows)
        self.found += len(rows) - empty
        self.unreadable += unreadable
        self.missing += empty - unreadable
        self.unnamed += sum(smiles is None for _, smiles in answered.missing)
        self.silent += sum(row is not None and row[0] is None and not any(v is not None for v in row) for row in rows)
        self.reasons += answered.reasons[: REASONS - len(self.reasons)]


@dataclass(slots=True)
class Computation:
    """What running a model on the missing molecules gave: `computed` rows, and `failed` ones.

    `release` is that of the model that ran, empty if nothing was missing. `reasons` are those of the first failures.
    """

    computed: int = 0
    failed: int = 0
    release: str = ""
    reasons: list[str] = field(default_factory=list)


def ignore_rows(rows: int) -> None:
    """Do nothing."""


def read_predictions(request: Request, layout: Layout, skip: int = 0, *, find_smiles: bool) -> Iterator[Answered]:
    """Yield the molecules without the first `skip`, batch by batch, in order; several batches are read at a time.

    With `find_smiles`, the SMILES of missing molecules that were given by InChIKey are looked up.
    """
    model = request.model
    read = partial(_read, model, layout, find_smiles=find_smiles)
    return run_in_order(request.molecules.batches(model.batch_size, skip), read, model.parallel)


def get_to_stream(request: Request, stream: BinaryIO) -> Counts:
    """Write predictions to a stream as they come."""
    layout = Layout(request.model.info.columns, smiles=request.smiles)
    writer = request.format(layout, request.model.info.provenance)
    counts = Counts()
    stream.write(writer.start())
    for answered in read_predictions(request, layout, find_smiles=False):
        stream.write(writer.encode(answered.block))
        stream.flush()
        counts.add(answered)
    return counts


def get_to_file(request: Request, path: Path, missing: Path | None = None, *, on_rows: OnRows = ignore_rows) -> Counts:
    """Write predictions to a file, which appears when it is whole; continue where an earlier call was interrupted.

    `missing` gets the known SMILES of the molecules that are not precalculated, as `ersilia run -i` reads them.
    Raises ChangedError if the model is loaded again meanwhile: a file holds predictions of one state of it.
    """
    layout = Layout(request.model.info.columns, smiles=request.smiles)
    writer = request.format(layout, request.model.info.provenance)
    listed = MissingFormat(b"smiles\n", _list_smiles) if missing else None
    options = [request.format.__name__, request.smiles, missing and str(missing)]
    with PartialFiles(path, [missing] if missing else [], request.plan | {"options": options}) as files:
        counts = fill(files, request, layout, writer, listed, on_rows)
        files.close()
        writer.finish(files.partials[0], path)
        if missing:
            files.partials[1].replace(missing)
        files.remove()
    return counts


def fill(
    files: PartialFiles,
    request: Request,
    layout: Layout,
    writer: Format,
    missing_format: MissingFormat | None,
    on_rows: OnRows,
) -> Counts:
    """Write the rest of partial files, and return the counts of all of it.

    The second file, if there is one, gets the missing molecules. If the input turns out to be unusable, the files are
    removed.
    """
    counts = Counts(**files.state)
    if files.different:
        _log.warning(
            "%s: an earlier command left a part that differs in %s; starting from the beginning",
            files.path,
            ", ".join(files.different),
        )
    elif counts.rows:
        _log.info("%s: continuing after row %s", files.path, f"{counts.rows:,}")
    on_rows(counts.rows)
    if not files.state:
        files.append([writer.start(), *([missing_format.header] if missing_format else [])], asdict(counts))
    try:
        for answered in read_predictions(request, layout, counts.rows, find_smiles=missing_format is not None):
            counts.add(answered)
            contents = [writer.encode(answered.block)]
            if missing_format:
                contents.append(missing_format.encode(answered.missing))
            files.append(contents, asdict(counts))
            on_rows(len(answered.block.rows))
    except MoleculeFileError:
        files.remove()
        raise
    return counts


def _read(model: OpenModel, layout: Layout, batch: MoleculeBatch, *, find_smiles: bool) -> Answered:
    answer = model.read([key for key in batch.inchikeys if key], smiles=layout.smiles)
    found, stored = iter(answer.rows), iter(answer.smiles or ())
    rows = [next(found) if key else None for key in batch.inchikeys]
    smiles = [next(stored) if key else None for key in batch.inchikeys] if layout.smiles else None
    sources = [None if row is None else PRECALCULATED for row in rows] if layout.source else None
    empty = [
        (key, text) for key, text, row in zip(batch.inchikeys, batch.texts, rows, strict=True) if key and row is None
    ]
    missing: list[Missing] = [(key, None if INCHIKEY.match(text) else text) for key, text in empty]
    unnamed = [key for key, text in missing if text is None]
    if find_smiles and unnamed:
        looked_up = iter(model.smiles(unnamed))
        missing = [(key, next(looked_up) if text is None else text) for key, text in missing]
    return Answered(Block(batch.inchikeys, batch.texts, rows, smiles, sources), batch.reasons, missing)


def _list_smiles(missing: Sequence[Missing]) -> bytes:
    return "".join(f"{smiles}\n" for _, smiles in missing if smiles).encode()

"""Getting predictions of many molecules into a file or a stream, batch by batch, in the order of the request."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, NamedTuple

from precalc.errors import MoleculeFileError
from precalc.formats import Block, CsvFormat, Format, Layout
from precalc.molecules.molecule_input import MoleculeBatch, MoleculeInput
from precalc.molecules.smiles_keys import identify
from precalc.partial_files import PartialFiles
from precalc.side_by_side import run_in_order
from precalc.source import Answer, OpenModel, Row
from precalc.statuses import (
    NOT_IN_LIBRARY,
    NOT_PREDICTED_YET,
    OTHER_FORM,
    SAME,
    UNREADABLE,
    Match,
    asked_forms,
    compare_forms,
)

_log = logging.getLogger(__name__)

REASONS = 3
"""Molecules that a summary names with the reason why they have no predictions."""

MISSING = (NOT_IN_LIBRARY, NOT_PREDICTED_YET)
"""Statuses of molecules that are not precalculated."""

Missing = tuple[str, str | None]
"""A molecule that is not precalculated: its InChIKey, and its SMILES if that is known."""

OnRows = Callable[[int], None]
"""Called with how many more rows are written."""


class MissingFormat(NamedTuple):
    """How missing molecules are written."""

    header: bytes
    encode: Callable[[Sequence[Missing]], str]


@dataclass(frozen=True, slots=True)
class Request:
    """Predictions to get: of which model, for which molecules, in which format.

    With `smiles`, each row has the library's SMILES; without, those of another form than was asked for have it. With
    `reasons`, rows of molecules on which the model failed have its reason.
    """

    model: OpenModel
    molecules: MoleculeInput
    format: type[Format] = CsvFormat
    smiles: bool = False
    reasons: bool = False

    @property
    def plan(self) -> dict[str, object]:
        """What has to be the same for a partial file to be continued, by names for a person."""
        info = self.model.info
        return {
            "client": version("precalc-client"),
            "source": info.source,
            "model": info.model,
            "release": list(info.releases),
            "library": info.library_digest,
            "last load": info.updated,
            "columns": info.columns_digest,
            "input": self.molecules.digest,
            "columns of the input": list(self.molecules.names),
        }

    @property
    def layout(self) -> Layout:
        """The columns of the file of answers."""
        return Layout(self.model.info.columns, self.molecules.names)


class Answered(NamedTuple):
    """A batch with its rows; `reasons` why texts are unreadable, and the molecules that are not precalculated."""

    block: Block
    reasons: list[str]
    missing: list[Missing]


@dataclass(slots=True)
class Counts:
    """How many rows there are, and how many of each status.

    `other_forms` are predictions for another form than was asked for. Of those that are not precalculated, `unnamed`
    were given by InChIKey and their SMILES is not known, so that no model can run on them. `reasons` are those of the
    first unreadable ones.
    """

    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    other_forms: int = 0
    unnamed: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, answered: Answered) -> None:
        """Count a batch."""
        block = answered.block
        self.rows += len(block.rows)
        self.statuses = dict(Counter(self.statuses) + Counter(block.statuses))
        self.other_forms += block.matches.count(OTHER_FORM)
        self.unnamed += sum(smiles is None for _, smiles in answered.missing)
        self.reasons += answered.reasons[: REASONS - len(self.reasons)]

    def of(self, *statuses: str) -> int:
        """Return how many rows have one of these statuses."""
        return sum(self.statuses.get(status, 0) for status in statuses)


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


def read_predictions(request: Request, skip: int = 0, *, find_smiles: bool) -> Iterator[Answered]:
    """Yield the molecules without the first `skip`, batch by batch, in order; several batches are read at a time.

    With `find_smiles`, the SMILES of missing molecules that were given by InChIKey are looked up.
    """
    model = request.model
    read = partial(_read, request, find_smiles=find_smiles)
    return run_in_order(request.molecules.batches(model.batch_size, skip), read, model.parallel)


def get_to_stream(request: Request, stream: BinaryIO) -> Counts:
    """Write predictions to a stream as they come."""
    info = request.model.info
    writer = request.format(request.layout, info.provenance)
    counts = Counts()
    stream.write(writer.start())
    for answered in read_predictions(request, find_smiles=False):
        stream.write(writer.encode(answered.block))
        stream.flush()
        counts.add(answered)
    return counts


def get_to_file(request: Request, path: Path, missing: Path | None = None, *, on_rows: OnRows = ignore_rows) -> Counts:
    """Write predictions to a file, which appears when it is whole; continue where an earlier call was interrupted.

    `missing` gets the known SMILES of the molecules that are not precalculated, as `ersilia run -i` reads them.
    Raises ChangedError if the model is loaded again meanwhile: a file holds predictions of one state of it.
    """
    info = request.model.info
    writer = request.format(request.layout, info.provenance)
    listed = MissingFormat(b"smiles\n", lambda missing: "".join(f"{smiles}\n" for _, smiles in missing if smiles))
    options = [request.format.__name__, request.smiles, request.reasons, missing and str(missing)]
    with PartialFiles(path, [missing] if missing else [], request.plan | {"options": options}) as files:
        counts = fill(files, request, writer, listed if missing else None, on_rows)
        files.close()
        writer.finish(files.partials[0], path)
        if missing:
            files.partials[1].replace(missing)
        files.remove()
    return counts


def fill(
    files: PartialFiles,
    request: Request,
    writer: Format,
    missing_format: MissingFormat | None,
    on_rows: OnRows,
) -> Counts:
    """Write the rest of partial files, and return the counts of all of it.

    The second file, if there is one, gets the missing molecules. If the input turns out to be unusable, the files are
    removed.
    """
    counts = Counts(**files.state)
    if files.discarded:
        _log.warning("%s: what an earlier command left %s; starting from the beginning", files.path, files.discarded)
    elif counts.rows:
        _log.info("%s: continuing after row %s", files.path, f"{counts.rows:,}")
    on_rows(counts.rows)
    if not files.state:
        files.append([writer.start(), *([missing_format.header] if missing_format else [])], asdict(counts))
    try:
        for answered in read_predictions(request, counts.rows, find_smiles=missing_format is not None):
            counts.add(answered)
            contents = [writer.encode(answered.block)]
            if missing_format:
                contents.append(missing_format.encode(answered.missing).encode())
            files.append(contents, asdict(counts))
            on_rows(len(answered.block.rows))
    except MoleculeFileError:
        files.remove()
        raise
    return counts


def _read(request: Request, batch: MoleculeBatch, *, find_smiles: bool) -> Answered:
    model = request.model
    keys = [key for key in batch.inchikeys if key]
    given_as_smiles = {key for key, form in zip(batch.inchikeys, batch.forms, strict=True) if key and form}
    answer = model.read(keys, smiles=set(keys) if request.smiles else given_as_smiles, reasons=request.reasons)
    rows, statuses = iter(answer.rows), iter(answer.statuses)
    block = _block(
        batch,
        [next(rows) if key else None for key in batch.inchikeys],
        [next(statuses) if key else UNREADABLE for key in batch.inchikeys],
        answer,
        request,
    )
    missing: list[Missing] = [
        (key, form)
        for key, form, status in zip(batch.inchikeys, batch.forms, block.statuses, strict=True)
        if key and status in MISSING
    ]
    if find_smiles and any(smiles is None for _, smiles in missing):
        pairs = zip(batch.inchikeys, block.statuses, strict=True)
        in_library = [key for key, status in pairs if key and status == NOT_PREDICTED_YET]
        known = dict(zip(in_library, model.smiles(in_library), strict=True))
        missing = [(key, smiles or known.get(key)) for key, smiles in missing]
    return Answered(block, batch.unreadable(), missing)


def _block(
    batch: MoleculeBatch,
    rows: list[Row | None],
    statuses: list[str],
    answer: Answer,
    request: Request,
) -> Block:
    stored = [answer.smiles.get(key) if key else None for key in batch.inchikeys]
    matches = _compare(asked_forms(batch.texts, batch.forms), stored, rows)
    if not request.smiles:
        stored = [text if match == OTHER_FORM else None for text, match in zip(stored, matches, strict=True)]
    unreadable = zip(batch.inchikeys, batch.reasons, strict=True)
    reasons = [answer.reasons.get(key) if key else reason for key, reason in unreadable]
    without = request.model.info.row_without_prediction
    whole = [without(status) if row is None else row for status, row in zip(statuses, rows, strict=True)]
    return Block(batch.inchikeys, batch.texts, statuses, reasons, matches, stored, whole, batch.own)


def _compare(
    forms: Sequence[str | None], stored: Sequence[str | None], rows: Sequence[Row | None]
) -> list[Match | None]:
    """Compare forms with the library's SMILES, which another version of RDKit may have written."""
    matches = compare_forms(forms, stored, rows)
    differing = [at for at, match in enumerate(matches) if match == OTHER_FORM]
    if differing:
        for at, (_, form, _) in zip(differing, identify([stored[at] or "" for at in differing]), strict=True):
            if form == forms[at]:
                matches[at] = SAME
    return matches

"""Getting predictions of many molecules into a file or a stream, a batch at a time, in the order asked."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from precalc_assets.client.asked import Asked, Molecules
from precalc_assets.client.formats import PRECALCULATED, Block, CsvFormat, Format, Layout
from precalc_assets.client.partial import PartialFiles
from precalc_assets.client.source import OpenModel
from precalc_assets.client.under_way import in_order
from precalc_assets.errors import LibraryError
from precalc_assets.sharding import INCHIKEY
from precalc_assets.tables.reader import Row

_log = logging.getLogger(__name__)

REASONS = 3
"""Molecules that a summary names with what is wrong with them."""

Missing = tuple[str, str | None]
"""A molecule that is not precalculated: its InChIKey, and its SMILES if anybody knows it."""


class MissingFormat(NamedTuple):
    """How missing molecules are written."""

    header: bytes
    encode: Callable[[list[Missing]], bytes]


OnRows = Callable[[int], None]
"""Called with how many more rows are written."""


def ignore_rows(rows: int) -> None:
    """Take note of nothing."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is wanted of a model: for which molecules, with what beside the predictions, and written how."""

    model: OpenModel
    molecules: Molecules
    format: type[Format] = CsvFormat
    smiles: bool = False


@dataclass(slots=True)
class Counts:
    """What became of the molecules: each is `found`, or `missing` and not precalculated, or `unreadable`.

    Of those found, `silent` have no value at all: the model could not answer them. Of those missing, `unnamed` were
    asked for by InChIKey, and nobody knows their SMILES, so that no model can be run on them. `reasons` are those of
    the first that are unreadable.
    """

    rows: int = 0
    found: int = 0
    silent: int = 0
    missing: int = 0
    unnamed: int = 0
    unreadable: int = 0
    reasons: list[str] = field(default_factory=list)


class Reader:
    """Reads a model's predictions of molecules, several batches at a time where that is worth it."""

    def __init__(self, model: OpenModel, layout: Layout, *, name_missing: bool = False) -> None:
        """Begin; with `name_missing`, SMILES are looked up for missing molecules that were asked for by InChIKey."""
        self._model = model
        self._layout = layout
        self._name_missing = name_missing

    def blocks(self, molecules: Molecules, skip: int = 0) -> Iterator[tuple[Asked, Block, list[Missing]]]:
        """Yield each batch with its rows, and those that are missing, in order.

        Memory is bounded by the batches that are under way.
        """
        batches = molecules.batches(self._model.batch_size, skip)
        for asked, (block, missing) in in_order(batches, self._read, self._model.parallel):
            yield asked, block, missing

    def _read(self, batch: Asked) -> tuple[Block, list[Missing]]:
        known = [key for key in batch.inchikeys if key]
        answer = self._model.read(known, smiles=self._layout.smiles)
        rows: list[Row | None] = answer.rows
        smiles: list[str | None] | None = answer.smiles
        if len(known) < len(batch):
            found = iter(answer.rows)
            rows = [next(found) if key else None for key in batch.inchikeys]
            if answer.smiles is not None:
                stored = iter(answer.smiles)
                smiles = [next(stored) if key else None for key in batch.inchikeys]
        sources = [None if row is None else PRECALCULATED for row in rows] if self._layout.source else None
        return Block(batch.inchikeys, batch.texts, rows, smiles, sources), self._missing(batch, rows)

    def _missing(self, batch: Asked, rows: list[Row | None]) -> list[Missing]:
        if None not in rows:
            return []
        pairs = zip(batch.inchikeys, batch.texts, rows, strict=True)
        lost = [(key, text) for key, text, row in pairs if key and row is None]
        nameless = [key for key, text in lost if INCHIKEY.match(text)]
        names: list[str | None] = [None] * len(nameless)
        if nameless and self._name_missing:
            names = self._model.smiles(nameless)
        stored = iter(names)
        return [(key, next(stored) if INCHIKEY.match(text) else text) for key, text in lost]


def count(counts: Counts, asked: Asked, block: Block, missing: list[Missing]) -> None:
    """Add what became of a batch."""
    lost = block.rows.count(None)
    unreadable = block.inchikeys.count(None)
    counts.rows += len(asked)
    counts.found += len(asked) - lost
    counts.unreadable += unreadable
    counts.missing += lost - unreadable
    counts.unnamed += sum(smiles is None for _, smiles in missing)
    counts.silent += sum(
        row is not None and row[0] is None and not any(v is not None for v in row) for row in block.rows
    )
    counts.reasons += asked.reasons[: REASONS - len(counts.reasons)]


def get_to_stream(question: Question, stream: BinaryIO) -> Counts:
    """Write predictions to a stream as they come."""
    layout = Layout(question.model.info.columns, smiles=question.smiles)
    written = question.format(layout, question.model.info.provenance)
    counts = Counts()
    stream.write(written.start())
    for asked, block, missing in Reader(question.model, layout).blocks(question.molecules):
        stream.write(written.encode(block))
        stream.flush()
        count(counts, asked, block, missing)
    return counts


def get_to_file(
    question: Question, path: Path, missing: Path | None = None, *, on_rows: OnRows = ignore_rows
) -> Counts:
    """Write predictions to a file, which is there when it is whole; goes on where an earlier call was interrupted.

    `missing` gets the SMILES of what is not precalculated, as `ersilia run -i` takes them, as far as they are known.
    Raises ChangedError if the model is loaded anew meanwhile: a file holds predictions of one state of it.
    """
    layout = Layout(question.model.info.columns, smiles=question.smiles)
    written = question.format(layout, question.model.info.provenance)
    reader = Reader(question.model, layout, name_missing=missing is not None)
    listed = MissingFormat(b"smiles\n", _list_smiles) if missing else None
    options = [question.format.__name__, question.smiles, missing and str(missing)]
    with PartialFiles(path, [missing] if missing else [], plan(question) | {"options": options}) as files:
        counts = fill(files, reader, question.molecules, written, listed, on_rows)
        files.close()
        written.finish(files.partials[0], path)
        if missing:
            files.partials[1].replace(missing)
        files.remove()
    return counts


def plan(question: Question) -> dict[str, object]:
    """Return what makes a partial file that of the same question, by the words that a person is told."""
    info = question.model.info
    return {
        "source": info.source,
        "model": info.model,
        "release": list(info.releases),
        "library": info.library_digest,
        "last load": info.updated,
        "columns": info.columns_digest,
        "input": question.molecules.digest,
    }


def fill(
    files: PartialFiles,
    reader: Reader,
    molecules: Molecules,
    written: Format,
    missing_format: MissingFormat | None = None,
    on_rows: OnRows = ignore_rows,
) -> Counts:
    """Write what is left to write of partial files, and return the counts of all of it.

    The second of them, if there is one, gets the missing molecules. What is of no use without another input is
    not kept.
    """
    counts = Counts(**files.state)
    _tell(files, counts)
    on_rows(counts.rows)
    if not files.state:
        files.append([written.start(), *([missing_format.header] if missing_format else [])], asdict(counts))
    try:
        for asked, block, missing in reader.blocks(molecules, counts.rows):
            count(counts, asked, block, missing)
            content = written.encode(block)
            files.append([content, *([missing_format.encode(missing)] if missing_format else [])], asdict(counts))
            on_rows(len(asked))
    except LibraryError:
        files.remove()
        raise
    return counts


def _tell(files: PartialFiles, counts: Counts) -> None:
    if files.other:
        differs = ", ".join(files.other)
        _log.warning("%s: what an earlier command has left differs in %s; starting anew", files.path, differs)
    elif counts.rows:
        _log.info("%s: going on behind row %s", files.path, f"{counts.rows:,}")


def _list_smiles(missing: list[Missing]) -> bytes:
    return "".join(f"{smiles}\n" for _, smiles in missing if smiles).encode()

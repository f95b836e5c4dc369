"""The molecules of a request: InChIKeys and SMILES, mixed, from a file or a list; each SMILES gets its InChIKey here.

A file is read as the reference library's is, and may have a column of InChIKeys instead of SMILES.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from precalc.errors import UsageError
from precalc.identifiers import INCHIKEY, read_inchikey
from precalc.molecules.reading import MoleculeTable
from precalc.molecules.smiles_workers import BATCH_CHARACTERS, in_batches, parse_rows

_CHUNK = 20_000
"""Rows that are identified together: 3.5 s of RDKit on two cores, against 0.2 s to start its processes."""

_FEW = 300
"""SMILES that are parsed in this process: starting others would take longer."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MoleculeBatch:
    """Molecules in their order: five lists with an entry for each.

    A SMILES has an InChIKey and a form, its canonical SMILES, an InChIKey has no form. A text that is neither has
    no InChIKey, but the reason; all others have an empty one. `own` are the cells of the row that it is from.
    """

    texts: list[str]
    inchikeys: list[str | None]
    forms: list[str | None]
    reasons: list[str]
    own: list[Sequence[str]]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: "MoleculeBatch") -> "MoleculeBatch":
        return MoleculeBatch(
            self.texts + other.texts,
            self.inchikeys + other.inchikeys,
            self.forms + other.forms,
            self.reasons + other.reasons,
            self.own + other.own,
        )

    def part(self, start: int, end: int | None = None) -> "MoleculeBatch":
        """Return the molecules of a slice."""
        at = slice(start, end)
        return MoleculeBatch(self.texts[at], self.inchikeys[at], self.forms[at], self.reasons[at], self.own[at])

    @property
    def characters(self) -> int:
        """The length of all texts and cells."""
        return sum(map(len, self.texts)) + sum(map(len, chain.from_iterable(self.own)))

    def unreadable(self) -> list[str]:
        """Return the texts that are no molecules, cut short, each with its reason."""
        pairs = zip(self.texts, self.reasons, strict=True)
        return [f"{text[:60]!r}: {reason}" for text, reason in pairs if reason]


@dataclass(frozen=True, slots=True)
class MoleculeInput:
    """Molecules that may be more than fit into memory, and can be read several times.

    `digest` names the content: the same molecules in the same order have the same one. `total` is their number. `names`
    are those of the columns of their file that go with them.
    `read` yields batches of any size without the first so many molecules, and raises MoleculeFileError for an unusable
    file.
    """

    digest: str
    total: int
    read: Callable[[int], Iterator[MoleculeBatch]]
    names: tuple[str, ...] = ()

    def batches(self, size: int, skip: int = 0) -> Iterator[MoleculeBatch]:
        """Yield batches of `size`, or of fewer where texts are long, without the first `skip` molecules."""
        rest, characters = MoleculeBatch([], [], [], [], []), 0
        for batch in self.read(skip):
            rest += batch
            characters += batch.characters
            at = 0
            while len(rest) - at >= size or characters >= BATCH_CHARACTERS:
                whole = rest.part(at, at + size)
                at += size
                characters -= whole.characters
                yield whole
            rest = rest.part(at)
        if len(rest):
            yield rest


def read_list(texts: Iterable[str]) -> MoleculeInput:
    """Return molecules that are named one by one."""
    stripped = [text.strip() for text in texts]
    digest = hashlib.sha256(json.dumps(stripped).encode()).hexdigest()
    return MoleculeInput(digest, len(stripped), lambda skip: _identify((text, ()) for text in stripped[skip:]))


def read_rows(table: MoleculeTable, *, own_columns: bool = True) -> MoleculeInput:
    """Return a file's molecules, with its other columns if wanted. Raises MoleculeFileError if it is cut off."""
    total = sum(len(batch.rows) for batch in table.batches())

    def rows() -> Iterator[tuple[str, Sequence[str]]]:
        for batch in table.batches():
            cells = batch.cells() if own_columns else [()] * len(batch.texts)
            yield from zip(batch.texts, cells, strict=True)

    with table.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update((table.wanted.column or "").encode())
    names = table.names if own_columns else ()
    return MoleculeInput(digest.hexdigest(), total, lambda skip: _identify(islice(rows(), skip, None)), names)


def identify_once(molecules: MoleculeInput, path: Path) -> MoleculeInput:
    """Return the same molecules with what they are in a file, for requests of the same ones to several models."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in molecules.batches(_FEW):
            total += len(batch)
            file.write(json.dumps(astuple(batch)) + "\n")

    def read(skip: int) -> Iterator[MoleculeBatch]:
        with path.open(encoding="utf-8") as file:
            for batch in (MoleculeBatch(*json.loads(line)) for line in file):
                yield batch.part(skip)
                skip = max(0, skip - len(batch))

    return MoleculeInput(molecules.digest, total, read, molecules.names)


def save_stream(stream: BinaryIO, folder: Path) -> Path:
    """Copy standard input into a file of the folder, and return its path: it is read several times."""
    opening = stream.read(_READ_BYTES)
    if not opening.strip():
        raise UsageError("standard input is empty; pipe molecules into it, or name a file with -i")
    path = folder / "standard input"
    with path.open("wb") as file:
        file.write(opening)
        shutil.copyfileobj(stream, file, _READ_BYTES)
    return path


def _identify(rows: Iterable[tuple[str, Sequence[str]]]) -> Iterator[MoleculeBatch]:
    """Yield molecules and their own cells with what they are, in their order."""
    for chunk in in_batches(rows, _CHUNK, lambda row: len(row[0]) + sum(map(len, row[1]))):
        texts = [text for text, _ in chunk]
        keys = [text if INCHIKEY.match(text) else read_inchikey(text) for text in texts]
        batch = MoleculeBatch(texts, keys, [None] * len(chunk), [""] * len(chunk), [own for _, own in chunk])
        smiles = [at for at, key in enumerate(keys) if key is None]
        yield from _parse(batch, smiles) if smiles else [batch]


def _parse(batch: MoleculeBatch, smiles: Sequence[int]) -> Iterator[MoleculeBatch]:
    """Yield a batch in pieces as RDKit parses the texts at the places `smiles`; the others have their keys already."""
    start = 0
    processes = 1 if len(smiles) <= _FEW else os.cpu_count() or 1
    for parsed in parse_rows(((at, batch.texts[at]) for at in smiles), processes):
        for row in parsed:
            batch.inchikeys[row.row] = row.inchikey or None
            batch.forms[row.row] = row.form or None
            batch.reasons[row.row] = row.reason
        # The piece ends behind the last parsed SMILES; after the very last one, nothing waits for RDKit any more.
        end = len(batch) if parsed[-1].row == smiles[-1] else parsed[-1].row + 1
        yield batch.part(start, end)
        start = end

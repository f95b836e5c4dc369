"""`precalc get`: reading predictions from the table, a batch at a time, in the order of the molecules."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from precalc_assets.cards import find_card, name_variation
from precalc_assets.errors import TableError, UsageError
from precalc_assets.model_ids import check_model_id
from precalc_assets.settings import load_settings
from precalc_assets.sharding import INCHIKEY
from precalc_assets.tables import KeyValueStore, TableReader, Value, open_tables

_BATCH = 1_000


class Asked(NamedTuple):
    """A molecule as it was asked for, and its InChIKey; None where it is neither an InChIKey nor a SMILES."""

    text: str
    inchikey: str | None


def get(model: str, molecules: Sequence[str], source: Path | None, output: Path | None, missing: Path | None) -> None:
    """Write `key,input` and the model's columns, a row per molecule asked for; empty cells where there is none.

    Raises UsageError for molecules on the command line that are none. In a file they are rows like others, counted.
    """
    check_model_id(model)
    if bool(molecules) == bool(source):
        raise UsageError("name molecules, or a file of them with -i; one of the two")
    for path in (output, missing):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path}: that is a folder, or in a folder that does not exist; name a file")
    if output and output == missing:
        raise UsageError(f"{output} is named twice; give --output and --missing a file each")
    settings = load_settings()
    tables = open_tables(settings.tables_url)
    reader = TableReader(tables, model)
    _warn_of_variation(tables, model)
    asked = _identify(molecules) if molecules else _read(source) if source else ()
    with ExitStack() as stack:
        rows = csv.writer(_open(stack, output) if output else sys.stdout, lineterminator="\n")
        lost = csv.writer(_open(stack, missing), lineterminator="\n") if missing else None
        rows.writerow(("key", "input", *(column.name for column in reader.columns)))
        if lost:
            lost.writerow(("smiles",))
        total = found = unreadable = 0
        for batch in _batches(asked):
            answers = _answers(reader, batch)
            for molecule, answer in zip(batch, answers, strict=True):
                rows.writerow((molecule.inchikey or "", molecule.text, *(answer or [None] * len(reader.columns))))
                if lost and answer is None:
                    lost.writerow((molecule.text,))
            found += sum(answer is not None for answer in answers)
            unreadable += sum(molecule.inchikey is None for molecule in batch)
            total += len(batch)
    unfound = total - found - unreadable
    if unfound or unreadable:
        where = f"; listed in {missing}" if missing else "; --missing FILE lists them"
        print(
            f"{found:,} found, {unfound:,} not precalculated, {unreadable:,} neither InChIKey nor SMILES{where}",
            file=sys.stderr,
        )


def _warn_of_variation(tables: KeyValueStore, model: str) -> None:
    """Tell a reader whose model would predict something else next time. A card that is damaged stops no one."""
    try:
        card = find_card(tables, model)
    except TableError as error:
        print(f"warning: {error}", file=sys.stderr)
        return
    if card and card.deterministic is False:
        print(f"warning: predictions of {model} vary between runs, in {name_variation(card.varying)}", file=sys.stderr)


def _batches(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    molecules = iter(asked)
    while batch := list(islice(molecules, _BATCH)):
        yield batch


def _answers(reader: TableReader, batch: Sequence[Asked]) -> list[tuple[Value, ...] | None]:
    known = iter(reader.get([molecule.inchikey for molecule in batch if molecule.inchikey]))
    return [next(known) if molecule.inchikey else None for molecule in batch]


def _identify(molecules: Iterable[str]) -> list[Asked]:
    return [Asked(text, _inchikey(text)) for text in molecules]


def _read(source: Path) -> Iterator[Asked]:
    from precalc_assets.library import read_rows

    for _, text in read_rows(source):
        try:
            yield Asked(text, _inchikey(text))
        except UsageError:
            yield Asked(text, None)


def _inchikey(text: str) -> str:
    if INCHIKEY.match(text):
        return text
    from precalc_assets.library import inchikey

    return inchikey(text)


def _open(stack: ExitStack, path: Path) -> TextIO:
    partial = path.with_name(f".{path.name}.partial")
    file = partial.open("w", encoding="utf-8", newline="")

    def finish(kind: type[BaseException] | None, *_error: object) -> None:
        file.close()
        if kind is None:
            partial.replace(path)
        else:
            partial.unlink()

    stack.push(finish)
    return file

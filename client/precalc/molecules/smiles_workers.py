"""Rows of SMILES through RDKit in several processes, a batch at a time, back in the order of the file.

The chemistry of one molecule is in `smiles_keys`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from precalc.errors import MoleculeFileError, UsageError
from precalc.extras import require
from precalc.molecules import smiles_keys
from precalc.molecules.rdkit_process import DiedError, RDKitProcess

_Item = TypeVar("_Item")

BATCH = 500
"""Rows per message to a worker: 0.15 s of RDKit, so that messages cost nothing and workers end together."""

BATCH_CHARACTERS = 4 << 20
"""Characters at which a batch ends early, so that memory is bounded however long texts are."""

_BATCHES_AHEAD = 2
"""Batches per worker that wait or are being parsed: bounds memory, and no worker waits for the reader."""


class ParsedRow(NamedTuple):
    """A row of a file of molecules; either `inchikey` and `form` or `reason` are empty, see `smiles_keys.identify`."""

    row: int
    smiles: str
    inchikey: str
    form: str
    reason: str


def inchikey(smiles: str) -> str:
    """Return the InChIKey of one molecule. Raises UsageError with the reason if the text is no molecule."""
    require("rdkit", "smiles")
    [(key, _, reason)] = smiles_keys.identify([smiles.strip()])
    if reason:
        raise UsageError(f"{smiles[:100]!r} is not a molecule: {reason}; give a SMILES or an InChIKey")
    return key


def parse_rows(rows: Iterable[tuple[int, str]], processes: int) -> Iterator[list[ParsedRow]]:
    """Yield the rows with their InChIKeys and forms or reasons, in batches, in their order.

    One process means this one, more mean as many workers beside it. Only a few batches are in memory at a time.
    Raises MoleculeFileError that names the rows if a worker dies on them.
    """
    require("rdkit", "smiles")
    batches = in_batches(rows, BATCH, lambda row: len(row[1]))
    if processes == 1:
        for batch in batches:
            yield _answered(batch, smiles_keys.identify([smiles for _, smiles in batch]))
        return
    workers = [RDKitProcess() for _ in range(processes)]
    free = SimpleQueue[RDKitProcess]()
    for worker in workers:
        free.put(worker)

    def parse(batch: Sequence[tuple[int, str]]) -> list[ParsedRow]:
        worker = free.get()
        try:
            return _answered(batch, worker.ask([smiles for _, smiles in batch]))
        except DiedError as error:
            cause = f"signal {-error.code}" if error.code < 0 else f"exit code {error.code}"
            raise MoleculeFileError(
                f"rows {batch[0][0]} to {batch[-1][0]}: a worker process died while parsing them ({cause}); "
                "free some memory, or take the molecule that RDKit cannot survive out of these rows, and run it again"
            ) from None
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(processes)
    try:
        pending = deque(threads.submit(parse, batch) for batch in islice(batches, processes * _BATCHES_AHEAD))
        while pending:
            parsed = pending.popleft().result()
            pending.extend(threads.submit(parse, batch) for batch in islice(batches, 1))
            yield parsed
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        threads.shutdown()
        for worker in workers:
            worker.end()


def in_batches(items: Iterable[_Item], most: int, length: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Yield lists of up to `most` items, which end early where the items are long."""
    batch: list[_Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += length(item)
        if len(batch) == most or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _answered(batch: Sequence[tuple[int, str]], answers: Iterable[Sequence[str]]) -> list[ParsedRow]:
    return [ParsedRow(row, smiles, *answer) for (row, smiles), answer in zip(batch, answers, strict=True)]

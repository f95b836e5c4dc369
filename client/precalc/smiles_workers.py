"""Rows of SMILES through RDKit in several processes, a batch at a time, back in the order of the file.

The chemistry of one molecule is in `smiles_keys`.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Self

from precalc import smiles_keys
from precalc.errors import MoleculeFileError, UsageError
from precalc.extras import require
from precalc.rdkit_process import DiedError, RDKitProcess

BATCH = 500
"""Rows per message to a worker: 0.15 s of RDKit, so that messages cost nothing and workers end together."""

_BATCHES_AHEAD = 2
"""Batches per worker that wait or are being parsed: bounds memory, and no worker waits for the reader."""


class ParsedRow(NamedTuple):
    """A row of a file of molecules; either `inchikey` or `reason` is empty."""

    row: int
    smiles: str
    inchikey: str
    reason: str


def inchikey(smiles: str) -> str:
    """Return the InChIKey of one molecule. Raises UsageError with the reason if the text is no molecule."""
    require("rdkit", "smiles")
    [(key, reason)] = smiles_keys.identify([smiles.strip()])
    if reason:
        raise UsageError(f"{smiles[:100]!r} is not a molecule: {reason}; give a SMILES or an InChIKey")
    return key


def parse_rows(rows: Iterable[tuple[int, str]], processes: int) -> Iterator[list[ParsedRow]]:
    """Yield the rows with their InChIKeys or reasons, in batches, in their order.

    One process means this one, more mean as many workers beside it. Only a few batches are in memory at a time.
    Raises MoleculeFileError that names the rows if a worker dies on them.
    """
    require("rdkit", "smiles")
    iterator = iter(rows)
    batches = iter(lambda: list(islice(iterator, BATCH)), [])
    if processes == 1:
        for batch in batches:
            yield _answered(batch, smiles_keys.identify([smiles for _, smiles in batch]))
        return
    with _Workers(processes) as workers:
        pending = deque(workers.submit(batch) for batch in islice(batches, processes * _BATCHES_AHEAD))
        while pending:
            parsed = pending.popleft().result()
            pending.extend(workers.submit(batch) for batch in islice(batches, 1))
            yield parsed


def _answered(batch: Sequence[tuple[int, str]], answers: Iterable[Sequence[str]]) -> list[ParsedRow]:
    return [ParsedRow(row, smiles, *answer) for (row, smiles), answer in zip(batch, answers, strict=True)]


class _Workers:
    """Processes that run RDKit, each with a thread here that waits for it."""

    def __init__(self, count: int) -> None:
        self._processes = [RDKitProcess() for _ in range(count)]
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(count, initializer=self._adopt, initargs=(iter(self._processes),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.end()

    def submit(self, batch: list[tuple[int, str]]) -> Future[list[ParsedRow]]:
        """Have a batch parsed by whichever worker is free next."""
        return self._threads.submit(self._ask, batch)

    def _adopt(self, processes: Iterator[RDKitProcess]) -> None:
        self._own.process = next(processes)

    def _ask(self, batch: list[tuple[int, str]]) -> list[ParsedRow]:
        try:
            return _answered(batch, self._own.process.ask([smiles for _, smiles in batch]))
        except DiedError as error:
            raise MoleculeFileError(_obituary(batch, error.code)) from None


def _obituary(batch: Sequence[tuple[int, str]], code: int) -> str:
    cause = f"signal {-code}" if code < 0 else f"exit code {code}"
    return (
        f"rows {batch[0][0]} to {batch[-1][0]}: a worker process died while parsing them ({cause}); "
        "free some memory, or take the molecule that RDKit cannot survive out of these rows, and build again"
    )

"""Processes that run RDKit for the API, so that a molecule that hangs or crashes RDKit costs only its process.

The keys are those of the reference library, and the API's own process never imports RDKit.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from precalc.rdkit_process import SCRIPT, DiedError, Identified, RDKitProcess

_ADDRESSES = 1 << 30
"""Bytes that a process may map: with RDKit loaded it maps 70 MB."""


_WAIT_SECONDS = 5.0
"""How long a request waits for a process; it blocks a thread of the server meanwhile."""


class BusyError(Exception):
    """All processes are busy."""


class RDKitProcesses:
    """A few processes, each started on first use and kept. May be used by several threads.

    One molecule may take `molecule_seconds`, a request as a whole `seconds`.
    """

    def __init__(self, count: int, *, molecule_seconds: float, seconds: float, script: Path = SCRIPT) -> None:
        self._molecule_seconds = molecule_seconds
        self._seconds = seconds
        self._free = threading.Semaphore(count)
        self._idle: list[_Process] = []
        self._script = script

    def warm(self) -> None:
        """Start a process that loads RDKit, without waiting for it."""
        process = _Process(self._script)
        process.start()
        self._idle.append(process)

    def identify(self, smiles: Sequence[str]) -> list[Identified]:
        """Identify each SMILES; blanks around it are ignored.

        Raises BusyError, and RuntimeError when RDKit cannot be loaded.
        """
        with self._process() as process:
            deadline = time.monotonic() + self._seconds
            return [self._identify(process, text.strip(), deadline) for text in smiles]

    def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            self._idle.pop().end()

    def _identify(self, process: "_Process", smiles: str, deadline: float) -> Identified:
        late = Identified("", f"not reached within the {self._seconds:g} s of a request; ask for fewer at a time")
        if not process.loaded(deadline):
            return late
        limit = min(deadline, time.monotonic() + self._molecule_seconds)
        try:
            return process.ask(smiles, limit)
        except TimeoutError:
            own = limit < deadline
            return Identified("", f"RDKit takes more than {self._molecule_seconds:g} s for it") if own else late

    @contextmanager
    def _process(self) -> "Iterator[_Process]":
        if not self._free.acquire(timeout=min(_WAIT_SECONDS, self._seconds)):
            raise BusyError
        try:
            process = self._idle.pop() if self._idle else _Process(self._script)
            try:
                yield process
            except BaseException:
                process.end()  # It may still send an answer, which nobody would read.
                raise
            self._idle.append(process)
        finally:
            self._free.release()


class _Process:
    """A process that has to load RDKit first, and is replaced after a molecule that it did not survive."""

    def __init__(self, script: Path) -> None:
        self._process = RDKitProcess(script=script, memory=_ADDRESSES)
        self._loaded = False

    def start(self) -> None:
        """Start it, so that it loads RDKit."""
        self._process.send(["C"])
        self._loaded = False

    def loaded(self, deadline: float) -> bool:
        """Return whether RDKit is loaded, by the deadline. Raises RuntimeError when it cannot be."""
        if not self._process.running:
            self.start()
        if not self._loaded:
            try:
                self._process.receive(deadline)
            except TimeoutError:
                return False
            except DiedError:
                raise RuntimeError("RDKit cannot be loaded; see what it wrote to standard error") from None
            self._loaded = True
        return time.monotonic() < deadline

    def ask(self, smiles: str, deadline: float) -> Identified:
        """Identify one molecule, after `loaded`. Raises TimeoutError, after which the next one can be asked."""
        try:
            return self._process.ask([smiles], deadline)[0]
        except DiedError:
            return Identified("", "RDKit crashes on it")

    def end(self) -> None:
        """End it, even if it is busy."""
        self._process.end()

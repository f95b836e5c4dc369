"""Processes that run RDKit for the API, so that a molecule that hangs or crashes RDKit costs only its process.

Each runs `precalc.smiles_keys` as a script: the keys are those of the reference library, and the API's own
process never imports RDKit.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from precalc import errors

_SCRIPT = Path(errors.__file__).with_name("smiles_keys.py")
"""By its path: this process does not import it."""

_ADDRESSES = 1 << 30
"""Bytes that a process may map: with RDKit loaded it maps 70 MB."""


_WAIT_SECONDS = 5.0
"""How long a request waits for a process; it blocks a thread of the server meanwhile."""


class Identified(NamedTuple):
    """The InChIKey of a SMILES, or the reason why it has none; one of them is empty."""

    inchikey: str
    reason: str


class BusyError(Exception):
    """All processes are busy."""


class RDKitProcesses:
    """A few processes, each started on first use and kept. May be used by several threads.

    One molecule may take `molecule_seconds`, a request as a whole `seconds`.
    """

    def __init__(self, count: int, *, molecule_seconds: float, seconds: float, script: Path = _SCRIPT) -> None:
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
    """A process, which is replaced after one that did not survive a molecule."""

    def __init__(self, script: Path) -> None:
        self._command = [sys.executable, "-P", str(script)]
        self._running: subprocess.Popen[bytes] | None = None
        self._loaded = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, so that it loads RDKit."""
        # In a Lambda, a new Python process does not know where the packages are.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        running = subprocess.Popen(
            self._command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        _bound_memory(running.pid)
        self._running, self._loaded = running, False
        _send(running, "C")
        return running

    def loaded(self, deadline: float) -> bool:
        """Return whether RDKit is loaded, by the deadline. Raises RuntimeError when it cannot be."""
        running = self._running or self.start()
        if not self._loaded:
            try:
                line = _receive(running, deadline)
            except TimeoutError:
                return False
            if not line:
                self.end()
                raise RuntimeError("RDKit cannot be loaded; see what it wrote to standard error")
            self._loaded = True
        return time.monotonic() < deadline

    def ask(self, smiles: str, deadline: float) -> Identified:
        """Identify one molecule. Raises TimeoutError, after which the next one can be asked."""
        running = self._running or self.start()
        try:
            _send(running, smiles)
            line = _receive(running, deadline)
        except TimeoutError:
            self.end()
            raise
        except BrokenPipeError:
            line = b""
        if not line:
            self.end()
            return Identified("", "RDKit crashes on it")
        ((inchikey, reason),) = json.loads(line)
        return Identified(inchikey, reason)

    def end(self) -> None:
        """End it, even if it is busy."""
        if self._running:
            self._running.kill()
            with self._running:  # Closes the pipes, and waits.
                self._running = None


def _send(running: subprocess.Popen[bytes], smiles: str) -> None:
    """Write one SMILES. It fits into the pipe, since its answer is read before the next one is written."""
    cast("IO[bytes]", running.stdin).write(json.dumps([smiles]).encode() + b"\n")


def _receive(running: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return a line, an empty one if the process has ended. Raises TimeoutError."""
    stdout = cast("IO[bytes]", running.stdout)
    ready = select.poll()  # `select` itself takes no descriptors above 1,023.
    ready.register(stdout, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1_000):
            raise TimeoutError
        part = os.read(stdout.fileno(), 1 << 16)
        if not part:
            return b""
        line += part
    return line


def _bound_memory(pid: int) -> None:
    """Bound the process's memory, so that its own allocation fails before the system runs out and kills another one."""
    if sys.platform == "linux":
        import resource

        with suppress(OSError):  # Not allowed here, or the process has ended already.
            resource.prlimit(pid, resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))

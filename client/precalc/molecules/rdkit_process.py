"""A process that runs RDKit, so that a molecule that hangs or crashes RDKit costs that process alone.

It runs `smiles_keys` as a script. That starts in a tenth of a second, and ends when this process ends, since its input
ends. Not a pool of `multiprocessing`: that imports the caller's main module into every worker, which is often Dagster.
Standard library only, because a Lambda carries this module.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

SCRIPT = Path(__file__).with_name("smiles_keys.py")


class Identified(NamedTuple):
    """What `smiles_keys.identify` returns for a SMILES: its InChIKey and form, or the reason why it has none."""

    inchikey: str
    form: str
    reason: str


class DiedError(Exception):
    """The process ended before it answered, with this exit code; negative: by this signal."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class RDKitProcess:
    """One process, which is started on the first question, and again on the first one after its end.

    It may map `memory` bytes; with RDKit loaded it maps 70 MB. For one thread at a time.
    """

    def __init__(self, *, script: Path = SCRIPT, memory: int | None = None) -> None:
        self._command = [sys.executable, "-P", str(script)]
        self._memory = memory
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, smiles: Sequence[str], deadline: float | None = None) -> list[Identified]:
        """Return what these SMILES are by a deadline of `time.monotonic`. Raises TimeoutError and DiedError."""
        self.send(smiles)
        try:
            return self.receive(deadline)
        except TimeoutError:
            self.end()
            raise

    def send(self, smiles: Sequence[str]) -> None:
        """Ask without waiting for the answer, which `receive` returns."""
        if self._running is None:
            # A Lambda knows where packages are, but a Python that it starts does not always.
            variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._running = subprocess.Popen(
                self._command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            if self._memory and sys.platform == "linux":
                import resource

                with suppress(OSError):  # where that is not allowed, or when it has ended already
                    resource.prlimit(self._running.pid, resource.RLIMIT_AS, (self._memory, self._memory))
        stdin = cast("IO[bytes]", self._running.stdin)
        with suppress(BrokenPipeError):  # `receive` says how it ended
            stdin.write(json.dumps([*smiles]).encode() + b"\n")
            stdin.flush()

    def receive(self, deadline: float | None = None) -> list[Identified]:
        """Return the answer to what was sent last. Raises DiedError, and TimeoutError: then wait again, or end it."""
        running = cast("subprocess.Popen[bytes]", self._running)
        output = cast("IO[bytes]", running.stdout)
        ready = select.poll()  # `select` itself knows no descriptors above 1,023.
        ready.register(output, select.POLLIN)
        line = bytearray()
        while not line.endswith(b"\n"):
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1_000
            if not ready.poll(left):
                raise TimeoutError
            part = os.read(output.fileno(), 1 << 16)
            if not part:
                code = running.wait()
                self.end()
                raise DiedError(code)
            line += part
        return [Identified(*answer) for answer in json.loads(line)]

    @property
    def running(self) -> bool:
        """Whether it was started and has not been seen to end."""
        return self._running is not None

    def kill(self) -> None:
        """Kill it from another thread; the thread that waits for its answer gets DiedError."""
        if running := self._running:
            running.kill()

    def end(self) -> None:
        """End it, even if it is busy."""
        if running := self._running:
            self._running = None
            running.kill()
            with suppress(BrokenPipeError), running:  # closes the pipes, and waits
                pass

"""`POST /inchikeys`: turns SMILES into InChIKeys, by which predictions are requested, as the reference library does.

RDKit runs in processes, so that a molecule that hangs or crashes it costs only its process. The API's own process never
imports it.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from precalc.molecules.rdkit_process import SCRIPT, DiedError, Identified, RDKitProcess
from precalc_assets.api.problems import Problem, body_refusals, too_many

MAX_SMILES = 1_000
"""SMILES in one request. RDKit takes 0.3 ms for a drug, 16 ms for a chain of 1,000 atoms, the largest with a key."""

MAX_CHARACTERS = 2_000
"""Characters of one SMILES: InChI takes up to 1,024 atoms."""
_BLOCK_CHARACTERS = 200_000
"""Characters of one mol block: a line of 70 for each of these atoms, and one of 21 for each bond."""

MOLECULE_SECONDS, REQUEST_SECONDS = 2.0, 20.0
"""Time limits for one molecule and for a whole request; API Gateway waits 29 s for an answer."""

_BLOCK_END = "M  END"

_PROCESSES = 2
_WAIT_SECONDS = 5.0
"""How long a request waits for a process; it blocks a thread of the server meanwhile."""

_ADDRESSES = 1 << 30
"""Bytes that a process may map: with RDKit loaded it maps 70 MB."""

_REPEATED = 200
"""Characters of a SMILES that its error repeats."""

_busy = partial(
    Problem,
    HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_requests",
    "all processes are busy with other requests; try again in a few seconds",
)


class SmilesRequest(BaseModel):
    """The SMILES to turn into InChIKeys; one that is named twice is answered twice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    smiles: Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_SMILES})]


class SmilesError(BaseModel):
    """Why a SMILES has no InChIKey. `index` is its position in the request, from 0; a long `smiles` is cut short."""

    index: int
    smiles: str
    reason: str


class InChIKeysAnswer(BaseModel):
    """The InChIKeys in the order of the request, null where there is none; `errors` has the reason of each null.

    `forms` are the canonical SMILES. They tell apart what an InChIKey does not, such as tautomers; `POST
    /models/{model}/predictions` takes them, to say whether a prediction is for the same form.
    """

    inchikeys: list[str | None]
    forms: list[str | None]
    errors: list[SmilesError]


class RDKitProcesses:
    """A few processes, each started on first use and kept. May be used by several threads.

    One molecule may take `molecule_seconds`, a request as a whole `seconds`.
    """

    def __init__(
        self,
        count: int,
        *,
        molecule_seconds: float = MOLECULE_SECONDS,
        seconds: float = REQUEST_SECONDS,
        script: Path = SCRIPT,
    ) -> None:
        self._molecule_seconds = molecule_seconds
        self._seconds = seconds
        self._free = threading.Semaphore(count)
        self._idle: list[_Process] = []
        self._script = script

    def warm(self) -> None:
        """Start a process that loads RDKit, without waiting for it."""
        process = _Process(script=self._script, memory=_ADDRESSES)
        process.load()
        self._idle.append(process)

    def identify(self, smiles: Sequence[str]) -> list[Identified]:
        """Identify each SMILES; blanks around it are ignored.

        Raises Problem when all processes are busy, and RuntimeError when RDKit cannot be loaded.
        """
        with self._process() as process:
            deadline = time.monotonic() + self._seconds
            # The first line of a mol block may be blank.
            texts = [text if _BLOCK_END in text else text.strip() for text in smiles]
            return [self._identify(process, text, deadline) for text in texts]

    def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            self._idle.pop().end()

    def _identify(self, process: "_Process", smiles: str, deadline: float) -> Identified:
        longest = _BLOCK_CHARACTERS if _BLOCK_END in smiles else MAX_CHARACTERS
        if len(smiles) > longest:
            return _unidentified(f"{len(smiles):,} characters; a SMILES may have up to {MAX_CHARACTERS:,}")
        late = _unidentified(f"not reached within the {self._seconds:g} s of a request; ask for fewer at a time")
        if not process.loaded(deadline):
            return late
        limit = min(deadline, time.monotonic() + self._molecule_seconds)
        try:
            return process.ask([smiles], limit)[0]
        except DiedError:
            return _unidentified("RDKit crashes on it")
        except TimeoutError:
            own = limit < deadline
            return _unidentified(f"RDKit takes more than {self._molecule_seconds:g} s for it") if own else late

    @contextmanager
    def _process(self) -> "Iterator[_Process]":
        if not self._free.acquire(timeout=min(_WAIT_SECONDS, self._seconds)):
            raise _busy()
        try:
            process = self._idle.pop() if self._idle else _Process(script=self._script, memory=_ADDRESSES)
            try:
                yield process
            except BaseException:
                process.end()  # It may still send an answer, which nobody would read.
                raise
            self._idle.append(process)
        finally:
            self._free.release()


class _Process(RDKitProcess):
    """A process that loads RDKit before any molecule can be blamed for the time that takes."""

    _is_loaded = False

    def load(self) -> None:
        """Start it, so that it loads RDKit."""
        self.send(["C"])
        self._is_loaded = False

    def loaded(self, deadline: float) -> bool:
        """Return whether RDKit is loaded, by the deadline. Raises RuntimeError when it cannot be."""
        if not self.running:
            self.load()
        if not self._is_loaded:
            try:
                self.receive(deadline)
            except TimeoutError:
                return False
            except DiedError:
                raise RuntimeError("RDKit cannot be loaded; see what it wrote to standard error") from None
            self._is_loaded = True
        return time.monotonic() < deadline


def add_inchikey_routes(app: FastAPI | APIRouter, processes: RDKitProcesses | None = None) -> None:
    """Add the route that makes InChIKeys, in these processes, by default in new ones."""
    rdkit = processes or RDKitProcesses(_PROCESSES)

    @app.post(
        "/inchikeys",
        summary="InChIKeys of SMILES",
        description=f"The InChIKeys of up to {MAX_SMILES:,} molecules, as the reference library has them, by RDKit. "
        f"A SMILES may have {MAX_CHARACTERS:,} characters; if it has no InChIKey, `errors` says why.",
        tags=["molecules"],
        responses=body_refusals(_too_many_smiles(1_001)),
    )
    def find_inchikeys(body: SmilesRequest) -> InChIKeysAnswer:
        if len(body.smiles) > MAX_SMILES:
            raise _too_many_smiles(len(body.smiles))
        identified = rdkit.identify(body.smiles)
        return InChIKeysAnswer(
            inchikeys=[one.inchikey or None for one in identified],
            forms=[one.form or None for one in identified],
            errors=[
                SmilesError(
                    index=at, smiles=text if len(text) <= _REPEATED else f"{text[:_REPEATED]}…", reason=one.reason
                )
                for at, (text, one) in enumerate(zip(body.smiles, identified, strict=True))
                if one.reason
            ],
        )


def _unidentified(reason: str) -> Identified:
    return Identified("", "", reason)


def _too_many_smiles(number: int) -> Problem:
    message = f"{number:,} SMILES are too many for one request; up to {MAX_SMILES:,} are answered at a time"
    return too_many("too_many_smiles", message)

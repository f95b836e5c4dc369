"""Call a model so that a bad molecule loses only itself, and a broken model is detected early."""

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from threading import Event, Thread

from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.model_backend import (
    BatchError,
    CallTimeoutError,
    ModelBackend,
    ServedModelBackend,
    TimeIsUpError,
)
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import InfrastructureError, ModelError
from precalc_assets.predictions.cells import read_in_blocks
from precalc_assets.processes import NO_ROOM, program_error
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE = 10
"""Consecutive failures after which a model that has answered no molecule counts as broken. At a failure rate of 10%,
a good model has such a streak once in 10^10 molecules."""

_HOPELESS = 100
"""Consecutive failures that end a batch of a model that has answered others: each failure costs several calls."""

_NO_MEMORY = re.compile(r"Cannot allocate memory|MemoryError|bad_alloc|out of memory|exited 137", re.IGNORECASE)
"""Messages of models on a machine without memory; Linux ends a process by signal 9 when memory is
short. Each molecule needs some memory, so a molecule may be to blame for that alone."""

_SECONDS_BETWEEN_WAITS = 30.0
"""The interval of the messages, so that a long call of a model does not look dead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to a batch: one record per molecule, and the reasons for failures by row.

    A record may have cells that are not of their column's type; that of a failed molecule has empty cells. `gave_up`
    says why the model has stopped answering; then all molecules of the batch have failed.
    """

    records: list[bytes]
    failures: dict[int, str] = field(default_factory=dict)
    gave_up: str = ""

    @property
    def predictions(self) -> list[bytes | None]:
        """The records, None for failed molecules."""
        return [None if row in self.failures else record for row, record in enumerate(self.records)]


OnCall = Callable[[Sequence[str], float, list[bytes] | None], None]
"""Called with the SMILES, the seconds and the output of each call of a model, None if it failed."""


def ignore_call(smiles: Sequence[str], seconds: float, records: list[bytes] | None) -> None:
    """Do nothing."""


class _GaveUpError(Exception):
    """The model has stopped answering, or answers none of a batch. The message has the reason."""


class PatientCaller:
    """Calls a model, and bisects a failed batch down to the molecules that the model cannot answer.

    The fault may be the model's own. Machines run out of memory, and servers have died after some thousands of
    molecules, or answered only nulls from some moment on (ersilia #1871, #831). So before a molecule is blamed, the
    model is called with a witness: a molecule that it has answered before. If it fails on the witness, no molecule is
    blamed, and a served model is restarted. A full disk and the like are never a molecule's fault; a lack of memory is,
    if it happens twice while the witness is answered.

    `size` learns from every call how many molecules the next one can have; after a timeout, larger batches are split.
    A molecule without values in the share `required_values` of the columns has failed. `on_answer` receives the records
    of answered molecules by SMILES after each call, before the batch is complete.
    """

    def __init__(
        self,
        model: str,
        backend: ModelBackend,
        size: CallSize,
        deadline: float = math.inf,
        on_answer: Callable[[Mapping[str, bytes]], None] = lambda _: None,
        on_call: OnCall = ignore_call,
        *,
        required_values: float = 0.0,
    ) -> None:
        self._model = model
        self._backend = backend
        self._size = size
        self._deadline = deadline
        self._on_answer = on_answer
        self._on_call = on_call
        self._required_values = required_values
        self._nothing = b"," * (len(backend.columns) - 1)
        self.answered = False
        """Whether the model has answered any molecule."""
        self._streak = 0
        self._witness: str | None = None

    def set_witness(self, smiles: str | None) -> None:
        """Set the witness to a molecule that this release answered in an earlier run, unless there is one."""
        self._witness = self._witness or smiles

    def answer(self, batches: Sequence[Sequence[str]]) -> list[Answer]:
        """Return an answer for each batch of SMILES. All are sent in one call, unless it fails or calls time out.

        Raises ModelError when the model fails on `PATIENCE` molecules in a row and has answered none,
        InfrastructureError when the machine is to blame, TimeIsUpError when the deadline passes before the last call
        has ended.
        """
        try:
            return self._answer(batches)
        except OSError as error:
            raise machine_error(self._model, reason(error)) from error

    def _answer(self, batches: Sequence[Sequence[str]]) -> list[Answer]:
        if len(batches) == 1:
            try:
                return [self._bisect(batches[0])]
            except _GaveUpError as error:
                if not self.answered:
                    raise no_answers(self._model, str(error)) from None
                self._streak = 0
                rows, why = len(batches[0]), str(error)
                return [Answer([self._nothing] * rows, dict.fromkeys(range(rows), why), why)]
        if sum(map(len, batches)) <= self._size.limit:
            with suppress(BatchError, _GaveUpError):
                return _split(self._call([smiles for batch in batches for smiles in batch]), map(len, batches))
        middle = len(batches) // 2
        return [*self._answer(batches[:middle]), *self._answer(batches[middle:])]

    def _bisect(self, smiles: Sequence[str]) -> Answer:
        if len(smiles) <= self._size.limit:
            try:
                return self._call(smiles)
            except BatchError as error:
                if len(smiles) == 1:
                    why = str(error)
                    if NO_ROOM.search(why):
                        raise machine_error(self._model, why) from None
                    self._blame(1, why)
                    if self._witness and _NO_MEMORY.search(why):
                        with suppress(BatchError):
                            return self._call(smiles)
                    return Answer([self._nothing], {0: why})
        middle = len(smiles) // 2
        left, right = self._bisect(smiles[:middle]), self._bisect(smiles[middle:])
        shifted = {row + middle: why for row, why in right.failures.items()}
        return Answer([*left.records, *right.records], {**left.failures, **shifted})

    def _call(self, smiles: Sequence[str]) -> Answer:
        """Call the model, and retry once if it was unhealthy and has been restarted.

        Raises BatchError if it does not answer the batch, or answers none of it. It may still answer parts of it.
        """
        try:
            answer = self._ask(smiles)
        except BatchError:
            if not self._restarted_if_unhealthy(alone=len(smiles) == 1) or len(smiles) > 1:
                raise
            answer = self._ask(smiles)
        if len(answer.failures) == len(smiles) >= PATIENCE and isinstance(self._backend, ServedModelBackend):
            self._backend.restart()
            answer = self._ask(smiles)
        if len(answer.failures) < len(smiles):
            self.answered = True
            self._streak = 0
            answered = {text: answer.records[row] for row, text in enumerate(smiles) if row not in answer.failures}
            self._witness = next(iter(answered))
            self._on_answer(answered)
            return answer
        why = next(iter(answer.failures.values()))
        if len(smiles) >= PATIENCE and self._witness:
            raise BatchError(why)
        self._blame(len(smiles), why)
        return answer

    def _restarted_if_unhealthy(self, *, alone: bool) -> bool:
        """Restart a served model if it is unhealthy; return whether it was restarted.

        If the failed call had one molecule `alone`, a healthy model must also answer the witness.
        """
        if not isinstance(self._backend, ServedModelBackend):
            return False
        healthy = self._backend.is_healthy()
        if healthy and not (alone and self._fails_on_witness()):
            return False
        if not healthy:
            self._size.found_down()
        self._backend.restart()
        return True

    def _blame(self, molecules: int, why: str) -> None:
        """Count failed molecules. Raises _GaveUpError when the model is to blame and not the molecules."""
        self._streak += molecules
        if self._fails_on_witness():
            raise _GaveUpError(f"it fails on {self._witness} too, which it answered before: {why}")
        self.answered |= self._witness is not None
        if self._streak >= (_HOPELESS if self.answered else PATIENCE):
            raise _GaveUpError(f"{self._streak} molecules in a row failed, the last with: {why}")

    def _fails_on_witness(self) -> bool:
        if self._witness is None:
            return False
        if isinstance(self._backend, ServedModelBackend) and not self._backend.is_healthy():
            self._backend.restart()
        try:
            return bool(self._ask([self._witness]).failures)
        except BatchError:
            return True

    def _ask(self, smiles: Sequence[str]) -> Answer:
        """Call the model once. A misshapen row, or one with too few values, is a failure."""
        if time.monotonic() >= self._deadline:
            raise TimeIsUpError
        records = self._predict(smiles)
        failures: dict[int, str] = {}
        try:
            for start, parsed in read_in_blocks(records, self._backend.columns):
                failures |= {start + row: why for row, why in parsed.failures(self._required_values).items()}
        except ValueError as error:
            raise BatchError(f"the model's output cannot be read as CSV: {error}") from None
        for row in failures:
            records[row] = self._nothing
        return Answer(records, failures)

    def _predict(self, smiles: Sequence[str]) -> list[bytes]:
        started = time.monotonic()
        call = f"a call of {len(smiles):,} molecule{'s' * (len(smiles) > 1)}"
        try:
            with told_while_waiting(call, lambda line: logger.info("%s: %s", self._model, line)):
                records = self._backend.predict(smiles, self._deadline)
        except BatchError as error:
            seconds = time.monotonic() - started
            if isinstance(error, CallTimeoutError):
                self._size.timed_out(len(smiles), seconds)
            self._on_call(smiles, seconds, None)
            raise
        seconds = time.monotonic() - started
        self._size.answered(len(smiles), seconds, sum(map(len, records)))
        self._on_call(smiles, seconds, records)
        return records


@contextmanager
def told_while_waiting(what: str, say: Callable[[str], None], every: float = _SECONDS_BETWEEN_WAITS) -> Iterator[None]:
    """Say every `every` seconds, until the context ends, how long the caller has been waiting for `what`."""
    started = time.monotonic()
    done = Event()

    def tell() -> None:
        while not done.wait(every):
            say(f"still waiting for {what}, {time.monotonic() - started:,.0f} s")

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def machine_error(model: str, why: str) -> InfrastructureError:
    """Return the error for a model that cannot be run on this machine."""
    return InfrastructureError(
        f"{model} cannot be run: {why}; free disk space or memory, or set TMPDIR and PRECALC_CACHE_DIR to folders on "
        "another disk, then run the same command again"
    )


def no_answers(model: str, why: str) -> ModelError:
    """Return the error for a model that answers no molecule."""
    what = f"answers no molecule: {why}"
    return machine_error(model, f"it {what}") if _NO_MEMORY.search(why) else program_error(f"{model} {what}", why)


def _split(together: Answer, lengths: Iterable[int]) -> list[Answer]:
    answers: list[Answer] = []
    start = 0
    for length in lengths:
        failures = {row - start: why for row, why in together.failures.items() if start <= row < start + length}
        answers.append(Answer(together.records[start : start + length], failures))
        start += length
    return answers


@dataclass(frozen=True, slots=True)
class ComputedMolecule:
    """A model's record for a molecule; or the reason why there is none, with an empty record."""

    smiles: str
    record: bytes
    reason: str = ""


def predict_molecules(
    model: str, backend: ModelBackend, smiles: Iterable[str], settings: Settings
) -> Iterator[list[ComputedMolecule]]:
    """Yield the predictions for these SMILES, in order, call by call. The backend must have been entered.

    A call has at most a batch of molecules, fewer if the model is slow. A molecule that the model cannot answer loses
    only itself. Failures are held back until the model has answered a molecule.
    Raises ModelError if it answers none, or cannot be run.
    """
    size = CallSize(settings.batch_size)
    caller = PatientCaller(model, backend, size, required_values=settings.required_values)
    rest = iter(smiles)
    held: list[ComputedMolecule] = []
    while batch := list(islice(rest, min(settings.batch_size, size.most))):
        (answer,) = caller.answer([batch])
        held += [
            ComputedMolecule(text, record or b"", answer.failures.get(row, ""))
            for row, (text, record) in enumerate(zip(batch, answer.predictions, strict=True))
        ]
        if caller.answered:
            yield held
            held = []
    if held:
        yield held

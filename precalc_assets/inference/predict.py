"""Running a model over shards of the library: resumable, part by part, several small shards in one call."""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Self

import polars as pl
from obstore.store import ObjectStore

from precalc.progress import OnProgress, ignore_progress
from precalc_assets.inference.adoption import same_major
from precalc_assets.inference.batching import GaveUpError, PatientCaller
from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.canary_report import CanaryReport, find_report
from precalc_assets.inference.model_backend import ModelBackend, TimeIsUpError
from precalc_assets.inference.part_names import PartName, other_parts
from precalc_assets.inference.parts import Part, ShardWork, finish, has_parts, outcome, plan_parts, put_part, put_piece
from precalc_assets.inference.reusable_rows import KeptRows
from precalc_assets.library import LibraryManifest, read_shard
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform_errors import ModelError, ShardError
from precalc_assets.predictions import RawManifest, check_failure_rate, find_manifest

logger = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
"""After so long, what is computed of a part is saved: with the longest call to a model that starts fast, within five
minutes."""


@dataclass(frozen=True)
class _Task:
    """What `predict_shards` was asked for."""

    store: ObjectStore
    library: LibraryManifest
    model: str
    backend: ModelBackend
    batch_size: int
    max_failure_rate: float
    deadline: float
    on_progress: OnProgress
    save_seconds: float
    earlier: set[str] = field(default_factory=set)
    """Releases whose predictions might have been kept, of which a warning has told."""

    @cached_property
    def report(self) -> CanaryReport | None:
        """What the canary has found out about this release."""
        report = find_report(self.store, self.model)
        return report if report and report.is_of(self.backend.release, self.backend.columns) else None

    @cached_property
    def others(self) -> tuple[PartName, ...]:
        """Parts of another number of shards, which are taken from and never touched."""
        n_shards = self.library.n_shards
        found = other_parts(self.store, self.model, n_shards)
        if found:
            logger.warning(
                "%d parts of the raw predictions of %s were made for another number of shards than %d, %s for one: "
                "what they hold of this release is used again, and they stay; when all shards have landed, nothing "
                "needs them any more",
                len(found),
                self.model,
                n_shards,
                found[0],
            )
        return found


def predict_shards(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    backend: ModelBackend,
    shards: Sequence[str],
    *,
    batch_size: int,
    max_failure_rate: float,
    deadline: float = math.inf,
    on_progress: OnProgress = ignore_progress,
    save_seconds: float = SAVE_SECONDS,
) -> Iterator[ShardOutcome]:
    """Compute the raw predictions of these shards, and yield each shard as it lands or fails.

    A shard with a manifest of this release and this version of the shard is there already; of the others, what an
    earlier run has computed is kept, also for another version of the library or another number of shards. A shard that
    fails stops no other; a model that fails ends all that are left with its reason. No call is begun that would not
    end before the `deadline` (of `time.monotonic`), as far as those before it tell, and a call that has not ended by
    then is ended; the shards that are left come out as unfinished. The backend is entered when there is something to
    compute. Calls are sized by the model's speed, at first by the one that its canary has measured. What is computed of
    a part is in the store after `save_seconds` and a call at the latest. Memory is bounded by a call and a part.
    """
    task = _Task(store, library, model, backend, batch_size, max_failure_rate, deadline, on_progress, save_seconds)
    left = dict.fromkeys(shards)
    try:
        for landed in _predict(task, shards):
            del left[landed.shard]
            yield landed
    except (ModelError, TimeIsUpError) as error:
        why = str(error)
        for shard in left:
            yield _found(task, shard) or ShardOutcome(shard, failure=why, unfinished=not why)


def _predict(task: _Task, shards: Sequence[str]) -> Iterator[ShardOutcome]:
    unfinished: list[ShardWork] = []
    with _Calls(task) as calls:
        for shard in shards:
            try:
                work = _plan(task, shard)
            except FAILURES as error:
                yield ShardOutcome(shard, failure=reason(error))
                continue
            task.on_progress(work.settled, work.quarantined)
            unfinished.append(work)
            calls.enqueue(work)
            while calls.full:
                calls.run()
                yield from _land(task, unfinished)
            yield from _land(task, unfinished)
        while calls.waiting:
            calls.run()
            yield from _land(task, unfinished)
        calls.put_whole()
        yield from _land(task, unfinished)


def _plan(task: _Task, shard: str) -> ShardWork:
    """Find out what there is of a shard and what is to be computed.

    A shard with too many failed molecules is not done: those that failed are asked for again.
    """
    work = _begin(task, shard)
    manifest = find_manifest(task.store, task.model, shard)
    failed = manifest is not None and not check_failure_rate(manifest, task.max_failure_rate).passed
    if manifest and not failed and _stands(task, work, manifest):
        work.manifest = manifest
        return work
    work.environment = manifest.environment if manifest else ""
    if (
        manifest
        and not task.report
        and manifest.release not in task.earlier
        and same_major(manifest.release, work.release)
    ):
        task.earlier.add(manifest.release)
        logger.warning(
            "%s has predictions of release %s, which are computed again for %s; `precalc predict %s --sample 100` "
            "tells first whether they can be kept",
            task.model,
            manifest.release,
            work.release,
            task.model,
        )
    molecules = pl.DataFrame(pl.from_arrow(read_shard(task.store, task.library, shard)))
    plan_parts(task.store, work, molecules, task.batch_size, task.others, with_failures=not failed)
    return work


def _begin(task: _Task, shard: str) -> ShardWork:
    backend, library = task.backend, task.library
    digest = library.shards[shard].digest
    kept, adoption = KeptRows(task.store), task.report.adoption if task.report else None
    return ShardWork(task.model, backend.release, backend.columns, shard, library.n_shards, digest, kept, adoption)


def _stands(task: _Task, work: ShardWork, manifest: RawManifest) -> bool:
    """Return whether what a manifest says holds: of this release, these columns and this shard, with all its parts."""
    made = (manifest.release, manifest.columns, manifest.shard_digest)
    return made == (work.release, work.columns, work.shard_digest) and has_parts(task.store, manifest)


def _found(task: _Task, shard: str) -> ShardOutcome | None:
    """Return what came of a shard that an earlier run has finished; None for one of which something is left to do."""
    try:
        manifest = find_manifest(task.store, task.model, shard)
        stands = manifest is not None and _stands(task, _begin(task, shard), manifest)
    except FAILURES:
        return None
    return outcome(manifest, task.max_failure_rate) if manifest and stands else None


def _land(task: _Task, unfinished: list[ShardWork]) -> Iterator[ShardOutcome]:
    """Yield the shards of which nothing is left to compute, and those that failed; take them off the list."""
    ended = [work for work in unfinished if work.failure or work.complete]
    for work in ended:
        unfinished.remove(work)
        try:
            manifest = work.manifest or _finish(task, work) if work.complete else None
        except FAILURES as error:
            manifest, work.failure = None, reason(error)
        yield outcome(manifest, task.max_failure_rate) if manifest else ShardOutcome(work.shard, failure=work.failure)


def _finish(task: _Task, work: ShardWork) -> RawManifest:
    known = work.environment if not work.seconds else ""
    return finish(task.store, work, known or task.backend.environment)


@dataclass(slots=True)
class _Making:
    """A part in the making: rows that are still to be asked for, and what is printed for rows that were.

    That is, by row, why the model failed on the molecule (empty if it did not) and its record. `saved` rows are in
    the store already, in a smaller part.
    """

    work: ShardWork
    part: Part
    left: list[int]
    printed: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether the model has been asked for all."""
        return len(self.printed) == len(self.part.unknown)


class _Calls:
    """The parts that wait to be computed, across shards, and the calls that compute them.

    A call has as many molecules as the model's speed allows: several parts, or a piece of one. What is printed for a
    part that is not whole is saved in a smaller part after a while: a run that is killed loses no more than that.
    """

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._size = CallSize(task.batch_size, task.report)
        self._caller = PatientCaller(task.model, task.backend, self._size, task.deadline, self._note)
        self._queue: deque[_Making] = deque()
        self._making: list[_Making] = []
        self._called: dict[str, tuple[_Making, int]] = {}
        self._saved_at = 0.0
        self._stack = ExitStack()
        self._entered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Save what is printed for parts that are not whole, and put the model away."""
        with self._stack:
            self._save()

    def enqueue(self, work: ShardWork) -> None:
        """Add what is missing of a shard. A part of which everything is kept is put at once."""
        self._caller.vouch(work.witness)
        for part in work.missing:
            making = _Making(work, part, list(part.unknown))
            if part.unknown:
                self._queue.append(making)
            else:
                self._put(making)

    @property
    def waiting(self) -> bool:
        """Whether any part waits."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether enough waits for a whole call."""
        return sum(len(making.left) for making in self._queue) >= self._size.most

    def run(self) -> None:
        """Make one call and put the parts that are whole; a shard of which a piece could not be had fails.

        Raises ModelError if the model cannot be made ready, or answers nothing, TimeIsUpError if time is.
        """
        pieces = self._take()
        if not pieces:
            return
        if not self._entered:
            self._stack.enter_context(self._task.backend)
            self._entered = True
        batches = [[making.part.smiles[row] for row in rows] for making, rows in pieces]
        self._called = {making.part.smiles[row]: (making, row) for making, rows in pieces for row in rows}
        started = time.monotonic()
        if not any(making.printed for making in self._making):
            self._saved_at = started
        try:
            answers = self._caller.answer(batches)
        except OSError as error:
            raise ModelError(f"{self._task.model} cannot be run: {reason(error)}") from error
        seconds_each = (time.monotonic() - started) / len(self._called)
        for (making, rows), answer in zip(pieces, answers, strict=True):
            if isinstance(answer, GaveUpError):
                making.work.failure = f"shard {making.work.shard} of {self._task.model}: {answer}"
                continue
            making.work.seconds += seconds_each * len(rows)
            for at, why in answer.failures.items():
                making.printed[rows[at]] = why, answer.records[at]
            self._task.on_progress(len(rows), len(answer.failures))
        if self._caller.answered:
            self.put_whole()
            self._save_in_time()

    def put_whole(self) -> None:
        """Put the parts that are whole; one of nothing but failures waits until the model has answered a molecule."""
        for making in self._making:
            if making.work.failure:
                self._save_piece(making)
            elif making.whole:
                self._put(making)
        self._making = [making for making in self._making if not (making.whole or making.work.failure)]

    def _put(self, making: _Making) -> None:
        work, part = making.work, making.part
        try:
            put_part(self._task.store, work, part, making.printed)
        except ShardError as error:
            work.failure = str(error)
        except FAILURES as error:
            work.failure = f"{part.name} could not be written: {reason(error)}"
        else:
            failed = sum(bool(why) for why, _ in making.printed.values())
            self._task.on_progress(len(part.smiles) - len(part.unknown), work.there[part.name].quarantined - failed)

    def _note(self, answered: Mapping[str, bytes]) -> None:
        """Take note of molecules that a call has answered, whatever becomes of the others."""
        for smiles, record in answered.items():
            making, row = self._called[smiles]
            making.printed[row] = "", record
        self._save_in_time()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_at >= self._task.save_seconds:
            self._save()

    def _save(self) -> None:
        """Save what is printed for parts that are not whole, unless the model answers nothing."""
        if self._caller.answered:
            for making in self._making:
                self._save_piece(making)
        self._saved_at = time.monotonic()

    def _save_piece(self, making: _Making) -> None:
        new = {row: printed for row, printed in making.printed.items() if row not in making.saved}
        if not new:
            return
        try:
            put_piece(self._task.store, making.work, making.part, new)
        except FAILURES as error:
            logger.warning("a piece of %s could not be saved: %s", making.part.name, reason(error))
        else:
            making.saved |= new.keys()

    def _take(self) -> list[tuple[_Making, list[int]]]:
        """Take the rows of a call off the queue, part by part; parts of failed shards are dropped.

        Raises TimeIsUpError if there is no time for one molecule.
        """
        room = self._size.affordable(self._task.deadline - time.monotonic())
        if room < 1:
            raise TimeIsUpError
        pieces = []
        while self._queue and room:
            making = self._queue[0]
            if making.work.failure:
                self._queue.popleft()
                continue
            rows = making.left[:room]
            del making.left[:room]
            room -= len(rows)
            pieces.append((making, rows))
            if not self._making or self._making[-1] is not making:
                self._making.append(making)
            if not making.left:
                self._queue.popleft()
        return pieces

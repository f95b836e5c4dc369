"""Run a model over shards of the library: resumable, part by part, with several small shards in one call."""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import polars as pl
from obstore.store import ObjectStore

from precalc.progress import OnProgress, ignore_progress
from precalc_assets.adoption_record import same_major
from precalc_assets.inference.batching import PatientCaller, machine_error
from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.model_backend import ModelBackend, TimeIsUpError
from precalc_assets.inference.parts import Part, ShardWork, finish, has_parts, outcome, plan_parts, put_part, put_piece
from precalc_assets.inference.stored_parts import PartName, ReusableRows, other_parts
from precalc_assets.library.library_manifest import LibraryManifest, read_shard
from precalc_assets.outcomes import FAILURES, ShardOutcome, failed_outcome, reason
from precalc_assets.platform_errors import ModelError, ShardError, is_models_fault
from precalc_assets.predictions.canary_report import CanaryReport, find_report
from precalc_assets.predictions.shard_manifest import RawManifest, find_manifest
from precalc_assets.predictions.validate import check_failure_rate
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

SAVE_SECONDS = 120.0
"""Save the computed rows of a part after this many seconds. With the longest call to a model that starts fast, that is
within five minutes."""


@dataclass(frozen=True)
class _Task:
    """The arguments of `predict_shards`."""

    store: ObjectStore
    library: LibraryManifest
    model: str
    backend: ModelBackend
    settings: Settings
    deadline: float
    on_progress: OnProgress
    save_seconds: float
    earlier: set[str] = field(default_factory=set)
    """Releases whose predictions might be reusable, named in a warning already."""

    @cached_property
    def report(self) -> CanaryReport | None:
        """The canary's report on this release, or None."""
        report = find_report(self.store, self.model)
        return report if report and report.is_of(self.backend.release, self.backend.columns) else None

    @cached_property
    def others(self) -> tuple[PartName, ...]:
        """Parts made for another number of shards. Their rows are reused; the objects are never changed."""
        n_shards = self.library.n_shards
        found = other_parts(self.store, self.model, n_shards)
        if found:
            kept = (
                "%d parts of the raw predictions of %s were made for another number of shards than %d, for example %s: "
                "their rows of this release are reused, and the parts stay; delete them when all shards have landed"
            )
            logger.warning(kept, len(found), self.model, n_shards, found[0])
        return found


def predict_shards(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    backend: ModelBackend,
    shards: Sequence[str],
    *,
    settings: Settings,
    deadline: float = math.inf,
    on_progress: OnProgress = ignore_progress,
    save_seconds: float = SAVE_SECONDS,
) -> Iterator[ShardOutcome]:
    """Compute the raw predictions of these shards, and yield each shard as it lands or fails.

    A shard with a manifest of this release and this version of the shard is not computed again. For the others, rows
    that earlier runs have computed are reused, also from another version of the library or another number of shards.

    A failed shard does not stop the others; a failed model fails all remaining shards with its reason. No call begins
    that is expected to overrun the `deadline` (of `time.monotonic`), a call that overruns it is stopped, and the
    remaining shards are unfinished. The backend is entered only if there is something to compute. Calls are sized by
    the model's speed, at first by the canary's measurement. Computed rows are stored after at most `save_seconds` plus
    one call. Memory is bounded by a call and a part.
    """
    task = _Task(store, library, model, backend, settings, deadline, on_progress, save_seconds)
    left = dict.fromkeys(shards)
    try:
        for landed in _predict(task, shards):
            del left[landed.shard]
            yield landed
    except (ModelError, TimeIsUpError) as error:
        why = str(error)
        for shard in left:
            left_out = ShardOutcome(shard, failure=why, models_fault=is_models_fault(error), unfinished=not why)
            yield _landed_before(task, shard) or left_out


def _predict(task: _Task, shards: Sequence[str]) -> Iterator[ShardOutcome]:
    unfinished: list[ShardWork] = []
    with _Calls(task) as calls:
        for shard in shards:
            try:
                work = _plan(task, shard)
            except FAILURES as error:
                yield failed_outcome(shard, error)
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
    """Find the stored predictions of a shard, and plan the rest.

    A shard with too many failed molecules is not done: the failed ones are computed again.
    """
    release, library = task.backend.release, task.library
    work = ShardWork(
        task.model,
        release,
        task.backend.columns,
        shard,
        library.n_shards,
        library.shards[shard].digest,
        ReusableRows(task.store),
        task.report.adoption if task.report else None,
    )
    manifest = find_manifest(task.store, task.model, shard)
    failed = manifest is not None and not check_failure_rate(manifest, task.settings.max_failure_rate).passed
    if manifest and not failed and _is_current(task, shard, manifest):
        work.manifest = manifest
        return work
    if manifest:
        work.seconds_before = manifest.seconds_in_all
        work.environment, work.listed = manifest.environment, frozenset(part.name for part in manifest.parts)
    earlier = manifest.release if manifest and not task.report else release
    if earlier not in task.earlier and same_major(earlier, release):
        task.earlier.add(earlier)
        again = (
            "%s has predictions of release %s, which are computed again for %s; `precalc predict %s --sample 100` "
            "first checks whether they can be reused"
        )
        logger.warning(again, task.model, earlier, release, task.model)
    molecules = pl.DataFrame(pl.from_arrow(read_shard(task.store, library, shard)))
    plan_parts(task.store, work, molecules, task.settings.batch_size, task.others, with_failures=not failed)
    return work


def _is_current(task: _Task, shard: str, manifest: RawManifest) -> bool:
    """Return whether a manifest has this release, these columns and the shard's digest, and all its parts exist."""
    made = (manifest.release, manifest.columns, manifest.shard_digest)
    now = (task.backend.release, task.backend.columns, task.library.shards[shard].digest)
    return made == now and has_parts(task.store, manifest)


def _landed_before(task: _Task, shard: str) -> ShardOutcome | None:
    """Return the outcome of a shard that an earlier run has finished, or None."""
    with suppress(*FAILURES):
        manifest = find_manifest(task.store, task.model, shard)
        if manifest and _is_current(task, shard, manifest):
            return outcome(manifest, task.settings.max_failure_rate)
    return None


def _land(task: _Task, unfinished: list[ShardWork]) -> Iterator[ShardOutcome]:
    """Yield completed and failed shards, and remove them from `unfinished`."""
    ended = [work for work in unfinished if work.failure or work.complete]
    for work in ended:
        unfinished.remove(work)
        try:
            manifest = work.manifest
            if work.complete and not manifest:
                known = work.environment if not work.seconds else ""
                manifest = finish(task.store, work, known or task.backend.environment)
        except FAILURES as error:
            manifest, work.failure = None, reason(error)
        yield (
            outcome(manifest, task.settings.max_failure_rate)
            if manifest
            else ShardOutcome(work.shard, failure=work.failure)
        )


class _Calls:
    """The queue of parts to compute, across shards, and the calls that compute them.

    A call has as many molecules as the model's speed allows: several parts, or a piece of one. The rows of an
    incomplete part are saved in a smaller part at intervals, which limits the loss when a run is killed.
    """

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._size = CallSize(task.settings.batch_size, task.report)
        required = task.settings.required_values
        self._caller = PatientCaller(
            task.model, task.backend, self._size, task.deadline, self._note, required_values=required
        )
        self._queue: deque[Part] = deque()
        self._pending: list[Part] = []
        self._called: dict[str, tuple[Part, int]] = {}
        self._saved_at = 0.0
        self._stack = ExitStack()
        self._entered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Save the rows of incomplete parts, and stop the model."""
        with self._stack:
            self._save()

    def enqueue(self, work: ShardWork) -> None:
        """Queue the missing parts of a shard. A part with only reusable rows is written at once."""
        self._caller.set_witness(work.witness)
        for part in work.missing:
            if part.unknown:
                self._queue.append(part)
            else:
                self._put(part)

    @property
    def waiting(self) -> bool:
        """Whether any part waits."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether enough molecules wait for a whole call."""
        return sum(len(part.left) for part in self._queue) >= self._size.most

    def run(self) -> None:
        """Make one call and, once the model has answered a molecule, write the completed parts.

        A shard with a piece that cannot be computed fails.

        Raises ModelError if the model cannot be started or answers nothing, TimeIsUpError if the time is up.
        """
        pieces = self._take()
        if not pieces:
            return
        if not self._entered:
            try:
                self._stack.enter_context(self._task.backend)
            except OSError as error:
                raise machine_error(self._task.model, reason(error)) from error
            self._entered = True
        batches = [[part.smiles[row] for row in rows] for part, rows in pieces]
        self._called = {part.smiles[row]: (part, row) for part, rows in pieces for row in rows}
        started = time.monotonic()
        if not any(part.printed for part in self._pending):
            self._saved_at = started
        answers = self._caller.answer(batches)
        seconds_each = (time.monotonic() - started) / len(self._called)
        for (part, rows), answer in zip(pieces, answers, strict=True):
            if answer.gave_up:
                part.work.failure = f"shard {part.work.shard} of {self._task.model}: {answer.gave_up}"
                continue
            part.work.seconds += seconds_each * len(rows)
            for at, why in answer.failures.items():
                part.printed[rows[at]] = why, answer.records[at]
            self._task.on_progress(len(rows), len(answer.failures))
        if self._caller.answered:
            self.put_whole()
            self._save_in_time()

    def put_whole(self) -> None:
        """Write the completed parts, and save the rows of failed shards."""
        for part in self._pending:
            if part.work.failure:
                self._save_piece(part)
            elif part.whole:
                self._put(part)
        self._pending = [part for part in self._pending if not (part.name in part.work.stored or part.work.failure)]

    def _put(self, part: Part) -> None:
        work = part.work
        failed = sum(bool(why) for why, _ in part.printed.values())
        try:
            put_part(self._task.store, part, self._task.backend.environment)
        except ShardError as error:
            work.failure = str(error)
        except FAILURES as error:
            work.failure = f"{part.name} could not be written: {reason(error)}"
        else:
            self._task.on_progress(len(part.smiles) - len(part.unknown), work.stored[part.name].quarantined - failed)
            part.printed.clear()

    def _note(self, answered: Mapping[str, bytes]) -> None:
        """Record answered molecules before their whole batch is answered."""
        for smiles, record in answered.items():
            part, row = self._called[smiles]
            part.printed[row] = "", record
        self._save_in_time()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved_at >= self._task.save_seconds:
            self._save()

    def _save(self) -> None:
        """Save the rows of incomplete parts, unless the model has answered nothing."""
        if self._caller.answered:
            for part in self._pending:
                self._save_piece(part)
        self._saved_at = time.monotonic()

    def _save_piece(self, part: Part) -> None:
        try:
            put_piece(self._task.store, part, self._task.backend.environment)
        except FAILURES as error:
            logger.warning("a piece of %s could not be saved: %s", part.name, reason(error))

    def _take(self) -> list[tuple[Part, list[int]]]:
        """Take the rows of the next call off the queue, without those of failed shards. Raises TimeIsUpError."""
        room = self._size.affordable(self._task.deadline - time.monotonic())
        if room < 1:
            raise TimeIsUpError
        pieces = []
        while self._queue and room:
            part = self._queue[0]
            if part.work.failure:
                self._queue.popleft()
                continue
            rows = part.left[:room]
            del part.left[:room]
            room -= len(rows)
            pieces.append((part, rows))
            if not self._pending or self._pending[-1] is not part:
                self._pending.append(part)
            if not part.left:
                self._queue.popleft()
        return pieces

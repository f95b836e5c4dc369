"""Running a model over shards of the library: resumable, part by part, several small shards in one call."""

import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import polars as pl
from obstore.store import ObjectStore

from precalc_assets.errors import ModelError, ShardError
from precalc_assets.inference.batching import Answer, GaveUpError, PatientCaller
from precalc_assets.inference.kept import KeptRows
from precalc_assets.inference.part_names import PartName, other_parts
from precalc_assets.inference.parts import Part, ShardWork, finish, has_parts, outcome, plan_parts, put_part
from precalc_assets.inference.runner import ModelRunner, TimeIsUpError
from precalc_assets.library import LibraryManifest, read_shard
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.predictions import RawManifest, check_failure_rate, find_manifest
from precalc_assets.progress import OnProgress, ignore_progress

logger = logging.getLogger(__name__)

_CALL_SECONDS = 30.0
"""Calls to a fast model grow to about this length, so that starting a process is little of it."""

_MOST_BATCHES = 10
_MOST_BYTES = 16 << 20
"""Bounds of a call to a fast model: of what is lost when it is killed, and of the memory that its output takes."""


@dataclass(frozen=True)
class _Task:
    """What `predict_shards` was asked for."""

    store: ObjectStore
    library: LibraryManifest
    model: str
    runner: ModelRunner
    batch_size: int
    max_failure_rate: float
    deadline: float
    on_progress: OnProgress

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
    runner: ModelRunner,
    shards: Sequence[str],
    *,
    batch_size: int,
    max_failure_rate: float,
    deadline: float = math.inf,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[ShardOutcome]:
    """Compute the raw predictions of these shards, and yield each shard as it lands or fails.

    A shard with a manifest of this release and this version of the shard is there already; of the others, what an
    earlier run has computed is kept, also for another version of the library or another number of shards. A shard that
    fails stops no other; a model that fails ends all that are left with its reason. No batch is begun that would not
    end before the `deadline` (of `time.monotonic`), as far as those before it tell, and a call that has not ended by
    then is ended; the shards that are left come out as unfinished. The runner is entered when there is something to
    compute. Memory is bounded by a call.
    """
    task = _Task(store, library, model, runner, batch_size, max_failure_rate, deadline, on_progress)
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
        calls.put_held()
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
    molecules = pl.DataFrame(pl.from_arrow(read_shard(task.store, task.library, shard)))
    plan_parts(task.store, work, molecules, task.batch_size, task.others, with_failures=not failed)
    return work


def _begin(task: _Task, shard: str) -> ShardWork:
    runner, library = task.runner, task.library
    digest = library.shards[shard].digest
    return ShardWork(task.model, runner.release, runner.columns, shard, library.n_shards, digest, KeptRows(task.store))


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
            manifest = work.manifest or finish(task.store, work, task.runner.environment) if work.complete else None
        except FAILURES as error:
            manifest, work.failure = None, reason(error)
        yield outcome(manifest, task.max_failure_rate) if manifest else ShardOutcome(work.shard, failure=work.failure)


class _Calls:
    """The parts that wait to be computed, across shards, and the calls that compute them, a few parts each."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._caller = PatientCaller(task.model, task.runner, task.deadline)
        self._queue: deque[tuple[ShardWork, Part]] = deque()
        self._held: list[tuple[ShardWork, Part, Answer]] = []
        self._size = task.batch_size
        self._seconds_each = 0.0
        self._shortest = 0.0
        self._stack = ExitStack()
        self._entered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def enqueue(self, work: ShardWork) -> None:
        """Add what is missing of a shard. A part of which everything is kept is put at once."""
        self._caller.vouch(work.witness)
        for part in work.missing:
            if part.unknown:
                self._queue.append((work, part))
            else:
                self._put(work, part, Answer([]))

    @property
    def waiting(self) -> bool:
        """Whether any part waits."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether enough waits for a whole call."""
        return sum(len(part.unknown) for _, part in self._queue) >= self._size

    def run(self) -> None:
        """Make one call and put its parts; a shard of which a part could not be had is marked as failed.

        Raises ModelError if the model cannot be made ready, or answers nothing, TimeIsUpError if time is.
        """
        batch = self._take(self._affordable())
        if not batch:
            return
        asked = sum(len(part.unknown) for _, part in batch)
        if not self._entered:
            self._stack.enter_context(self._task.runner)
            self._entered = True
        started = time.perf_counter()
        try:
            answers = self._caller.answer([part.asked for _, part in batch])
        except OSError as error:
            raise ModelError(f"{self._task.model} cannot be run: {reason(error)}") from error
        self._learn(asked, time.perf_counter() - started, sum(map(_size, answers)))
        for (work, part), answer in zip(batch, answers, strict=True):
            if isinstance(answer, GaveUpError):
                work.failure = f"shard {work.shard} of {self._task.model}: {answer}"
                continue
            work.seconds += self._seconds_each * len(part.unknown)
            self._held.append((work, part, answer))
        if self._caller.answered:
            self.put_held()

    def put_held(self) -> None:
        """Put what was held back: a part of nothing but failures says nothing until the model has answered one."""
        for work, part, answer in self._held:
            self._put(work, part, answer)
        self._held.clear()

    def _put(self, work: ShardWork, part: Part, answer: Answer) -> None:
        try:
            put_part(self._task.store, work, part, answer)
        except ShardError as error:
            work.failure = str(error)
        except FAILURES as error:
            work.failure = f"{part.name} could not be written: {reason(error)}"
        else:
            self._task.on_progress(len(part.smiles), work.there[part.name].quarantined)

    def _take(self, room: int) -> list[tuple[ShardWork, Part]]:
        """Take the next part off the queue, and as many more as fit into a call; those of failed shards are dropped."""
        batch: list[tuple[ShardWork, Part]] = []
        while self._queue and (not batch or len(self._queue[0][1].unknown) <= room):
            work, part = self._queue.popleft()
            if not work.failure:
                batch.append((work, part))
                room -= len(part.unknown)
        return batch

    def _learn(self, asked: int, seconds: float, size: int) -> None:
        """Size the next call by how long this one took and how much it brought.

        A model that was found dead is sent no more than a batch at a time.
        """
        self._seconds_each = seconds / asked
        self._shortest = min(self._shortest or seconds, seconds)
        batches = 1 if self._caller.died else _MOST_BATCHES
        room = min(int(_CALL_SECONDS / self._seconds_each), _MOST_BYTES * asked // max(1, size))
        self._size = max(self._task.batch_size, min(room, self._task.batch_size * batches))

    def _affordable(self) -> int:
        """Return how many molecules there is time for.

        Raises TimeIsUpError if there is none for the next part.
        """
        left = self._task.deadline - time.monotonic()
        _, part = self._queue[0]
        if left <= max(self._seconds_each * len(part.unknown), self._shortest):
            raise TimeIsUpError
        return int(min(left / self._seconds_each, self._size)) if self._seconds_each else self._size


def _size(answer: Answer | GaveUpError) -> int:
    return sum(map(len, answer.records)) if isinstance(answer, Answer) else 0

"""Running a model over shards of the library: resumable, part by part, several small shards in one call."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.errors import ModelError
from precalc_assets.inference.batching import Answer, GaveUpError, PatientCaller
from precalc_assets.inference.parts import Part, ShardWork, find_parts, finish, has_parts, outcome, plan_parts, put_part
from precalc_assets.inference.runner import ModelRunner
from precalc_assets.library import LibraryManifest, read_shard
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.predictions import check_failure_rate, find_manifest
from precalc_assets.progress import OnProgress, ignore_progress

_CALL_SECONDS = 30.0
"""Calls to a fast model grow to about this length, so that starting a process is little of it."""

_MOST_BATCHES = 10
_MOST_CELLS = 4_000_000
"""Bounds of a call to a fast model: of what is lost when it is killed, and of the memory that its output takes."""


def predict_shards(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    runner: ModelRunner,
    shards: Sequence[str],
    *,
    batch_size: int,
    max_failure_rate: float,
    on_progress: OnProgress = ignore_progress,
) -> Iterator[ShardOutcome]:
    """Compute the raw predictions of these shards, and yield each shard as it lands or fails.

    A shard with a manifest of this release and this version of the shard is there already; of the others, parts that
    an earlier run has left are kept. A shard that fails stops no other; a model that fails ends all that are left with
    its reason. The runner is entered when there is something to compute. Memory is bounded by a call.
    """
    left = dict.fromkeys(shards)
    try:
        for landed in _predict(store, library, model, runner, shards, batch_size, max_failure_rate, on_progress):
            del left[landed.shard]
            yield landed
    except ModelError as error:
        yield from (ShardOutcome(shard, failure=str(error)) for shard in left)


def _predict(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    runner: ModelRunner,
    shards: Sequence[str],
    batch_size: int,
    max_failure_rate: float,
    on_progress: OnProgress,
) -> Iterator[ShardOutcome]:
    unfinished: list[ShardWork] = []
    with _Calls(store, model, runner, batch_size, on_progress) as calls:
        for shard in shards:
            try:
                work = _plan(store, library, model, runner, shard, batch_size, max_failure_rate)
            except FAILURES as error:
                yield ShardOutcome(shard, failure=reason(error))
                continue
            on_progress(work.settled, work.quarantined)
            unfinished.append(work)
            calls.enqueue(work)
            while calls.full:
                calls.run()
                yield from _land(store, unfinished, max_failure_rate)
            yield from _land(store, unfinished, max_failure_rate)
        while calls.waiting:
            calls.run()
            yield from _land(store, unfinished, max_failure_rate)
        calls.put_held()
        yield from _land(store, unfinished, max_failure_rate)


def _plan(
    store: ObjectStore,
    library: LibraryManifest,
    model: str,
    runner: ModelRunner,
    shard: str,
    batch_size: int,
    max_failure_rate: float,
) -> ShardWork:
    """Find out what there is of a shard and what is to be computed.

    A shard with too many failed molecules is not done: those of its parts that have some are computed again.
    """
    library_digest = library.shards[shard].digest
    work = ShardWork(model, runner.release, runner.columns, shard, library_digest)
    manifest = find_manifest(store, model, shard)
    failed = manifest is not None and not check_failure_rate(manifest, max_failure_rate).passed
    if manifest and not failed and work.is_made_by(manifest) and has_parts(store, manifest):
        work.manifest = manifest
        return work
    molecules = pl.DataFrame(pl.from_arrow(read_shard(store, library, shard)))
    prefix = storage.raw_prefix(model, shard)
    work.parts = plan_parts(prefix, runner.release, runner.columns, molecules, batch_size)
    find_parts(store, work, with_failures=not failed)
    return work


def _land(store: ObjectStore, unfinished: list[ShardWork], max_failure_rate: float) -> Iterator[ShardOutcome]:
    """Yield the shards of which nothing is left to compute, and those that failed; take them off the list."""
    ended = [work for work in unfinished if work.failure or work.complete]
    for work in ended:
        unfinished.remove(work)
        try:
            landed = outcome(work.manifest or finish(store, work), max_failure_rate) if work.complete else None
        except FAILURES as error:
            work.failure = reason(error)
            landed = None
        yield landed or ShardOutcome(work.shard, failure=work.failure)


class _Calls:
    """The parts that wait to be computed, across shards, and the calls that compute them, a few parts each."""

    def __init__(
        self, store: ObjectStore, model: str, runner: ModelRunner, batch_size: int, on_progress: OnProgress
    ) -> None:
        self._store = store
        self._model = model
        self._runner = runner
        self._caller = PatientCaller(model, runner)
        self._on_progress = on_progress
        self._queue: deque[tuple[ShardWork, Part]] = deque()
        self._held: list[tuple[ShardWork, Part, Answer]] = []
        self._size = batch_size
        self._smallest = batch_size
        self._largest = max(batch_size, min(batch_size * _MOST_BATCHES, _MOST_CELLS // len(runner.columns)))
        self._stack = ExitStack()
        self._entered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def enqueue(self, work: ShardWork) -> None:
        """Add what is missing of a shard."""
        self._queue.extend((work, part) for part in work.missing)

    @property
    def waiting(self) -> bool:
        """Whether any part waits."""
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Whether enough waits for a whole call."""
        return sum(part.smiles.len() for _, part in self._queue) >= self._size

    def run(self) -> None:
        """Make one call and put its parts; a shard of which a part could not be had is marked as failed.

        Raises ModelError if the model cannot be made ready, or answers nothing.
        """
        batch = self._take()
        if not batch:
            return
        if not self._entered:
            self._stack.enter_context(self._runner)
            self._entered = True
        started = time.perf_counter()
        try:
            answers = self._caller.answer([part.smiles.to_list() for _, part in batch])
        except OSError as error:
            raise ModelError(f"{self._model} cannot be run: {reason(error)}") from error
        seconds_each = (time.perf_counter() - started) / sum(part.smiles.len() for _, part in batch)
        self._size = min(max(int(_CALL_SECONDS / seconds_each), self._smallest), self._largest)
        for (work, part), answer in zip(batch, answers, strict=True):
            if isinstance(answer, GaveUpError):
                work.failure = f"shard {work.shard} of {self._model}: {answer}"
                continue
            work.seconds += seconds_each * part.smiles.len()
            self._held.append((work, part, answer))
        if self._caller.answered:
            self.put_held()

    def put_held(self) -> None:
        """Put what was held back: a part of nothing but failures says nothing until the model has answered one."""
        for work, part, answer in self._held:
            try:
                put_part(self._store, work, part, answer)
            except FAILURES as error:
                work.failure = f"{part.name} could not be written: {reason(error)}"
            else:
                self._on_progress(part.smiles.len(), len(answer.failures))
        self._held.clear()

    def _take(self) -> list[tuple[ShardWork, Part]]:
        """Take the next parts off the queue, as many as fit into a call; those of failed shards are dropped."""
        batch: list[tuple[ShardWork, Part]] = []
        room = self._size
        while self._queue and (not batch or self._queue[0][1].smiles.len() <= room):
            work, part = self._queue.popleft()
            if not work.failure:
                batch.append((work, part))
                room -= part.smiles.len()
        return batch

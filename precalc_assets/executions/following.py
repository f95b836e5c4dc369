"""Following executions to their end: which shards land, which are retried, and what a waiting person reads.

The records hold everything, so following can stop and start again at any time. How one execution gets from its launch
to its end is in `protocol`; what Dagster makes of the outcomes is in `defs/`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from obstore.store import ObjectStore

from precalc_assets.executions import records
from precalc_assets.executions.compute_backend import BackendError, Engine, RunStatus
from precalc_assets.executions.protocol import LOOK, Waiting
from precalc_assets.executions.stepping import step
from precalc_assets.outcomes import Fact, ShardOutcome
from precalc_assets.platform_errors import ExecutionError, ModelError

ATTEMPTS = 3
"""Attempts at a shard before it counts as failed."""

_SLOW_LOOK = timedelta(seconds=60)
_SLOW_AFTER = timedelta(minutes=10)
"""Long runs are looked at less often: 50 of them at a time would use up a GitHub App's hourly requests."""

_MANIFEST_LOOK = timedelta(seconds=5)
"""Between two looks at the store for shards that have landed, on a cluster, whose controller is asked less often. On
GitHub both are looked at together, so that a shard is recorded with its job's seconds."""

_CANCEL_WAIT = timedelta(seconds=120)
"""How long a cancelling process waits for the end: half of it for the run to end by itself, half of it by force."""

_CANCEL_LOOK = timedelta(seconds=5)

_MOST_LOGS = 3
"""Logs of failed jobs that a follower shows; the others are most often the same."""

_State = records.Settled | RunStatus | Waiting
"""What a step of an execution returns."""

_Facts = dict[str, dict[str, Fact]]
"""By shard, the facts that an execution adds to those of the shard's manifest."""


def follow(
    engine: Engine,
    model: str,
    shards: Sequence[str],
    *,
    dagster_run: str = "",
    on_follow: Callable[[str], None] = lambda _: None,
) -> Iterator[ShardOutcome]:
    """Have these shards computed by the backend, and yield each when it has landed or has failed for good.

    A shard whose manifest is of this library, and of the release that the model's canary last saw, has landed already.
    Executions that compute some of the other shards are followed, whoever launched them, and the rest is launched.
    A failed shard gets ATTEMPTS attempts in all, including those under earlier followers. One whose failure is
    the model's fault gets one attempt. A shard for which a job had no time continues in the next execution, and that
    does not count as an attempt. A follower that stops or dies leaves its executions to the next one; `cancel` ends
    them. `on_follow` gets the key of each execution that is followed.

    Raises RefusedError if the backend refuses to show a run: the run goes on and can be followed again.
    """
    return _Following(engine, model, records.Follower(dagster_run=dagster_run), on_follow).outcomes(shards)


def follow_sample(
    engine: Engine, model: str, size: int, *, dagster_run: str = "", on_follow: Callable[[str], None] = lambda _: None
) -> records.Settled:
    """Run a model's canary on the backend; the canary's report has the results.

    A canary that already runs is followed, whatever its size. Raises ExecutionError with the reason if the canary
    failed, ModelError if the model is to blame, and otherwise like `follow`.
    """
    execution = _open_sample(engine, model, size)
    execution.follower.put(records.Follower(dagster_run=dagster_run))
    on_follow(execution.key)
    tell = _tell_changes(engine.say)
    while not isinstance(state := step(engine, execution), records.Settled):
        tell(execution, state)
        engine.wait_until(_next_look(state, engine.now()))
    if state.failures:
        _tell_logs(engine, execution.intent, state)
        raise sample_error(model, state)
    return state


def sample_error(model: str, settled: records.Settled) -> ExecutionError | ModelError:
    """Return the error for a canary that failed."""
    error = ModelError if records.SAMPLE in settled.models_faults else ExecutionError
    return error(f"the canary of {model}: {settled.failures[records.SAMPLE]}")


def cancel(engine: Engine, executions: Sequence[records.Execution]) -> None:
    """Cancel executions, and settle those that end within two minutes.

    An execution without a run will get none. Shards that have landed stay. The wish is recorded first, so that the
    next process that looks at an execution continues to cancel it, and nobody retries its shards.
    """
    left = list(executions)
    for execution in left:
        execution.cancellation.create(records.Cancellation(requested_at=engine.now()))
        engine.say(f"{execution.key}: cancelling")
    deadline = engine.now() + _CANCEL_WAIT
    while left and engine.now() < deadline:
        look = engine.now() + _CANCEL_LOOK
        for execution in list(left):
            try:
                state = step(engine, execution)
            except BackendError as error:
                engine.say(str(error))
                continue
            if isinstance(state, records.Settled):
                left.remove(execution)
            elif isinstance(state, Waiting):
                look = max(look, state.until)
        if left:
            engine.wait_until(min(look, deadline))
    for execution in left:
        engine.say(f"{execution.key}: its run has not ended yet; the sensor executions goes on with it")


def retry_reasons(intent: records.Intent, settled: records.Settled) -> dict[str, tuple[str, ...]]:
    """Return the shards of a settled execution to retry, each with the reasons why all attempts so far failed."""
    if settled.conclusion in (records.NOT_LAUNCHED, records.CANCELLED):
        return {}
    again = {shard: intent.reasons.get(shard, ()) for shard in settled.unfinished}
    for shard, why in settled.failures.items():
        if shard not in (records.SAMPLE, *settled.models_faults) and intent.attempt(shard) < ATTEMPTS:
            again[shard] = (*intent.reasons.get(shard, ()), why)
    return again


def shards_to_retry(store: ObjectStore, model: str) -> dict[str, tuple[str, ...]]:
    """Return the shards whose last execution is settled, did not land them, and was not their last attempt."""
    again: dict[str, tuple[str, ...]] = {}
    for execution in records.list_executions(store, model):
        intent, settled = execution.intent, execution.settled.read()
        again = {shard: why for shard, why in again.items() if shard not in intent.shards}
        again |= retry_reasons(intent, settled) if settled else {}
    return again


@dataclass
class _Followed:
    """An execution that is followed: when to look at it next, and what is known about its shards."""

    execution: records.Execution
    look_at: datetime
    facts: _Facts


@dataclass
class _Following:
    """The shards of a model that have not landed, with the reasons of failed attempts, and their executions."""

    engine: Engine
    model: str
    follower: records.Follower
    on_follow: Callable[[str], None]
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    active: dict[str, _Followed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tell = _tell_changes(self.engine.say)

    def outcomes(self, shards: Sequence[str]) -> Iterator[ShardOutcome]:
        """See `follow`."""
        failed = shards_to_retry(self.engine.store, self.model)
        self.left = {shard: failed.get(shard, ()) for shard in shards}
        # Before anything is yielded: the follower of an execution is the one that records its shards.
        self._reattach()
        yield from self._land(shards, {s: f for each in self.active.values() for s, f in each.facts.items()})
        while self.left:
            self._cover()
            for followed in list(self.active.values()):
                yield from self._look(followed)
            if self.left:
                looks = [followed.look_at for followed in self.active.values()]
                pause = LOOK if self.engine.compute == "github" else _MANIFEST_LOOK
                self.engine.wait_until(min([self.engine.now() + pause, *looks]))
        # Settle what has ended by now. A run may go on after its shards have landed; nobody has to wait for its end.
        for followed in self.active.values():
            try:
                self.tell(followed.execution, step(self.engine, followed.execution))
            except BackendError as error:
                self.engine.say(f"{followed.execution.key}: {error}")

    def _look(self, followed: _Followed) -> Iterator[ShardOutcome]:
        """Take a step of an execution if it is due, and look at its shards."""
        execution, now = followed.execution, self.engine.now()
        state = step(self.engine, execution) if now >= followed.look_at else None
        if state:
            followed.look_at = _next_look(state, self.engine.now())
            if not isinstance(state, Waiting):
                followed.facts = _shard_facts(execution.intent, state)
            self.tell(execution, state)
        yield from self._land(execution.intent.shards, followed.facts)
        if isinstance(state, records.Settled):
            del self.active[execution.key]
            yield from self._end(execution.intent, state)

    def _land(self, shards: Sequence[str], facts: _Facts) -> Iterator[ShardOutcome]:
        """Yield the shards that have landed, or that cannot land."""
        for shard in shards:
            if shard not in self.left:
                continue
            found = self.engine.find_landed(self.model, shard)
            if found and (found.landed or not found.digest):
                del self.left[shard]
                yield replace(found, facts={**found.facts, **facts.get(shard, {})})

    def _cover(self) -> None:
        """Make sure that a followed execution computes each shard that is left."""
        if self._uncovered():
            self._reattach()
        free = self._uncovered()
        if free:
            reasons = {shard: self.left[shard] for shard in free if self.left[shard]}
            digest = self.engine.library.digest
            opened = records.open_execution(
                self.engine.store, self.model, digest, free, compute=self.engine.compute, reasons=reasons
            )
            if opened:
                self._attach(opened)

    def _uncovered(self) -> list[str]:
        covered = {shard for followed in self.active.values() for shard in followed.execution.intent.shards}
        return [shard for shard in self.left if shard not in covered]

    def _reattach(self) -> None:
        """Follow the unsettled executions of shards that are left, whoever launched them."""
        for execution in records.unsettled(self.engine.store, self.model):
            if execution.key not in self.active and not self.left.keys().isdisjoint(execution.intent.shards):
                self._attach(execution)

    def _attach(self, execution: records.Execution) -> None:
        execution.follower.put(self.follower)
        self.on_follow(execution.key)
        run = execution.run.read()
        facts = _run_facts(execution.intent, run.url) if run else {}
        self.active[execution.key] = _Followed(execution, self.engine.now(), facts)

    def _end(self, intent: records.Intent, settled: records.Settled) -> Iterator[ShardOutcome]:
        """Yield the shards that have failed for good in a settled execution, and keep the others for the next one."""
        if not self.left.keys().isdisjoint(settled.failures):
            _tell_logs(self.engine, intent, settled)
        again = retry_reasons(intent, settled)
        for shard in intent.shards:
            if shard not in self.left:
                continue
            before = intent.reasons.get(shard, ())
            if intent.library_digest != self.engine.library.digest:
                self.left[shard] = before
            elif shard in again:
                self.left[shard] = again[shard]
            else:
                del self.left[shard]
                why = settled.failures.get(shard, "its raw predictions were there and are gone")
                earlier = f" (attempt {len(before) + 1}; before: {'; '.join(before)})" if before else ""
                failure = f"shard {shard} of {self.model}: {why}{earlier}"
                yield ShardOutcome(shard, failure=failure, models_fault=shard in settled.models_faults)


def _open_sample(engine: Engine, model: str, size: int) -> records.Execution:
    """Return the execution of a model's canary: the one that is under way, or a new one."""
    reasons = _memory_reasons(engine.store, model)
    while True:
        opened = records.open_execution(
            engine.store, model, engine.library.digest, (), compute=engine.compute, sample=size, reasons=reasons
        )
        for execution in [opened] if opened else records.unsettled(engine.store, model):
            if execution.intent.sample is not None:
                return execution


def _memory_reasons(store: ObjectStore, model: str) -> dict[str, tuple[str, ...]]:
    """Return why the last canaries failed if the last one lacked memory: the next one gets more."""
    for execution in reversed(records.list_executions(store, model)):
        if execution.intent.sample is not None and (settled := execution.settled.read()):
            why = settled.failures.get(records.SAMPLE, "")
            before = execution.intent.reasons.get(records.SAMPLE, ())
            return {records.SAMPLE: (*before, why)} if why.startswith(records.OUT_OF_MEMORY) else {}
    return {}


def _tell_logs(engine: Engine, intent: records.Intent, settled: records.Settled) -> None:
    """Say the end of the logs of the first jobs that failed."""
    failed = [job for job in settled.jobs if job.status not in ("success", "skipped", "cancelled") and job.started_at]
    for job in failed[:_MOST_LOGS]:
        try:
            log = engine.open_backend(intent.compute).read_log(intent, job)
        except BackendError as error:
            log = f"it cannot be read: {error}"
        engine.say(f"{job.name} ended ({job.status}); the end of its log, {job.url}:\n{log}")


def _shard_facts(intent: records.Intent, state: records.Settled | RunStatus) -> _Facts:
    """Return what an execution knows about its shards: the run, the attempt, and the shard's job with its seconds.

    A job that computed several shards gives each of them all of its seconds. `runner_seconds` is there once it ended.
    """
    facts = _run_facts(intent, state.url if isinstance(state, records.Settled) else state.run.url)
    for job in state.jobs:
        for shard in facts.keys() & set(job.shards):
            facts[shard] |= {"job": job.url, "queue_seconds": job.queue_seconds}
            facts[shard] |= {"runner_seconds": job.runner_seconds} if job.runner_seconds else {}
    return facts


def _describe(key: str, state: _State) -> str:
    if isinstance(state, Waiting):
        return f"{key}: {state.why}"
    if isinstance(state, RunStatus):
        counts = sorted(Counter(job.status for job in state.jobs).items())
        listed = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts)
        return f"{key}: {len(state.jobs)} jobs ({listed or 'none yet'}); {state.run.url}"
    shards = {"landed": state.landed, "failed": state.failures, "unfinished": state.unfinished}
    listed = ", ".join(f"{len(items)} {name}" for name, items in shards.items() if items)
    took = f"queued {state.queue_seconds:,.0f} s, {state.runner_seconds:,.0f} runner-seconds"
    return f"{key}: {state.conclusion}: {listed}; {took}; {state.url}"


def _run_facts(intent: records.Intent, url: str) -> _Facts:
    return {shard: {"run": url, "attempt": intent.attempt(shard)} for shard in intent.shards}


def _tell_changes(
    say: Callable[[str], None],
) -> Callable[[records.Execution, _State], None]:
    """Return a function that describes an execution when the line differs from the last one about it."""
    said: dict[str, str] = {}

    def tell(execution: records.Execution, state: _State) -> None:
        line = _describe(execution.key, state)
        if said.get(execution.key) != line:
            said[execution.key] = line
            say(line)

    return tell


def _next_look(state: _State, now: datetime) -> datetime:
    if isinstance(state, Waiting):
        return state.until
    if isinstance(state, records.Settled):
        return now
    return now + (LOOK if now < state.created_at + _SLOW_AFTER else _SLOW_LOOK)

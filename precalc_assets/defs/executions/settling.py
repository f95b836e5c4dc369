"""What the sensors of executions do at a tick: settle and report what no Dagster run follows, and try shards again.

A tick begins nothing more after a while, and goes on with the next execution or model at the next tick. A tick that is
lost or done twice changes nothing: settling and launching are safe by the executions' records, and Dagster is told of
what it has no record of. It is told by the tick itself, so that what a tick that lasts too long has told, the next one
knows, and that the time it takes counts; a lock keeps two ticks from telling the same.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout
from pydantic import BaseModel

from precalc_assets.defs.executions.reporting import canary_events, shard_events, tell_dagster
from precalc_assets.defs.partitions import MODELS
from precalc_assets.defs.resources import Platform
from precalc_assets.executions import (
    Cancellation,
    Execution,
    Intent,
    Settled,
    find_landed,
    list_executions,
    open_execution,
    shards_to_retry,
    step,
)
from precalc_assets.executions.following import describe, shard_facts
from precalc_assets.outcomes import FAILURES, reason

_TICK_SECONDS = 15.0
"""After which nothing more is begun: an execution takes two of GitHub's answers, of 12 seconds each at most, and its
events a few seconds. Dagster gives a tick 60 seconds."""

_SENSOR = "github_executions"
"""The sensor that tells."""


class Position(BaseModel):
    """Where a sensor is: by model the number up to which its executions are dealt with, and what was looked at last."""

    done: dict[str, int] = {}
    last: str = ""

    @classmethod
    def of(cls, cursor: str | None) -> "Position":
        """Read a sensor's cursor."""
        return cls.model_validate_json(cursor) if cursor else cls()


class Tick:
    """What a tick works with, and how long it has been at work.

    Raises PrecalcError if there is no library, or a setting of GitHub's is missing.
    """

    def __init__(self, context: dg.SensorEvaluationContext, platform: Platform) -> None:
        self.instance = context.instance
        self.platform = platform
        self.engine = platform.engine(context.log.info, patient=False)
        self._started = time.monotonic()

    def has_time(self) -> bool:
        """Return whether the tick is young enough to begin something."""
        return time.monotonic() - self._started < _TICK_SECONDS

    def follower(self, execution: Execution) -> dg.DagsterRun | None:
        """Return the Dagster run that follows an execution or did so last, if this instance has it."""
        follower = execution.follower.read()
        return self.instance.get_run_by_id(follower.dagster_run) if follower and follower.dagster_run else None

    def is_followed(self, execution: Execution) -> bool:
        """Return whether a Dagster run that has not ended follows an execution."""
        run = self.follower(execution)
        return run is not None and not run.is_finished


@contextmanager
def alone(instance: dg.DagsterInstance) -> Iterator[bool]:
    """Say whether no other tick settles and reports on this instance, and keep others from it meanwhile."""
    folder = Path(instance.storage_directory())
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "github_executions.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def settle_unfollowed(tick: Tick, position: Position) -> tuple[int, Position]:
    """Bring each execution that no Dagster run follows a step further, and report what those that ended have brought.

    Return how many events Dagster was told, and where the sensor is then.
    """
    everything = list_executions(tick.platform.store)
    new = {each.key: each for each in everything if each.number > position.done.get(each.model, 0)}
    reported: set[str] = set()
    told = 0
    last = position.last
    for key in _from(list(new), last):
        if not tick.has_time():
            break
        last = key
        try:
            settled = _bring_on(tick, new[key])
            if settled:
                told += _report(tick, new[key].intent, settled)
                reported.add(key)
        except FAILURES as error:
            tick.engine.say(f"{key}: {reason(error)}")
    return told, Position(done=_advance(position.done, list(new.values()), reported), last=last)


def launch_again(tick: Tick, position: Position) -> tuple[list[Intent], Position]:
    """Open executions for shards that failed and are worth another attempt; return them, each with the reasons.

    Left alone are shards of executions that a Dagster run follows, which tries again by itself, that were cancelled,
    or that were of another version of the library; and shards that have landed by other ways.
    """
    store = tick.platform.store
    by_model: dict[str, list[Execution]] = {}
    for execution in list_executions(store):
        by_model.setdefault(execution.model, []).append(execution)
    opened: list[Intent] = []
    done = dict(position.done)
    last = position.last
    for model in _from([model for model, its in by_model.items() if done.get(model) != its[-1].number], last):
        if not tick.has_time():
            break
        last = model
        its = by_model[model]
        try:
            again = _worth_another(tick, model, its)
            digest = tick.engine.library.digest
            new = open_execution(store, model, digest, list(again), reasons=again) if again else None
            opened += [new.intent] if new else []
            if not new and all(each.settled.read() and not tick.is_followed(each) for each in its):
                done[model] = its[-1].number
        except FAILURES as error:
            tick.engine.say(f"{model}: {reason(error)}")
    return opened, Position(done=done, last=last)


def _from(names: Sequence[str], last: str) -> list[str]:
    """Return names in the order in which it is their turn, after the one that was looked at last."""
    return sorted(names, key=lambda name: (name <= last, name))


def _bring_on(tick: Tick, execution: Execution) -> Settled | None:
    """Bring an execution a step further unless a Dagster run follows it; return what came of it if it has ended."""
    run = tick.follower(execution)
    if run and not run.is_finished:
        return None
    if run and run.status is dg.DagsterRunStatus.CANCELED and not execution.settled.read():
        # The run had no time to do it, or somebody has marked it as cancelled when it was dead.
        execution.cancellation.create(Cancellation(requested_at=tick.engine.now()))
    settled = step(tick.engine, execution)
    if not isinstance(settled, Settled):
        return None
    tick.engine.say(describe(execution.key, settled))
    return settled


def _report(tick: Tick, intent: Intent, settled: Settled) -> int:
    """Tell Dagster of an execution's canary, and then of its shards, whose events name that of the canary."""
    facts = {shard: facts for shard, facts in shard_facts(intent, settled).items() if shard in settled.landed}
    tick.instance.add_dynamic_partitions(MODELS, [intent.model])
    canary = canary_events(tick.instance, tick.platform, intent.model)
    told = tell_dagster(tick.instance, intent.key, canary, sensor=_SENSOR)
    shards = shard_events(tick.instance, tick.platform, tick.engine, intent.model, intent.shards, facts)
    return told + tell_dagster(tick.instance, intent.key, shards, sensor=_SENSOR)


def _worth_another(tick: Tick, model: str, executions: Sequence[Execution]) -> dict[str, tuple[str, ...]]:
    """Return the shards that are worth another attempt, with why those so far failed."""
    again = shards_to_retry(tick.platform.store, model)
    last: dict[str, str] = {}
    for each in executions if again else ():
        may = each.settled.read() and each.intent.library_digest == tick.engine.library.digest
        last |= dict.fromkeys(each.intent.shards, each.key if may else "")
    free = {each.key for each in executions if each.key in last.values() and not tick.is_followed(each)}
    return {
        shard: why
        for shard, why in again.items()
        if last[shard] in free and find_landed(tick.engine, model, shard) is None
    }


def _advance(done: dict[str, int], others: Sequence[Execution], reported: set[str]) -> dict[str, int]:
    """Return by model the number up to which all executions are reported; `others` are not yet, oldest first."""
    advanced = dict(done)
    stopped: set[str] = set()
    for execution in others:
        if execution.key not in reported:
            stopped.add(execution.model)
        elif execution.model not in stopped:
            advanced[execution.model] = execution.number
    return advanced

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
    Intent,
    Settled,
    facts_of,
    find_follower,
    find_landed,
    find_settled,
    open_execution,
    read_intent,
    shards_to_try_again,
    step,
)
from precalc_assets.executions.records import list_executions, put_cancel
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
        self.runners = platform.runners(context.log.info, patient=False)
        self.library = platform.library()
        self._started = time.monotonic()

    def has_time(self) -> bool:
        """Return whether the tick is young enough to begin something."""
        return time.monotonic() - self._started < _TICK_SECONDS

    def follower(self, key: str) -> dg.DagsterRun | None:
        """Return the Dagster run that follows an execution or did so last, if this instance has it."""
        follower = find_follower(self.platform.store, key)
        return self.instance.get_run_by_id(follower.dagster_run) if follower and follower.dagster_run else None

    def is_followed(self, key: str) -> bool:
        """Return whether a Dagster run that has not ended follows an execution."""
        run = self.follower(key)
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
    store = tick.platform.store
    keys = [key for key in list_executions(store) if _number(key) > position.done.get(_model(key), 0)]
    reported: set[str] = set()
    told = 0
    last = position.last
    for key in _from(keys, last):
        if not tick.has_time():
            break
        last = key
        try:
            intent = read_intent(store, key)
            settled = _bring_on(tick, intent)
            if settled:
                told += _report(tick, intent, settled)
                reported.add(key)
        except FAILURES as error:
            tick.runners.say(f"{key}: {reason(error)}")
    return told, Position(done=_advance(position.done, keys, reported), last=last)


def launch_again(tick: Tick, position: Position) -> tuple[list[Intent], Position]:
    """Open executions for shards that failed and are worth another attempt; return them, each with the reasons.

    Left alone are shards of executions that a Dagster run follows, which tries again by itself, that were cancelled,
    or that were of another version of the library; and shards that have landed by other ways.
    """
    store = tick.platform.store
    by_model: dict[str, list[str]] = {}
    for key in list_executions(store):
        by_model.setdefault(_model(key), []).append(key)
    opened: list[Intent] = []
    done = dict(position.done)
    last = position.last
    for model in _from([model for model, keys in by_model.items() if done.get(model) != _number(keys[-1])], last):
        if not tick.has_time():
            break
        last = model
        keys = by_model[model]
        try:
            again = _worth_another(tick, model, keys)
            intent = open_execution(store, model, tick.library.digest, list(again), reasons=again) if again else None
            opened += [intent] if intent else []
            if not intent and all(find_settled(store, key) and not tick.is_followed(key) for key in keys):
                done[model] = _number(keys[-1])
        except FAILURES as error:
            tick.runners.say(f"{model}: {reason(error)}")
    return opened, Position(done=done, last=last)


def _from(names: Sequence[str], last: str) -> list[str]:
    """Return names in the order in which it is their turn, after the one that was looked at last."""
    return sorted(names, key=lambda name: (name <= last, name))


def _bring_on(tick: Tick, intent: Intent) -> Settled | None:
    """Bring an execution a step further unless a Dagster run follows it; return what came of it if it has ended."""
    run = tick.follower(intent.key)
    if run and not run.is_finished:
        return None
    if run and run.status is dg.DagsterRunStatus.CANCELED and not find_settled(tick.platform.store, intent.key):
        # The run had no time to do it, or somebody has marked it as cancelled when it was dead.
        put_cancel(tick.platform.store, intent.key, tick.runners.now())
    settled = step(tick.runners, tick.library, intent)
    if not isinstance(settled, Settled):
        return None
    came = f"{len(settled.landed)} landed, {len(settled.failures)} failed, {len(settled.unfinished)} unfinished"
    took = f"queued {settled.queue_seconds:,.0f} s, {settled.runner_seconds:,.0f} runner-seconds"
    tick.runners.say(f"{intent.key}: {settled.conclusion}: {came}; {took}; {settled.url}")
    return settled


def _report(tick: Tick, intent: Intent, settled: Settled) -> int:
    """Tell Dagster of an execution's canary, and then of its shards, whose events name that of the canary."""
    facts = {shard: facts for shard, facts in facts_of(intent, settled).items() if shard in settled.landed}
    tick.instance.add_dynamic_partitions(MODELS, [intent.model])
    canary = canary_events(tick.instance, tick.platform, intent.model)
    told = tell_dagster(tick.instance, intent.key, canary, sensor=_SENSOR)
    shards = shard_events(tick.instance, tick.platform, tick.runners, tick.library, intent.model, intent.shards, facts)
    return told + tell_dagster(tick.instance, intent.key, shards, sensor=_SENSOR)


def _worth_another(tick: Tick, model: str, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the shards that are worth another attempt, with why those so far failed."""
    store = tick.platform.store
    again = shards_to_try_again(store, model)
    last: dict[str, str] = {}
    for key in keys if again else ():
        intent, settled = read_intent(store, key), find_settled(store, key)
        may = settled and intent.library_digest == tick.library.digest
        last |= dict.fromkeys(intent.shards, key if may else "")
    free = {key for key in {last[shard] for shard in again} if key and not tick.is_followed(key)}
    return {
        shard: why
        for shard, why in again.items()
        if last[shard] in free and find_landed(tick.runners, tick.library, model, shard) is None
    }


def _advance(done: dict[str, int], keys: Sequence[str], reported: set[str]) -> dict[str, int]:
    """Return by model the number up to which all executions are reported; `keys` are the others, oldest first."""
    advanced = dict(done)
    stopped: set[str] = set()
    for key in keys:
        if key not in reported:
            stopped.add(_model(key))
        elif _model(key) not in stopped:
            advanced[_model(key)] = _number(key)
    return advanced


def _model(key: str) -> str:
    return key.rpartition("-")[0]


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])

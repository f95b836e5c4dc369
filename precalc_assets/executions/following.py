"""Following executions to their end: what lands, what is tried again, and what a person who waits is told.

Everything is in the records, so following can stop and begin again at any time. One execution's own way, from launch to
its end, is in `launch` and `settling`; what Dagster makes of it all is in `defs/`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from obstore.store import ObjectStore

from precalc_assets.errors import ExecutionError, ShardError
from precalc_assets.executions import records
from precalc_assets.executions.github import GitHubError
from precalc_assets.executions.launch import LOOK, Waiting
from precalc_assets.executions.records import CANCELLED, NOT_LAUNCHED, SAMPLE, Follower, Intent, Settled
from precalc_assets.executions.settling import Runners, Underway, find_landed, step
from precalc_assets.library import LibraryManifest
from precalc_assets.outcomes import Fact, ShardOutcome

ATTEMPTS = 3
"""How often a shard is tried before it counts as failed."""

_SLOW_LOOK = timedelta(seconds=60)
_SLOW_AFTER = timedelta(minutes=10)
"""Long runs are looked at less often: 50 of them at a time would use up what an App may ask in an hour."""

_CANCEL_WAIT = timedelta(seconds=120)
"""How long whoever cancels waits for the end: half of it for a run to end by itself, half of it by force."""

_CANCEL_LOOK = timedelta(seconds=5)


Facts = dict[str, dict[str, Fact]]
"""By shard, what is to be recorded with it beside what its manifest says."""


def follow(
    runners: Runners, library: LibraryManifest, model: str, shards: Sequence[str], *, dagster_run: str = ""
) -> Iterator[ShardOutcome]:
    """Have these shards computed on GitHub's runners, and yield each as it lands or has failed for good.

    A shard with a manifest of the library's version, and of the release that the model's canary last saw, is there
    already. Executions that compute some of the others are followed, whoever has launched them; the rest is launched.
    What fails is tried again, ATTEMPTS times in all; what a job had no time for goes on in the next execution, which
    counts as no attempt. Whoever stops following, or dies, leaves its executions to whoever comes next; `cancel` ends
    them.

    Raises RefusedError if GitHub refuses to show a run: it goes on, and can be followed again.
    """
    return _Following(runners, library, model, dagster_run).outcomes(shards)


def follow_sample(
    runners: Runners, library: LibraryManifest, model: str, size: int, *, dagster_run: str = ""
) -> Settled:
    """Have a model's canary run on one of GitHub's runners; what it found is in its report then.

    A canary that is under way is followed, of whatever size. Raises ExecutionError with the reason if none came of it;
    otherwise like `follow`.
    """
    intent = _open_sample(runners.store, library, model, size)
    records.put_follower(runners.store, intent.key, Follower(dagster_run=dagster_run))
    tell = _tell_changes(runners.say)
    while not isinstance(state := step(runners, library, intent), Settled):
        tell(intent, state)
        _sleep_until(runners, _next_look(state, runners.now()))
    if state.failures:
        raise ExecutionError(f"the canary of {model}: {state.failures[SAMPLE]}")
    return state


def cancel(runners: Runners, library: LibraryManifest, intents: Sequence[Intent]) -> None:
    """Cancel executions, and settle those that end within two minutes.

    One without a run gets none any more. What has landed is kept. The wish is on record first, so that whoever looks at
    an execution next goes on with it, and nobody tries its shards again.
    """
    left = {intent.key: intent for intent in intents}
    for key in left:
        records.put_cancel(runners.store, key, runners.now())
        runners.say(f"{key}: cancelling")
    deadline = runners.now() + _CANCEL_WAIT
    while left and runners.now() < deadline:
        look = runners.now() + _CANCEL_LOOK
        for intent in list(left.values()):
            try:
                state = step(runners, library, intent)
            except GitHubError as error:
                runners.say(str(error))
                continue
            if isinstance(state, Settled):
                del left[intent.key]
            elif isinstance(state, Waiting):
                look = max(look, state.until)
        if left:
            _sleep_until(runners, min(look, deadline))
    for key in left:
        runners.say(f"{key}: its run has not ended yet; the sensor github_executions goes on with it")


def _open_sample(store: ObjectStore, library: LibraryManifest, model: str, size: int) -> Intent:
    """Return the execution of a model's canary: a new one, unless one is under way."""
    while True:
        opened = records.open_execution(store, model, library.digest, (), sample=size)
        underway = [opened] if opened else records.unsettled(store, model)
        for intent in underway:
            if intent.sample is not None:
                return intent


def try_again(intent: Intent, settled: Settled) -> dict[str, tuple[str, ...]]:
    """Return the shards of a settled execution that are worth another, each with why all attempts so far failed."""
    if settled.conclusion in (NOT_LAUNCHED, CANCELLED):
        return {}
    again = {shard: intent.reasons.get(shard, ()) for shard in settled.unfinished}
    for shard, why in settled.failures.items():
        if shard != SAMPLE and intent.attempt(shard) < ATTEMPTS:
            again[shard] = (*intent.reasons.get(shard, ()), why)
    return again


def shards_to_try_again(store: ObjectStore, model: str) -> dict[str, tuple[str, ...]]:
    """Return the shards whose last execution is settled, did not land them, and was not their last attempt."""
    again: dict[str, tuple[str, ...]] = {}
    for key in records.list_executions(store, model):
        intent, settled = records.read_intent(store, key), records.find_settled(store, key)
        again = {shard: why for shard, why in again.items() if shard not in intent.shards}
        again |= try_again(intent, settled) if settled else {}
    return again


class _Following:
    """Shards of a model that are still to come, with why they failed so far, and the executions that bring them."""

    def __init__(self, runners: Runners, library: LibraryManifest, model: str, dagster_run: str) -> None:
        self._runners = runners
        self._library = library
        self._model = model
        self._follower = Follower(dagster_run=dagster_run)
        self._left: dict[str, tuple[str, ...]] = {}
        self._active: dict[str, Intent] = {}
        self._look_at: dict[str, datetime] = {}
        self._facts: dict[str, Facts] = {}
        self._tell = _tell_changes(runners.say)

    def outcomes(self, shards: Sequence[str]) -> Iterator[ShardOutcome]:
        """See `follow`."""
        self._left = dict.fromkeys(shards, ())
        # Before anything is yielded: who follows an execution is the one that records its shards.
        self._reattach()
        for intent in list(self._active.values()):
            yield from self._land(intent.shards, self._facts[intent.key])
        yield from self._land(shards, {})
        while self._left:
            self._cover()
            for intent in list(self._active.values()):
                yield from self._look(intent)
            if self._left:
                now = self._runners.now()
                _sleep_until(self._runners, min([now + LOOK, *self._look_at.values()]))
        self._settle()

    def _settle(self) -> None:
        """Settle what has ended by now; of a run that still serves what it computed, nobody has to wait for the end."""
        for intent in self._active.values():
            with suppress(GitHubError):
                self._tell(intent, step(self._runners, self._library, intent))

    def _look(self, intent: Intent) -> Iterator[ShardOutcome]:
        """Look at an execution's run, if it is time to, and at its shards."""
        key = intent.key
        state = step(self._runners, self._library, intent) if self._runners.now() >= self._look_at[key] else None
        if state:
            self._look_at[key] = _next_look(state, self._runners.now())
            if not isinstance(state, Waiting):
                self._facts[key] = facts_of(intent, state)
            self._tell(intent, state)
        yield from self._land(intent.shards, self._facts[key])
        if isinstance(state, Settled):
            yield from self._end(intent, state)

    def _land(self, shards: Sequence[str], facts: Facts) -> Iterator[ShardOutcome]:
        """Yield those of the shards that have landed, or cannot."""
        for shard in shards:
            if shard not in self._left:
                continue
            try:
                found = find_landed(self._runners, self._library, self._model, shard)
            except ShardError as error:
                found = ShardOutcome(shard, failure=str(error))
            if found and (found.landed or not found.digest):
                del self._left[shard]
                yield replace(found, facts={**found.facts, **facts.get(shard, {})})

    def _cover(self) -> None:
        """See to it that each shard that is left is in an execution that is followed."""
        if not self._free():
            return
        self._reattach()
        free = self._free()
        if free:
            reasons = {shard: self._left[shard] for shard in free if self._left[shard]}
            opened = records.open_execution(
                self._runners.store, self._model, self._library.digest, free, reasons=reasons
            )
            if opened:
                self._attach(opened)

    def _free(self) -> list[str]:
        """Return the shards that are left and in no execution that is followed."""
        covered = {shard for intent in self._active.values() for shard in intent.shards}
        return [shard for shard in self._left if shard not in covered]

    def _reattach(self) -> None:
        """Follow the executions under way that have shards which are left, whoever has launched them."""
        for intent in records.unsettled(self._runners.store, self._model):
            if intent.key not in self._active and not self._left.keys().isdisjoint(intent.shards):
                self._attach(intent)
                self._left |= {s: why for s, why in intent.reasons.items() if s in self._left}

    def _attach(self, intent: Intent) -> None:
        records.put_follower(self._runners.store, intent.key, self._follower)
        self._active[intent.key] = intent
        self._look_at[intent.key] = self._runners.now()
        run = records.find_run(self._runners.store, intent.key)
        self._facts[intent.key] = _facts(intent, run.url) if run else {}

    def _end(self, intent: Intent, settled: Settled) -> Iterator[ShardOutcome]:
        """Yield the shards that a settled execution has failed for good, and keep the others for the next one."""
        del self._active[intent.key], self._look_at[intent.key], self._facts[intent.key]
        again = try_again(intent, settled)
        for shard in intent.shards:
            if shard not in self._left:
                continue
            if intent.library_digest != self._library.digest:
                self._left[shard] = intent.reasons.get(shard, ())
            elif shard in again:
                self._left[shard] = again[shard]
            else:
                del self._left[shard]
                why = settled.failures.get(shard, "its raw predictions were there, and are no more")
                before = intent.reasons.get(shard, ())
                earlier = f" (attempt {len(before) + 1}; before: {'; '.join(before)})" if before else ""
                yield ShardOutcome(shard, failure=f"shard {shard} of {self._model}: {why}{earlier}")


def facts_of(intent: Intent, state: Settled | Underway) -> Facts:
    """Return what an execution knows of its shards: run and attempt, and their jobs with their seconds.

    Seconds at the runner are those of a job that has ended, also where it has computed several shards.
    """
    facts = _facts(intent, state.url if isinstance(state, Settled) else state.run.html_url)
    for job in state.jobs:
        for shard in job.shards:
            if shard in facts:
                facts[shard] |= {"job": job.url, "queue_seconds": job.queue_seconds}
                facts[shard] |= {"runner_seconds": job.runner_seconds} if job.runner_seconds else {}
    return facts


def _facts(intent: Intent, url: str) -> Facts:
    return {shard: {"run": url, "attempt": intent.attempt(shard)} for shard in intent.shards}


def _describe(intent: Intent, state: Settled | Underway | Waiting) -> str:
    if isinstance(state, Waiting):
        return f"{intent.key}: {state.why}"
    if isinstance(state, Underway):
        counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(state.counts.items()))
        return f"{intent.key}: {len(state.jobs)} jobs ({counts or 'none yet'}); {state.run.html_url}"
    came = {"landed": state.landed, "failed": state.failures, "unfinished": state.unfinished}
    counts = ", ".join(f"{len(items)} {name}" for name, items in came.items() if items)
    took = f"queued {state.queue_seconds:,.0f} s, {state.runner_seconds:,.0f} runner-seconds"
    return f"{intent.key}: {state.conclusion}: {counts}; {took}; {state.url}"


def _tell_changes(say: Callable[[str], None]) -> Callable[[Intent, Settled | Underway | Waiting], None]:
    """Return what tells how executions are, each only when that is not what was said of it last."""
    said: dict[str, str] = {}

    def tell(intent: Intent, state: Settled | Underway | Waiting) -> None:
        line = _describe(intent, state)
        if said.get(intent.key) != line:
            said[intent.key] = line
            say(line)

    return tell


def _next_look(state: Settled | Underway | Waiting, now: datetime) -> datetime:
    if isinstance(state, Waiting):
        return state.until
    if isinstance(state, Settled):
        return now
    return now + (LOOK if now < state.run.created_at + _SLOW_AFTER else _SLOW_LOOK)


def _sleep_until(runners: Runners, until: datetime) -> None:
    runners.sleep(max(0.0, (until - runners.now()).total_seconds()))

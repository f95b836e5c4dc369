"""The records of executions in the object store: what each one says, who writes it, and how an execution is opened.

An execution is one run of a compute backend that computes shards of a model, or its canary. Its records hold all that
must survive the death of its launcher, its follower or its runner. `protocol` says when each is written.

    executions/eos3b5e-0007/intent.json        what to compute                              launcher, once
                            dispatch-00.json   the announcement of a request for a run      launcher, once each
                            answer-00.json     the backend's answer, if it was not a run    launcher, once each
                            run.json           the run that was started or found            launcher
                            claim.json         the only run that may compute                runner, once
                            shards/07.json     why a shard has no predictions               runner
                            follower.json      the Dagster run that follows                 follower
                            cancel.json        the wish to cancel                           anybody, once
                            settled.json       how it ended                                 follower, once
    executions/limit.json                      the backend's rate limit, which binds all    anybody
    executions/check.json                      a token, to compare two machines' stores     anybody
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal

from obstore.store import ObjectStore
from pydantic import AwareDatetime, Field, PositiveInt

from precalc.identifiers import check_model_id, is_model_id
from precalc_assets import storage
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import RecordType, ReplaceableSlot, ShardKey, Slot
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ExecutionError

SAMPLE = "sample"
"""Stands for the canary where a shard's key would stand."""

NOT_LAUNCHED = "not launched"
CANCELLED = "cancelled by precalc"
VANISHED = "vanished"

OUT_OF_MEMORY = "out of memory"
"""The status of a job that was killed for its memory, and how the reason of its shards begins."""

Compute = Literal["github", "slurm"]
"""The compute backends."""

Moment = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), lt=datetime(3000, 1, 1, tzinfo=UTC))]
"""A time with its zone, far enough from the first and the last one of Python for waits to be added to it."""


_REMEDY = "delete the execution's records to give it up"
_KEY = re.compile(r"(?P<model>.+)-(?P<number>[0-9]{4,})")


class Intent(FrozenRecord):
    """What an execution computes: shards of a model or, with `sample`, the canary on that many molecules.

    `compute` names the backend. `reasons` tells by shard why the earlier attempts failed; it is empty at the first
    attempt.
    """

    key: str
    model: str
    compute: Compute
    library_digest: str
    shards: tuple[ShardKey, ...]
    sample: PositiveInt | None = None
    reasons: Mapping[str, tuple[str, ...]] = {}
    created_at: Moment

    @property
    def items(self) -> tuple[str, ...]:
        """The shards, or SAMPLE."""
        return self.shards if self.sample is None else (SAMPLE,)

    def attempt(self, shard: str) -> int:
        """Return which attempt at a shard this is, from 1."""
        return 1 + len(self.reasons.get(shard, ()))

    @property
    def memory_failures(self) -> int:
        """How many attempts at one of the shards, or at the canary, ended for lack of memory."""
        counts = (sum(why.startswith(OUT_OF_MEMORY) for why in whys) for whys in self.reasons.values())
        return max(counts, default=0)


class Dispatch(FrozenRecord):
    """The backend is about to be asked for a run: one may exist from `posted_at` on."""

    posted_at: Moment


class Answer(FrozenRecord):
    """The backend's answer to a dispatch, if it was not a run.

    With `not_before`, no run was started, and the next dispatch has to wait until then. Otherwise there may be a run.
    """

    message: str
    not_before: Moment | None = None


class Limit(FrozenRecord):
    """A rate limit of the backend, in its own words."""

    not_before: Moment
    message: str


class StoreCheck(FrozenRecord):
    """What a check of a backend's setup writes to the store: a machine that reads the token has the same store."""

    token: str


class Run(FrozenRecord):
    """The backend's run of an execution. The URL also tells apart runs with one id, such as those of two clusters."""

    run_id: PositiveInt
    url: str


class Claim(FrozenRecord):
    """The only run that may compute. Without a run, the execution is closed to all runs, for a `reason`."""

    run: Run | None = None
    reason: str = ""
    claimed_at: Moment


class ShardReport(FrozenRecord):
    """Why a shard, or the canary, did not land; see `ShardOutcome`."""

    failure: str = ""
    models_fault: bool = False
    unfinished: bool = False


class Follower(FrozenRecord):
    """The id of the Dagster run that follows an execution and will settle it."""

    dagster_run: str


class Cancellation(FrozenRecord):
    """The wish to end an execution. It is recorded before the backend is asked, so that a crash does not lose it."""

    requested_at: Moment


class Job(FrozenRecord):
    """A job of a run: how it is or ended, in the backend's words, and the shards that it computes.

    `started_at` is when the job got a machine, None before that, and for a job that never got one.
    """

    name: str
    url: str
    status: str
    shards: tuple[ShardKey, ...]
    queued_at: Moment
    started_at: Moment | None
    ended_at: Moment | None

    @property
    def queue_seconds(self) -> float:
        """How long the job waited for its machine; 0 while it waits."""
        return max(0.0, (self.started_at - self.queued_at).total_seconds()) if self.started_at else 0.0

    @property
    def runner_seconds(self) -> float:
        """How long the job had its machine; 0 until it has ended."""
        if not self.started_at or not self.ended_at:
            return 0.0
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


class Settled(FrozenRecord):
    """How an execution ended.

    `conclusion` is the backend's word for how the run ended (success, failure, cancelled, …), NOT_LAUNCHED, VANISHED,
    or CANCELLED if there was a Cancellation: the backend's own `cancelled` can also be a time limit.
    `failures` holds the reason by shard, or under SAMPLE. `models_faults` names those that would fail again, such as
    shards that the run has computed, with too many molecules quarantined. `queue_seconds` is the time from the dispatch
    to the start of the first job, `runner_seconds` the sum over the jobs.
    """

    conclusion: str
    url: str = ""
    jobs: tuple[Job, ...] = ()
    landed: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    failures: Mapping[str, str] = {}
    models_faults: tuple[str, ...] = ()
    queue_seconds: float = 0.0
    runner_seconds: float = 0.0
    settled_at: Moment


class Execution:
    """The records of one execution. Raises ExecutionError if the key is malformed."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        found = _parse_key(key)
        if not found:
            raise ExecutionError(f"{key!r} is not the key of an execution: keys read eos3b5e-0007")
        self.store, self.key, self.folder = store, key, f"{storage.EXECUTIONS}/{key}"
        self.model, self.number = found
        self.intent_slot = self._once("intent", Intent)
        self.run = self._replaceable("run", Run)
        self.claim = self._once("claim", Claim)
        self.follower = self._replaceable("follower", Follower)
        self.cancellation = self._once("cancel", Cancellation)
        self.settled = self._once("settled", Settled)

    def dispatch(self, number: int) -> Slot[Dispatch]:
        """Return the slot of a dispatch, counted from 0."""
        return self._once(f"dispatch-{number:02d}", Dispatch)

    def answer(self, number: int) -> Slot[Answer]:
        """Return the slot of the answer to a dispatch."""
        return self._once(f"answer-{number:02d}", Answer)

    def shard_report(self, shard: str) -> ReplaceableSlot[ShardReport]:
        """Return the slot of the runner's report on a shard, or on the SAMPLE."""
        return self._replaceable(f"shards/{shard}", ShardReport)

    @cached_property
    def intent(self) -> Intent:
        """What the execution computes. Raises ExecutionError if there is no such execution."""
        intent = self.intent_slot.read()
        if intent is None:
            raise ExecutionError(
                f"there is no execution {self.key} in this store; set PRECALC_STORE_URL to the launcher's store"
            )
        if (intent.key, intent.model) != (self.key, self.model):
            raise ExecutionError(f"{self.intent_slot.name} is damaged (it is of {intent.key[:100]!r}); {_REMEDY}")
        return intent

    def take(self, run: Run) -> bool:
        """Claim the execution for a run. Return whether this run may compute it.

        Only the first run of an execution gets True, each time it asks, and none does once the execution is settled:
        another execution may compute the rest by then. Every job asks, since a backend can run a job again weeks later.
        Raises ExecutionError if there is no such execution.
        """
        _ = self.intent  # a claim must not be written where there is no execution
        if self.settled.read():
            return False
        if self.claim.create(Claim(run=run, claimed_at=datetime.now(UTC))):
            return True
        claim = self.claim.read()
        return claim is not None and claim.run == run

    def close(self, reason: str) -> None:
        """Keep late runs from computing, unless a run has claimed the execution by now."""
        self.claim.create(Claim(reason=reason, claimed_at=datetime.now(UTC)))

    def report(self, outcome: ShardOutcome) -> None:
        """Record, on the runner, why a shard did not land. If it landed, its manifest says everything."""
        if not outcome.landed:
            report = ShardReport(
                failure=outcome.failure, models_fault=outcome.models_fault, unfinished=outcome.unfinished
            )
            self.shard_report(outcome.shard).put(report)

    def _once(self, name: str, kind: type[RecordType]) -> Slot[RecordType]:
        return Slot(self.store, f"{self.folder}/{name}.json", kind, ExecutionError, _REMEDY)

    def _replaceable(self, name: str, kind: type[RecordType]) -> ReplaceableSlot[RecordType]:
        return ReplaceableSlot(self.store, f"{self.folder}/{name}.json", kind, ExecutionError, _REMEDY)


def rate_limit(store: ObjectStore) -> ReplaceableSlot[Limit]:
    """Return the slot of the rate limit that binds all processes that use this store."""
    return ReplaceableSlot(store, f"{storage.EXECUTIONS}/limit.json", Limit, ExecutionError, "delete it")


def store_check(store: ObjectStore) -> ReplaceableSlot[StoreCheck]:
    """Return the slot of the token by which a check compares stores."""
    return ReplaceableSlot(store, f"{storage.EXECUTIONS}/check.json", StoreCheck, ExecutionError, "delete it")


def open_execution(
    store: ObjectStore,
    model: str,
    library_digest: str,
    shards: Sequence[str],
    *,
    compute: Compute,
    sample: int | None = None,
    reasons: Mapping[str, tuple[str, ...]] | None = None,
) -> Execution | None:
    """Open an execution for those of the shards that no unsettled execution computes; None if none is left.

    For a canary, give no shards and `sample`. A model's executions are numbered, and each number is taken by one
    create-only write after all earlier executions were read: of two processes that open one at the same time, the
    second sees the first. Raises UsageError for a malformed model id.
    """
    check_model_id(model)
    while True:
        earlier = list_executions(store, model)
        taken = {item for execution in earlier if not execution.settled.read() for item in execution.intent.items}
        free = [] if sample is not None else [shard for shard in shards if shard not in taken]
        if not free and (sample is None or SAMPLE in taken):
            return None
        execution = Execution(store, f"{model}-{earlier[-1].number + 1 if earlier else 1:04d}")
        intent = Intent(
            key=execution.key,
            model=model,
            compute=compute,
            library_digest=library_digest,
            shards=tuple(free),
            sample=sample,
            reasons={shard: why for shard, why in (reasons or {}).items() if shard in free or sample is not None},
            created_at=datetime.now(UTC),
        )
        if execution.intent_slot.create(intent):
            return execution


def claim_own(
    store: ObjectStore, run: Run, model: str, library_digest: str, shards: Sequence[str], *, sample: int | None = None
) -> Execution | None:
    """Open and claim an execution for a run that a person started on GitHub; None if others compute it all.

    A run gets the same execution each time it asks.
    """
    for execution in unsettled(store, model):
        claim = execution.claim.read()
        if claim and claim.run == run:
            return execution
    opened = open_execution(store, model, library_digest, shards, compute="github", sample=sample)
    if opened and opened.take(run):
        opened.run.put(run)
        return opened
    return None


def list_executions(store: ObjectStore, model: str | None = None) -> list[Execution]:
    """Return a model's executions, or those of all models, oldest first."""
    folders = storage.list_folder(store, storage.EXECUTIONS)["common_prefixes"]
    keys = [folder.rstrip("/").rpartition("/")[2] for folder in folders]
    found = [Execution(store, key) for key in keys if _parse_key(key)]
    chosen = [execution for execution in found if model in (None, execution.model)]
    return sorted(chosen, key=lambda execution: (execution.model, execution.number))


def unsettled(store: ObjectStore, model: str | None = None) -> list[Execution]:
    """Return the executions that are not settled yet, of a model or of all, oldest first."""
    return [execution for execution in list_executions(store, model) if not execution.settled.read()]


def followed(store: ObjectStore, model: str, dagster_run: str) -> list[Execution]:
    """Return the unsettled executions of a model that this Dagster run follows."""
    follower = Follower(dagster_run=dagster_run)
    return [execution for execution in unsettled(store, model) if execution.follower.read() == follower]


def _parse_key(key: str) -> tuple[str, int] | None:
    """Return the model and the number in an execution's key; None for any other text."""
    found = _KEY.fullmatch(key)
    return (found["model"], int(found["number"])) if found and is_model_id(found["model"]) else None

"""The records of executions in the object store: what each one says, who writes it, and reading and writing them.

Whatever has to survive the death of those who launch, follow or compute is here; nothing else remembers anything.
When the records are written is in `launch`, `following` and, on the runner, in the commands that call this.

    executions/eos3b5e-0007/intent.json        what is to be computed                     launcher, once
                            dispatch-00.json   GitHub is about to be asked for a run      launcher, once each
                            limit-00.json      GitHub said: not before …                  launcher
                            answer-00.json     what came back where there may be a run    launcher
                            run.json           the run that was found                     launcher
                            claim.json         the one run that may compute               runner, once
                            shards/07.json     what came of a shard without predictions   runner
                            follower.json      the Dagster run that follows               follower
                            cancel.json        its run is to end, nothing is tried again  whoever cancels, once
                            settled.json       what came of it all                        follower, once
    executions/limit.json                      GitHub said of all requests: not before …  whoever asked
    requests/<id>.json                         a model that somebody asked for            anybody, once
    requests/met/<id>.json                     the same, met                              sensor
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from precalc_assets import storage
from precalc_assets.errors import ExecutionError
from precalc_assets.model_ids import check_model_id, is_model_id
from precalc_assets.outcomes import ShardOutcome

NOBODY = 0
"""The run id of a claim that keeps every run from computing: GitHub's own begin at 1."""

_LIMIT_ON_ALL = f"{storage.EXECUTIONS}/limit.json"

_KEY = re.compile(r"(?P<model>.+)-(?P<number>[0-9]{4,})")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


RecordType = TypeVar("RecordType", bound=_Record)


class Intent(_Record):
    """What an execution is to compute: shards of a model; or, with `sample`, the canary on that many molecules.

    `reasons` has, by shard, why the attempts before this one failed, so it is empty the first time.
    """

    key: str
    model: str
    library_digest: str
    shards: tuple[str, ...]
    sample: int | None = None
    reasons: Mapping[str, tuple[str, ...]] = {}
    created_at: datetime

    def attempt(self, shard: str) -> int:
        """Return which attempt at a shard this is, from 1."""
        return 1 + len(self.reasons.get(shard, ()))


class Dispatch(_Record):
    """GitHub is about to be asked for a run: from `posted_at` on, there may be one."""

    number: int
    posted_at: datetime


class Limit(_Record):
    """GitHub refused a request for now, and with what words; it did nothing."""

    not_before: datetime
    message: str


class Answer(_Record):
    """What came back for a dispatch after which there may be a run, or none."""

    message: str


class Run(_Record):
    """The workflow run of an execution."""

    run_id: int
    url: str


class Claim(_Record):
    """The run that may compute; NOBODY closes the execution to runs that are late, for a `reason`."""

    run_id: int
    reason: str = ""
    claimed_at: datetime


class ShardReport(_Record):
    """What the runner says of a shard that has no manifest: why it failed, or that there was no time for it."""

    shard: str
    run_id: int
    failure: str = ""
    unfinished: bool = False


class Follower(_Record):
    """Who follows an execution and will settle it: the id of a Dagster run."""

    dagster_run: str


class Cancel(_Record):
    """An execution is to end, since `asked_at`; written before GitHub is asked, so that a crash forgets no wish."""

    asked_at: datetime


class JobSummary(_Record):
    """A job of a run: the shards that it computed, how long it waited for a runner, and how long it had one."""

    name: str
    url: str
    conclusion: str
    shards: tuple[str, ...]
    queue_seconds: float
    runner_seconds: float


NOT_LAUNCHED = "not launched"
CANCELLED = "cancelled by precalc"
VANISHED = "vanished"


class Settled(_Record):
    """What came of an execution.

    `conclusion` is GitHub's word for how the run ended (success, failure, cancelled, …), NOT_LAUNCHED, VANISHED, or
    CANCELLED where a Cancel is on record: GitHub's own `cancelled` can also be a time limit of GitHub's.
    `failures` has the reason by shard; a sample's stands under SAMPLE. `queue_seconds` is from the dispatch to the
    first job's start, `runner_seconds` the sum over the jobs.
    """

    conclusion: str
    url: str = ""
    jobs: tuple[JobSummary, ...] = ()
    landed: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    failures: Mapping[str, str] = {}
    queue_seconds: float = 0.0
    runner_seconds: float = 0.0
    settled_at: datetime


class Request(_Record):
    """A model that somebody wants precalculated; with `sample`, its canary alone, on that many molecules."""

    id: str
    model: str
    sample: int | None = Field(default=None, ge=1)
    requested_at: datetime


SAMPLE = "sample"
"""Stands where a shard's key does, for the canary."""


# -- executions


def open_execution(
    store: ObjectStore,
    model: str,
    library_digest: str,
    shards: Sequence[str],
    *,
    sample: int | None = None,
    reasons: Mapping[str, tuple[str, ...]] | None = None,
) -> Intent | None:
    """Write the intent to compute those of the shards that no unsettled execution computes; None if there are none.

    For a canary, give no shards and `sample`. A model's executions are numbered, and each number is taken by one
    create-only write after all before it were read: of two that ask at the same time, the second sees the first.
    Raises UsageError if the model's id is none.
    """
    check_model_id(model)
    while True:
        keys = list_executions(store, model)
        taken = {item for key in keys if not find_settled(store, key) for item in items(read_intent(store, key))}
        free = [] if sample is not None else [shard for shard in shards if shard not in taken]
        if not free and (sample is None or SAMPLE in taken):
            return None
        intent = Intent(
            key=f"{model}-{_number(keys[-1]) + 1 if keys else 1:04d}",
            model=model,
            library_digest=library_digest,
            shards=tuple(free),
            sample=sample,
            reasons={shard: why for shard, why in (reasons or {}).items() if shard in free or sample is not None},
            created_at=datetime.now(UTC),
        )
        if _create(store, _name(intent.key, "intent"), intent):
            return intent


def items(intent: Intent) -> tuple[str, ...]:
    """Return what an execution computes: its shards, or SAMPLE."""
    return intent.shards if intent.sample is None else (SAMPLE,)


def check_key(text: str) -> str:
    """Return the text if it is the key of an execution, such as `eos3b5e-0007`. Raises ExecutionError."""
    found = _KEY.fullmatch(text)
    if not found or not is_model_id(found["model"]):
        raise ExecutionError(f"{text!r} is not the key of an execution: they read eos3b5e-0007")
    return text


def list_executions(store: ObjectStore, model: str | None = None) -> list[str]:
    """Return the keys of a model's executions, or of all models', oldest first."""
    folders = obstore.list_with_delimiter(store, storage.EXECUTIONS)["common_prefixes"]
    keys = [found for folder in folders if (found := _KEY.fullmatch(folder.rstrip("/").rpartition("/")[2]))]
    return [key[0] for key in sorted(keys, key=_order) if model in (None, key["model"])]


def unsettled(store: ObjectStore, model: str | None = None) -> list[Intent]:
    """Return the executions, of a model or of all, that nobody has settled, oldest first."""
    return [read_intent(store, key) for key in list_executions(store, model) if not find_settled(store, key)]


def read_intent(store: ObjectStore, key: str) -> Intent:
    """Return what an execution is to compute. Raises ExecutionError if there is no such execution."""
    intent = _read(store, _name(check_key(key), "intent"), Intent)
    if intent is None:
        raise ExecutionError(f"there is no execution {key} in this store; see that PRECALC_STORE_URL is the launcher's")
    return intent


# -- launching


def put_dispatch(store: ObjectStore, key: str, dispatch: Dispatch) -> bool:
    """Announce that GitHub is about to be asked; False if somebody else has announced the same: then do not ask."""
    return _create(store, _name(key, f"dispatch-{dispatch.number:02d}"), dispatch)


def list_dispatches(store: ObjectStore, key: str) -> list[Dispatch]:
    """Return the dispatches of an execution in order."""
    names = storage.list_sizes(store, storage.execution(key))
    found = (_read(store, name, Dispatch) for name in names if name.rpartition("/")[2].startswith("dispatch-"))
    return sorted((dispatch for dispatch in found if dispatch), key=lambda dispatch: dispatch.number)


def put_limit(store: ObjectStore, key: str, number: int, limit: Limit) -> None:
    """Keep until when GitHub wants no further dispatch."""
    _put(store, _name(key, f"limit-{number:02d}"), limit)


def find_limit(store: ObjectStore, key: str, number: int) -> Limit | None:
    """Return until when GitHub wanted no further dispatch after the one of this number, if it said so."""
    return _read(store, _name(key, f"limit-{number:02d}"), Limit)


def put_answer(store: ObjectStore, key: str, number: int, answer: Answer) -> None:
    """Keep what came back for a dispatch, for people to read if no run appears."""
    _put(store, _name(key, f"answer-{number:02d}"), answer)


def find_answer(store: ObjectStore, key: str, number: int) -> Answer | None:
    """Return what came back for the dispatch of this number, unless who asked has died."""
    return _read(store, _name(key, f"answer-{number:02d}"), Answer)


def put_limit_on_all(store: ObjectStore, limit: Limit) -> None:
    """Keep until when GitHub wants no request of anybody's, in place of what was said before."""
    _put(store, _LIMIT_ON_ALL, limit)


def find_limit_on_all(store: ObjectStore) -> Limit | None:
    """Return until when GitHub last wanted no request of anybody's."""
    return _read(store, _LIMIT_ON_ALL, Limit)


def put_run(store: ObjectStore, key: str, run: Run) -> None:
    """Keep which run an execution has."""
    _put(store, _name(key, "run"), run)


def find_run(store: ObjectStore, key: str) -> Run | None:
    """Return the run of an execution, as far as it is known."""
    return _read(store, _name(key, "run"), Run)


def find_run_id(store: ObjectStore, key: str) -> int | None:
    """Return the id of an execution's run: the one that has claimed it or, while none has, the one on record."""
    claim = find_claim(store, key)
    if claim and claim.run_id != NOBODY:
        return claim.run_id
    run = find_run(store, key)
    return run.run_id if run else None


# -- the runner


def claim(store: ObjectStore, key: str, run_id: int) -> bool:
    """Return whether a run may compute an execution: it is the first to ask, or has asked before.

    Of a key's runs one alone is ever told True, and none once the execution is settled: what it has left undone may be
    with another by then. Each job asks, since GitHub can run a job again long after. Raises ExecutionError if there is
    no such execution.
    """
    read_intent(store, key)
    if find_settled(store, key):
        return False
    if _create(store, _name(key, "claim"), Claim(run_id=run_id, claimed_at=datetime.now(UTC))):
        return True
    holder = find_claim(store, key)
    return holder is not None and holder.run_id == run_id


def claim_own(
    store: ObjectStore, run: Run, model: str, library_digest: str, shards: Sequence[str], *, sample: int | None = None
) -> Intent | None:
    """Open an execution for a run that nobody has launched, one from GitHub's own UI, and claim it.

    The same run gets the same execution again. Returns None if all that is asked for is with other executions.
    """
    for intent in unsettled(store, model):
        holder = find_claim(store, intent.key)
        if holder and holder.run_id == run.run_id:
            return intent
    opened = open_execution(store, model, library_digest, shards, sample=sample)
    if opened and claim(store, opened.key, run.run_id):
        put_run(store, opened.key, run)
        return opened
    return None


def close(store: ObjectStore, key: str, reason: str) -> Claim:
    """Keep runs that are late from computing; return who has the claim, which is a run if one was faster."""
    claim = Claim(run_id=NOBODY, reason=reason, claimed_at=datetime.now(UTC))
    _create(store, _name(key, "claim"), claim)
    return find_claim(store, key) or claim


def find_claim(store: ObjectStore, key: str) -> Claim | None:
    """Return who has claimed an execution, None if nobody has."""
    return _read(store, _name(key, "claim"), Claim)


def report_shard(store: ObjectStore, key: str, run_id: int, outcome: ShardOutcome) -> None:
    """Keep, from the runner, what came of a shard; of one that landed, its manifest says everything."""
    if not outcome.landed:
        report = ShardReport(shard=outcome.shard, run_id=run_id, failure=outcome.failure, unfinished=outcome.unfinished)
        _put(store, _name(key, f"shards/{outcome.shard}"), report)


def find_report(store: ObjectStore, key: str, shard: str) -> ShardReport | None:
    """Return what the runner said of a shard that did not land, if it did."""
    return _read(store, _name(key, f"shards/{shard}"), ShardReport)


# -- following


def put_follower(store: ObjectStore, key: str, follower: Follower) -> None:
    """Keep who follows an execution, in place of who did before."""
    _put(store, _name(key, "follower"), follower)


def find_follower(store: ObjectStore, key: str) -> Follower | None:
    """Return who follows an execution, dead or alive."""
    return _read(store, _name(key, "follower"), Follower)


def followed(store: ObjectStore, model: str, dagster_run: str) -> list[Intent]:
    """Return the unsettled executions of a model that this Dagster run follows."""
    follower = Follower(dagster_run=dagster_run)
    return [intent for intent in unsettled(store, model) if find_follower(store, intent.key) == follower]


def put_cancel(store: ObjectStore, key: str, now: datetime) -> None:
    """Have an execution end; the next `step` asks GitHub for it. One that is to end already stays as it is."""
    _create(store, _name(key, "cancel"), Cancel(asked_at=now))


def find_cancel(store: ObjectStore, key: str) -> Cancel | None:
    """Return since when an execution is to end, None if it is not."""
    return _read(store, _name(key, "cancel"), Cancel)


def put_settled(store: ObjectStore, key: str, settled: Settled) -> Settled:
    """Settle an execution; return what it is settled as, which is what the first has said who settled it."""
    _create(store, _name(key, "settled"), settled)
    return find_settled(store, key) or settled


def find_settled(store: ObjectStore, key: str) -> Settled | None:
    """Return what came of an execution, None while it is under way."""
    return _read(store, _name(key, "settled"), Settled)


# -- requests


def put_request(store: ObjectStore, model: str, sample: int | None = None) -> Request:
    """Ask for a model to be precalculated, or for its canary. Raises UsageError if the model's id is none."""
    now = datetime.now(UTC)
    request_id = f"{now:%Y%m%dT%H%M%S}-{check_model_id(model)}-{secrets.token_hex(4)}"
    request = Request(id=request_id, model=model, sample=sample, requested_at=now)
    _create(store, storage.request(request_id), request)
    return request


def pending_requests(store: ObjectStore) -> Iterator[str]:
    """Yield the ids of the requests that are not met, oldest first."""
    for entry in sorted(obstore.list_with_delimiter(store, storage.REQUESTS)["objects"], key=lambda e: e["path"]):
        yield entry["path"].rpartition("/")[2].removesuffix(".json")


def read_request(store: ObjectStore, request_id: str) -> Request | None:
    """Return a request, None if it is met meanwhile. Raises ExecutionError if somebody has written it wrongly."""
    request = _read(store, storage.request(request_id), Request)
    if request and not is_model_id(request.model):
        raise ExecutionError(
            f"{storage.request(request_id)} asks for {request.model!r}, which is no model id; delete it"
        )
    return request


def meet_request(store: ObjectStore, request_id: str) -> None:
    """Mark a request as met. One that is met already stays so."""
    try:
        obstore.rename(store, storage.request(request_id), storage.met_request(request_id))
    except FileNotFoundError:
        return


# -- reading and writing


def _name(key: str, record: str) -> str:
    return f"{storage.execution(key)}/{record}.json"


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])


def _order(key: re.Match[str]) -> tuple[str, int]:
    return key["model"], int(key["number"])


def _create(store: ObjectStore, name: str, record: _Record) -> bool:
    """Write a record unless there is one, and return whether it was written."""
    try:
        obstore.put(store, name, record.model_dump_json().encode(), mode="create")
    except AlreadyExistsError:
        return False
    return True


def _put(store: ObjectStore, name: str, record: _Record) -> None:
    obstore.put(store, name, record.model_dump_json().encode())


def _read(store: ObjectStore, name: str, kind: type[RecordType]) -> RecordType | None:
    try:
        content = bytes(obstore.get(store, name).bytes())
    except FileNotFoundError:
        return None
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ExecutionError(
            f"{name} is damaged ({place}: {first['msg']}); delete its folder's records to give it up"
        ) from None

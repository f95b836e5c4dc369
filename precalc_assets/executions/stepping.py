"""Take a step of an execution: read its records, and carry out the actions of `protocol` until one ends the step.

An execution is settled by manifests: a shard has landed if its manifest is there, whatever became of its job, and a
successful job without a manifest has failed.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from precalc_assets import storage
from precalc_assets.executions import protocol, records
from precalc_assets.executions.compute_backend import (
    BackendError,
    ComputeBackend,
    Engine,
    LimitError,
    NotNowError,
    RefusedError,
    RunStatus,
)
from precalc_assets.json_records import RecordType, Slot
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.canary_report import find_report


def step(engine: Engine, execution: records.Execution) -> records.Settled | RunStatus | protocol.Waiting:
    """Take one step of an execution: launch it, look at its run, or settle it if the run has ended.

    Several processes may do this at the same time. A step posts one dispatch at most. Raises RefusedError if the
    backend refuses to show the run, as after a token has expired.
    """
    return execution.settled.read() or _Step(engine, execution, engine.now()).take()


def read_state(execution: records.Execution) -> protocol.State:
    """Return what the records say of an execution that is not settled."""
    names = storage.list_sizes(execution.store, execution.folder)

    def find(slot: Slot[RecordType]) -> RecordType | None:
        return slot.read() if slot.name in names else None

    dispatches: list[protocol.Dispatched] = []
    while dispatch := find(execution.dispatch(len(dispatches))):
        dispatches.append(protocol.Dispatched(dispatch.posted_at, find(execution.answer(len(dispatches)))))
    return protocol.State(
        intent=execution.intent,
        cancellation=find(execution.cancellation),
        claim=find(execution.claim),
        recorded_run=find(execution.run),
        dispatches=tuple(dispatches),
        limit=records.rate_limit(execution.store).read(),
    )


@dataclass(frozen=True)
class _Step:
    engine: Engine
    execution: records.Execution
    now: datetime

    def take(self) -> records.Settled | RunStatus | protocol.Waiting:
        state = read_state(self.execution)
        while True:
            match protocol.next_action(state, self.now):
                case protocol.Waiting() | RunStatus() as outcome:
                    return outcome
                case protocol.GiveUp(reason):
                    failures = dict.fromkeys(state.intent.items, reason)
                    settled = records.Settled(conclusion=records.NOT_LAUNCHED, failures=failures, settled_at=self.now)
                    break
                case protocol.Settle(look):
                    settled = _conclude(self.engine, self.execution, look)
                    break
                case action:
                    state = self._carry_out(action, state)
        self.execution.settled.create(settled)
        # Another process may have settled it first.
        return self.execution.settled.read() or settled

    def _carry_out(self, action: protocol.Action, state: protocol.State) -> protocol.State:
        """Return the state after an action. What this step has asked the backend for still counts."""
        match action:
            case protocol.CheckRun(run):
                return self._check(run, state)
            case protocol.LookUp():
                state = self._look_up(state)
            case protocol.Close(reason):
                self.execution.close(reason)
            case protocol.CancelRun(run, force):
                try:
                    self._backend.cancel(state.intent, run, force=force)
                except BackendError as error:  # the next step asks again
                    self._when_to_ask_again(error)
                    self.engine.say(str(error))
                state = replace(state, cancel_sent=True)
            case protocol.Post(number):
                if self.execution.dispatch(number).create(records.Dispatch(posted_at=self.now)):
                    self._post(number)
                else:
                    state = replace(
                        state, waiting=protocol.Waiting(self.now + protocol.LOOK, "another process is launching it")
                    )
        return replace(
            read_state(self.execution),
            cancel_sent=state.cancel_sent,
            looked_up=state.looked_up,
            look=state.look,
            waiting=state.waiting,
        )

    @property
    def _backend(self) -> ComputeBackend:
        return self.engine.open_backend(self.execution.intent.compute)

    def _check(self, run: records.Run, state: protocol.State) -> protocol.State:
        try:
            look = protocol.Look(run, self._backend.status(state.intent, run))
            return replace(state, look=look)
        except RefusedError:
            raise
        except BackendError as error:
            return replace(state, waiting=protocol.Waiting(self._when_to_ask_again(error), str(error)))

    def _look_up(self, state: protocol.State) -> protocol.State:
        try:
            run = self._backend.look_up(state.intent)
        except BackendError as error:
            # The run may be there all the same, so nothing is posted, however long this lasts.
            why = f"the runs cannot be looked through: {error}"
            return replace(state, waiting=protocol.Waiting(self._when_to_ask_again(error), why))
        if run:
            self.execution.run.put(run)
        return replace(state, looked_up=True)

    def _post(self, number: int) -> None:
        answer = self.execution.answer(number)
        try:
            run = self._backend.launch(self.execution.intent)
        except RefusedError as error:
            self.execution.close(str(error))
        except NotNowError as error:
            # Record this first: after a crash, the next launcher would search for a run that never existed.
            answer.create(records.Answer(message=str(error), not_before=self.now + error.wait))
            self._when_to_ask_again(error)
        except BackendError as error:
            answer.create(records.Answer(message=str(error)))
        else:
            self.execution.run.put(run)

    def _when_to_ask_again(self, error: BackendError) -> datetime:
        """Return when to ask the backend again after an error. A rate limit is recorded for all who ask."""
        if not isinstance(error, NotNowError):
            return self.now + protocol.LOOK
        if isinstance(error, LimitError):
            limit = records.Limit(not_before=self.now + error.wait, message=str(error))
            records.rate_limit(self.engine.store).put(limit)
        return self.now + error.wait


def _conclude(engine: Engine, execution: records.Execution, look: protocol.Look) -> records.Settled:
    intent, status = execution.intent, look.status
    ended = (status.conclusion if status else None) or records.VANISHED
    jobs = status.jobs if status else ()
    cancelled = execution.cancellation.read() is not None
    # The launcher died after it had submitted the first job of several: nothing has failed.
    is_incomplete = bool(intent.shards and jobs) and ended == "success" and not any(job.shards for job in jobs)
    landed: list[str] = []
    unfinished: list[str] = []
    failures: dict[str, str] = {}
    models_faults: list[str] = []
    for item in intent.items:
        report, lacked_memory = execution.shard_report(item).read(), _lacked_memory(item, look)
        if item == records.SAMPLE:
            canary = find_report(engine.store, intent.model)
            is_new = canary and (ended == "success" or canary.finished_at >= intent.created_at)
            found = ShardOutcome(records.SAMPLE) if is_new and report is None else None
        else:
            found = engine.find_landed(intent.model, item)
        if found and found.landed:
            landed.append(item)
        elif found:
            failures[item] = found.failure
        elif is_incomplete or (report and report.unfinished):
            unfinished.append(item)
        else:
            why = report.failure if report else _why_not(item, look)
            failures[item] = f"{records.OUT_OF_MEMORY}: {why}" if lacked_memory else why
        if item in failures and report and report.models_fault and not lacked_memory:
            models_faults.append(item)
    computed = (
        entry
        for shard in intent.shards
        for entry in storage.list_objects(execution.store, storage.raw_prefix(intent.model, shard))
        if entry["last_modified"] >= intent.created_at
    )
    if unfinished and (cancelled or not (is_incomplete or landed or any(computed))):
        why = "there was no time to finish a batch, nor was there the time before"
        failures |= dict.fromkeys(unfinished, "it was cancelled" if cancelled else why)
        unfinished = []
    began = [job.started_at for job in jobs if job.started_at]
    queued = (min(began) - status.created_at).total_seconds() if status and began else 0.0
    return records.Settled(
        conclusion=records.CANCELLED if cancelled else ended,
        url=status.run.url if status else "",
        jobs=jobs,
        landed=tuple(landed),
        unfinished=tuple(unfinished),
        failures=failures,
        models_faults=tuple(models_faults),
        queue_seconds=max(0.0, queued),
        runner_seconds=sum(job.runner_seconds for job in jobs),
        settled_at=engine.now(),
    )


def _lacked_memory(item: str, look: protocol.Look) -> bool:
    """Return whether the job of a shard, or one that comes before all shards, was killed for its memory."""
    jobs = look.status.jobs if look.status else ()
    return any(job.status == records.OUT_OF_MEMORY and (item in job.shards or not job.shards) for job in jobs)


def _why_not(item: str, look: protocol.Look) -> str:
    if look.status is None:
        return "its run is gone, and there are no raw predictions"
    run = look.status.run
    job = next((job for job in look.status.jobs if item in job.shards), None)
    if job is None:
        return f"its run ended ({look.status.conclusion}) without a job for it: {run.url}"
    return f"its job ended ({job.status}) without raw predictions: {job.url or run.url}"

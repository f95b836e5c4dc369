"""Taking a step of an execution: reading its records, and carrying out the actions of `protocol` until one ends it."""

from dataclasses import dataclass, replace
from datetime import datetime

from precalc_assets import storage
from precalc_assets.executions.compute_backend import BackendError, Engine, LimitError, NotNowError, RefusedError
from precalc_assets.executions.protocol import (
    LOOK,
    Action,
    CancelRun,
    CheckRun,
    Close,
    Dispatched,
    GiveUp,
    Look,
    LookUp,
    Post,
    Settle,
    State,
    Underway,
    Waiting,
    next_action,
)
from precalc_assets.executions.records import (
    NOT_LAUNCHED,
    Answer,
    Dispatch,
    Execution,
    Limit,
    Settled,
    rate_limit,
)
from precalc_assets.executions.settling import conclude
from precalc_assets.json_records import RecordType, Slot


def step(engine: Engine, execution: Execution) -> Settled | Underway | Waiting:
    """Take one step of an execution: launch it, look at its run, or settle it if the run has ended.

    Several processes may do this at the same time. A step posts one dispatch at most. Raises RefusedError if the
    backend refuses to show the run, as after a token has expired.
    """
    return execution.settled.read() or _Step(engine, execution, engine.now()).take()


def read_state(execution: Execution) -> State:
    """Return what the records say of an execution that is not settled."""
    names = storage.list_sizes(execution.store, execution.folder)

    def find(slot: Slot[RecordType]) -> RecordType | None:
        return slot.read() if slot.name in names else None

    dispatches: list[Dispatched] = []
    while dispatch := find(execution.dispatch(len(dispatches))):
        dispatches.append(Dispatched(dispatch.posted_at, find(execution.answer(len(dispatches)))))
    return State(
        intent=execution.intent,
        cancellation=find(execution.cancellation),
        claim=find(execution.claim),
        run=find(execution.run),
        dispatches=tuple(dispatches),
        limit=rate_limit(execution.store).read(),
    )


@dataclass(frozen=True)
class _Step:
    engine: Engine
    execution: Execution
    now: datetime

    def take(self) -> Settled | Underway | Waiting:
        state = read_state(self.execution)
        while True:
            match next_action(state, self.now):
                case Waiting() | Underway() as outcome:
                    return outcome
                case GiveUp(reason):
                    failures = dict.fromkeys(state.intent.items, reason)
                    settled = Settled(conclusion=NOT_LAUNCHED, failures=failures, settled_at=self.now)
                    return self._settle(settled)
                case Settle(look):
                    return self._settle(conclude(self.engine, self.execution, look))
                case action:
                    state = self._carry_out(action, state)

    def _carry_out(self, action: Action, state: State) -> State:
        """Return the state after an action. What this step has asked the backend for still counts."""
        match action:
            case CheckRun(run_id):
                return self._check(run_id, state)
            case LookUp():
                state = self._look_up(state)
            case Close(reason):
                self.execution.close(reason)
            case CancelRun(run_id, force):
                self._cancel(run_id, force=force)
                state = replace(state, cancel_sent=True)
            case Post(number):
                if self.execution.dispatch(number).create(Dispatch(posted_at=self.now)):
                    self._post(number)
                else:
                    state = replace(state, waiting=Waiting(self.now + LOOK, "another process is launching it"))
        return replace(
            read_state(self.execution),
            cancel_sent=state.cancel_sent,
            looked_up=state.looked_up,
            look=state.look,
            waiting=state.waiting,
        )

    def _check(self, run_id: int, state: State) -> State:
        backend = self.engine.backend
        try:
            status = backend.status(state.intent, run_id)
            return replace(state, look=Look(run_id, status, tuple(backend.jobs(run_id)) if status else ()))
        except RefusedError:
            raise
        except BackendError as error:
            return replace(state, waiting=Waiting(self._when_to_ask_again(error), str(error)))

    def _look_up(self, state: State) -> State:
        try:
            run = self.engine.backend.look_up(state.intent)
        except BackendError as error:
            # The run may be there all the same, so nothing is posted, however long this lasts.
            why = f"the runs cannot be looked through: {error}"
            return replace(state, waiting=Waiting(self._when_to_ask_again(error), why))
        if run:
            self.execution.run.put(run)
        return replace(state, looked_up=True)

    def _cancel(self, run_id: int, *, force: bool) -> None:
        try:
            self.engine.backend.cancel(run_id, force=force)
        except BackendError as error:  # the next step asks again
            self._when_to_ask_again(error)
            self.engine.say(str(error))

    def _post(self, number: int) -> None:
        answer = self.execution.answer(number)
        try:
            run = self.engine.backend.launch(self.execution.intent)
        except RefusedError as error:
            self.execution.close(str(error))
        except NotNowError as error:
            # Record this first: after a crash, the next launcher would search for a run that never existed.
            answer.create(Answer(message=str(error), not_before=self.now + error.wait))
            self._when_to_ask_again(error)
        except BackendError as error:
            answer.create(Answer(message=str(error)))
        else:
            self.execution.run.put(run)

    def _when_to_ask_again(self, error: BackendError) -> datetime:
        """Return when to ask the backend again after an error. A rate limit is recorded for all who ask."""
        if not isinstance(error, NotNowError):
            return self.now + LOOK
        if isinstance(error, LimitError):
            limit = Limit(not_before=self.now + error.wait, message=str(error))
            rate_limit(self.engine.store).put(limit)
        return self.now + error.wait

    def _settle(self, settled: Settled) -> Settled:
        """Settle the execution. Return what the first process to settle it has recorded."""
        self.execution.settled.create(settled)
        return self.execution.settled.read() or settled

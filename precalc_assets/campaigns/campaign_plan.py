"""What a campaign launches next, as a pure function of what is known of its models.

Nothing may be launched twice or forgotten, and money may only be spent within the budget. A tick may come at any time,
after any crash; what it knows tells it what to do:

1. A stopped campaign launches nothing. It ends when nothing is under way.
2. Canaries come first, two at a time at most, while some budget is left.
3. When all canaries have ended, nothing is launched before a person has approved their report.
4. Then models are launched, pinned ones first and then those with the fewest estimated hours, while jobs and budget
   allow; models that have just failed come last. What was spent counts, and what is under way counts with its
   estimate, or with what it has taken if that is more. A run on a cluster is under way until its execution is settled.
   A model that does not fit is passed over.
5. After a failure of the infrastructure a model has three attempts in a row; a failure after which something new had
   landed does not count, within 20 runs. A broken model, and one whose run a person cancelled, is not tried again.
6. A pause launches nothing. So does the breaker: three failures of the infrastructure one after the other, of whatever
   models; those of runs that were under way together are one. Both last until a person resumes the campaign.
7. The campaign is finished when nothing is under way and no model can be launched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

ATTEMPTS = 3
"""Failures of the infrastructure in a row after which a model is given up."""

MOST_RUNS = 20
"""Runs of a model's canary, or of its shards. Some failures write the same objects anew, which looks like progress."""

BREAKER = 3
"""Failures of the infrastructure in a row, over all models, after which the campaign is paused."""

CANARY_JOBS = 2
"""Canaries at a time. They fetch models and make environments, which needs network and disk more than time."""

Phase = Literal["canaries", "approval", "models", "stopping", "finished", "stopped"]

Standing = Literal["computing", "canary", "ready", "waiting", "done", "left out", "failed", "cancelled", "broken"]
"""How a model stands in a campaign, in the order in which people read it. `ready` has passed its canary."""


class Ending(Enum):
    """How a run of a campaign ended; only `cut_off` and `infrastructure` may be tried again."""

    done = "done"
    broken = "broken"
    cancelled = "cancelled"
    cut_off = "cut off"
    infrastructure = "infrastructure"


@dataclass(frozen=True)
class Stage:
    """The runs of a model's canary, or of its shards: their number, how the last one ended, and why.

    `failures` counts those of the infrastructure since something new landed.
    """

    runs: int = 0
    under_way: bool = False
    ending: Ending | None = None
    failures: int = 0
    why: str = ""

    @property
    def may_run(self) -> bool:
        """Whether another run may be launched."""
        again = self.ending in (None, Ending.cut_off) or (
            self.ending is Ending.infrastructure and self.failures < ATTEMPTS
        )
        return again and not self.under_way and self.runs < MOST_RUNS


@dataclass(frozen=True)
class ModelState:
    """What is known of a model.

    `hours` is the estimate for the shards that have not landed, or had not when the run under way was launched.
    `spent` are the hours of runs that have ended, `running` those that the run under way has taken so far, if known.
    """

    model: str
    canary: Stage = Stage()
    shards: Stage = Stage()
    hours: float = 0.0
    spent: float = 0.0
    running: float = 0.0

    @property
    def under_way(self) -> bool:
        """Whether a run has not ended."""
        return self.canary.under_way or self.shards.under_way

    @property
    def has_passed(self) -> bool:
        """Whether the canary has passed."""
        return self.canary.ending is Ending.done and not self.canary.under_way

    @property
    def reserved(self) -> float:
        """The hours that count for the run under way."""
        return max(self.hours if self.shards.under_way else 0.0, self.running)


@dataclass(frozen=True)
class CampaignState:
    """What is known of a campaign that has not ended. `limit` is the budget in hours.

    `failures` are the reasons of the infrastructure's failures in a row since the campaign was resumed, over all
    models.
    """

    models: Sequence[ModelState]
    jobs: int
    limit: float = math.inf
    pinned: Sequence[str] = ()
    approved: bool = False
    paused: bool = False
    stopped: bool = False
    failures: Sequence[str] = ()

    @property
    def committed(self) -> float:
        """Hours that are spent or reserved."""
        return sum(each.spent + each.reserved for each in self.models)


@dataclass(frozen=True)
class Plan:
    """The models whose canaries, or whose shards, by `phase`, are to be launched now, and how all models stand, in
    the order of launches.

    `held` says why nothing is launched.
    """

    phase: Phase
    launches: tuple[str, ...] = ()
    held: str = ""
    models: Mapping[str, tuple[Standing, str]] = field(default_factory=dict)


def next_launches(state: CampaignState) -> Plan:
    """Return what to launch next for a campaign that has not ended; the numbers are those above."""
    under_way = sum(each.under_way for each in state.models)
    spent = state.committed >= state.limit
    canaries = [each for each in state.models if each.canary.may_run and not spent]
    candidates = [each for each in state.models if each.has_passed and each.shards.may_run]
    fitting, passed_over = _fit(state, candidates)
    launches: list[ModelState] = []
    phase: Phase
    if state.stopped:
        phase = "stopping" if under_way else "stopped"  # 1
    elif canaries or any(each.canary.under_way for each in state.models):
        phase = "canaries"  # 2
        launches = _in_order(state, canaries)[: max(0, min(CANARY_JOBS, state.jobs) - under_way)]
    elif not (under_way or fitting):
        phase = "finished"  # 7
    elif not (state.approved or under_way):
        phase = "approval"  # 3
    else:
        phase = "models"
        launches = fitting[: max(0, state.jobs - under_way)] if state.approved else []  # 4
    held = _held(state) if phase in ("canaries", "approval", "models") else ""
    chosen = () if held else tuple(each.model for each in launches)
    out = passed_over if phase in ("models", "finished") else {}
    if spent:
        out |= {each.model: "the budget is spent" for each in state.models if each.canary.may_run}
    standings = {
        each.model: _standing(each, each.model in chosen, out.get(each.model, ""))
        for each in _in_order(state, state.models)
    }
    return Plan(phase, chosen, held, standings)


def _in_order(state: CampaignState, models: Sequence[ModelState]) -> list[ModelState]:
    """Return pinned models first, then those that have not just failed, then the shortest."""
    place = {model: index for index, model in enumerate(state.pinned)}

    def rank(each: ModelState) -> tuple[int, int, float]:
        return place.get(each.model, len(place)), each.canary.failures + each.shards.failures, each.hours

    return sorted(models, key=rank)


def _fit(state: CampaignState, candidates: Sequence[ModelState]) -> tuple[list[ModelState], dict[str, str]]:
    """Return the models that fit into the rest of the budget together, in order, and why the others do not."""
    left = state.limit - state.committed
    fitting: list[ModelState] = []
    passed_over: dict[str, str] = {}
    for each in _in_order(state, candidates):
        if each.hours <= left:
            fitting.append(each)
            left -= each.hours
        else:
            passed_over[each.model] = f"needs {each.hours:,.2f} hours, and {max(0.0, left):,.2f} of the budget are left"
    return fitting, passed_over


def _held(state: CampaignState) -> str:
    if state.paused:
        return "a person paused it"
    if len(state.failures) >= BREAKER:
        return f"{len(state.failures)} failures of the infrastructure in a row; the last one: {state.failures[-1]}"
    return ""


def _standing(each: ModelState, launched: bool, out: str) -> tuple[Standing, str]:
    stage = each.shards if each.has_passed else each.canary
    if each.under_way or launched:
        return ("computing" if each.has_passed else "canary"), stage.why
    if out:
        return "left out", out
    if stage.may_run:
        return ("ready" if each.has_passed else "waiting"), stage.why
    match stage.ending:
        case Ending.broken:
            return "broken", stage.why
        case Ending.cancelled:
            return "cancelled", stage.why
        case Ending.infrastructure | Ending.cut_off:
            return "failed", stage.why
        case _:
            return "done", ""

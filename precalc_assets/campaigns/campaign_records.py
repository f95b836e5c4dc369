"""The records of campaigns in the object store: what each one says, who writes it, and how a campaign is opened.

A campaign's Dagster runs are tagged with its id. Runs and records hold all that must survive the death of whoever
works on it. `campaign_plan` says what is done next.

    campaigns/20261130T021430/intent.json     models, order, budget                        `start`, once
                              approval.json   the canaries' report is approved             `approve`, once
                              pause.json      launch nothing new, or go on                 `pause` and `resume`
                              stop.json       the wish to cancel all that runs             `stop`, once
                              progress.json   what the last tick saw and decided           the sensor `campaign`
                              end.json        nothing is left to do                        the sensor, once
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal

from obstore.store import ObjectStore
from pydantic import Field, PositiveInt

from precalc.identifiers import check_model_id
from precalc_assets import storage
from precalc_assets.campaigns.campaign_plan import Phase, Standing
from precalc_assets.executions.records import Moment
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.json_records import ModelId, RecordType, ReplaceableSlot, Slot
from precalc_assets.platform_errors import CampaignError, UsageError

Budget = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Runner-hours, or dollars."""

_ID = re.compile(r"[0-9]{8}T[0-9]{6}")


class CampaignIntent(FrozenRecord):
    """What a campaign computes: all shards of these models, `jobs` models at a time, pinned ones first.

    At least one of the budgets is there. Dollars are hours at PRECALC_RUNNER_PRICE.
    """

    models: Annotated[tuple[ModelId, ...], Field(min_length=1)]
    pinned: tuple[ModelId, ...] = ()
    budget_hours: Budget | None
    budget_dollars: Budget | None
    jobs: PositiveInt
    started_at: Moment

    def most_hours(self, price: float) -> float:
        """Return the budget in runner-hours. Raises CampaignError if it is in dollars and an hour costs nothing."""
        bounds = [self.budget_hours] if self.budget_hours else []
        if self.budget_dollars and price:
            bounds.append(self.budget_dollars / price)
        if not bounds:
            raise CampaignError(
                "the campaign's budget is in dollars and bounds nothing, since PRECALC_RUNNER_PRICE is 0; set it to "
                "the dollars of a machine's hour, also for Dagster, or start the campaign with --budget-hours"
            )
        return min(bounds)


class Approval(FrozenRecord):
    """A person has read the canaries' report and wants the models launched."""

    approved_at: Moment


class Pause(FrozenRecord):
    """Launch nothing new while `paused`. After a resumption, earlier failures no longer count for the breaker."""

    paused: bool
    changed_at: Moment


class Stop(FrozenRecord):
    """The wish to cancel all that runs, and to end the campaign."""

    requested_at: Moment


class ModelStanding(FrozenRecord):
    """How far a model is, and why. `hours` is the canary's estimate for all shards, of which `landed` are there."""

    standing: Standing
    why: str = ""
    hours: float | None = None
    landed: int = 0
    spent_hours: float = 0.0


class Progress(FrozenRecord):
    """What the last tick saw and decided. `held` says why nothing is launched; `executions` has hours by key."""

    phase: Phase
    held: str = ""
    models: Mapping[ModelId, ModelStanding]
    executions: Mapping[str, float] = {}
    seen_at: Moment

    @property
    def spent_hours(self) -> float:
        """The hours that the campaign's runs have taken."""
        return sum(each.spent_hours for each in self.models.values())


class End(FrozenRecord):
    """How a campaign ended."""

    conclusion: Literal["finished", "stopped"]
    ended_at: Moment


class Campaign:
    """The records of one campaign."""

    def __init__(self, store: ObjectStore, campaign_id: str) -> None:
        self.store, self.id, self.folder = store, campaign_id, f"{storage.CAMPAIGNS}/{campaign_id}"
        self.intent_slot = self._once("intent", CampaignIntent)
        self.approval = self._once("approval", Approval)
        self.pause = self._replaceable("pause", Pause)
        self.stop = self._once("stop", Stop)
        self.progress = self._replaceable("progress", Progress)
        self.end = self._once("end", End)

    @cached_property
    def intent(self) -> CampaignIntent:
        """What the campaign computes. Raises CampaignError if there is no such campaign."""
        intent = self.intent_slot.read()
        if intent is None:
            raise CampaignError(f"there is no campaign {self.id} in this store; start one: `precalc campaign start`")
        return intent

    def headline(self, price: float) -> str:
        """Return in a line the campaign's phase, its budget, and how its models stand. `price` is of a runner-hour."""
        progress, end, intent = self.progress.read(), self.end.read(), self.intent
        if progress is None:
            return f"campaign {self.id}: not begun; Dagster's sensor campaign has not seen it yet, and must be running"
        spent = [f"{progress.spent_hours:,.2f} of {intent.budget_hours:,.2f} hours"] if intent.budget_hours else []
        if intent.budget_dollars:
            spent.append(f"${progress.spent_hours * price:,.2f} of ${intent.budget_dollars:,.2f}")
        counts = Counter(each.standing for each in progress.models.values())
        models = ", ".join(f"{count} {standing}" for standing, count in counts.most_common())
        held = f"; nothing is launched: {progress.held}" if progress.held else ""
        phase = end.conclusion if end else progress.phase
        return f"campaign {self.id}: {phase}; {' and '.join(spent)} spent; {models}{held}"

    def _once(self, name: str, kind: type[RecordType]) -> Slot[RecordType]:
        return Slot(self.store, f"{self.folder}/{name}.json", kind, CampaignError, "delete it")

    def _replaceable(self, name: str, kind: type[RecordType]) -> ReplaceableSlot[RecordType]:
        return ReplaceableSlot(self.store, f"{self.folder}/{name}.json", kind, CampaignError, "delete it")


def start_campaign(
    store: ObjectStore,
    models: Sequence[str],
    *,
    pinned: Sequence[str] = (),
    budget_hours: float | None = None,
    budget_dollars: float | None = None,
    jobs: int = 1,
    price: float = 0.0,
) -> Campaign:
    """Start a campaign. A model that is named twice counts once. `price` is that of a runner-hour, in dollars.

    Raises UsageError for a malformed model id, for no model, and for no budget or one that is not positive;
    CampaignError if another campaign is not finished, or the budget bounds nothing.
    """
    chosen = tuple(dict.fromkeys(map(check_model_id, models)))
    if not chosen:
        raise UsageError("the campaign has no models; name them, or give --file or --ready")
    budgets = {"--budget-hours": budget_hours, "--budget-dollars": budget_dollars}
    if budget_hours is None and budget_dollars is None:
        raise UsageError(f"the campaign has no budget; give {' or '.join(budgets)}")
    for option, budget in budgets.items():
        if budget is not None and not 0 < budget < math.inf:
            raise UsageError(f"{option} {budget:g} is no budget; give a number above 0")
    strangers = [model for model in pinned if model not in chosen]
    if strangers:
        raise UsageError(f"--pin {strangers[0]}: it is not one of the campaign's models; name it among them, too")
    if unfinished := find_unfinished(store):
        raise CampaignError(
            f"campaign {unfinished.id} is not finished, and one at a time may be; wait for its end "
            "(`precalc campaign status`), or end it: `precalc campaign stop`"
        )
    now = datetime.now(UTC)
    intent = CampaignIntent(
        models=chosen,
        pinned=tuple(dict.fromkeys(pinned)),
        budget_hours=budget_hours,
        budget_dollars=budget_dollars,
        jobs=jobs,
        started_at=now,
    )
    intent.most_hours(price)
    campaign = Campaign(store, f"{now:%Y%m%dT%H%M%S}")
    if not campaign.intent_slot.create(intent):
        raise CampaignError(f"campaign {campaign.id} was started just now; see `precalc campaign status`")
    return campaign


def find_unfinished(store: ObjectStore) -> Campaign | None:
    """Return the campaign that is under way: the oldest, should two have been started in the same instant."""
    names = storage.list_sizes(store, storage.CAMPAIGNS)
    campaigns = [Campaign(store, campaign_id) for campaign_id in _ids(names)]
    return next((each for each in campaigns if each.end.name not in names), None)


def find_latest(store: ObjectStore) -> Campaign | None:
    """Return the campaign that is under way, or else the last one, or None if there was none."""
    ids = _ids(storage.list_sizes(store, storage.CAMPAIGNS))
    return find_unfinished(store) or Campaign(store, ids[-1]) if ids else None


def _ids(names: Mapping[str, int]) -> list[str]:
    """Return the ids of the campaigns with an intent, oldest first."""
    found = (name.split("/") for name in names)
    return sorted(parts[1] for parts in found if _ID.fullmatch(parts[1]) and parts[2:] == ["intent.json"])

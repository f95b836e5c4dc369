"""A campaign over a real store, with ticks that are killed, lost and late: it does what a plain model of it says.

Dagster is a plain list of runs that takes each key once. Time is made up, also that of the store's files.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import hypothesis.strategies as st
import obstore
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from obstore.store import MemoryStore

from precalc_assets.adoption_record import Adoption
from precalc_assets.campaigns.campaign_plan import ATTEMPTS, BREAKER, CANARY_JOBS, Ending, Plan
from precalc_assets.campaigns.campaign_records import Approval, Campaign, Pause, Stop, start_campaign
from precalc_assets.campaigns.campaign_tick import LATE, CampaignRun, count_landed, tick
from precalc_assets.executions.records import Compute, Execution, Settled, open_execution, unsettled
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.predictions.canary_report import CanaryReport, RunEstimate, put_report
from precalc_assets.predictions.shard_manifest import RawManifest, manifest_name
from precalc_assets.settings import Settings
from precalc_assets.storage import open_store

MODELS = ("eos1aaa", "eos2aaa", "eos3aaa", "eos4aaa")
N_SHARDS = 4
LIMIT = 10.0
HOUR = timedelta(hours=1)


class KilledError(BaseException):
    """The process that ticks is killed."""


@dataclass
class Run:
    """A run that Dagster knows, with the state of the campaign in which it was launched."""

    key: str
    model: str
    is_canary: bool
    began: datetime
    ended: datetime | None = None
    ending: Ending | None = None
    execution: Execution | None = None

    def seen(self) -> CampaignRun:
        # A tick is not told whether something new had landed.
        ending = Ending.infrastructure if self.ending is Ending.cut_off else self.ending
        return CampaignRun(self.model, self.is_canary, self.began, self.ended, ending, "a reason" if ending else "")


class Campaigning(RuleBasedStateMachine):
    """In every order of events nothing is launched twice or forgotten, or beyond the budget."""

    compute: str = "local"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = open_store(f"file://{self.folder.name}")
        self.settings = Settings(compute=self.compute, n_shards=N_SHARDS)
        self.runs: list[Run] = []
        self.time = datetime(2030, 1, 1, tzinfo=UTC)
        self.late: tuple[datetime, Plan, dict[str, str]] | None = None
        self.stopped_at: datetime | None = None
        self.paused = False
        self.resumed_at = self.time
        self.warnings: list[str] = []

    @initialize(
        hours=st.lists(st.sampled_from([1.0, 3.0, 6.0, 6.0, 20.0]), min_size=4, max_size=4),
        jobs=st.integers(1, 3),
        pinned=st.sampled_from([(), ("eos3aaa",), ("eos4aaa", "eos2aaa")]),
        approved=st.booleans(),
    )
    def somebody_starts(self, hours: list[float], jobs: int, pinned: tuple[str, ...], *, approved: bool) -> None:
        """Start a campaign; with `approved`, its canaries have passed already."""
        self.estimates = dict(zip(MODELS, hours, strict=True))
        self.jobs = jobs
        campaign = start_campaign(self.store, MODELS, pinned=pinned, budget_hours=LIMIT, jobs=jobs)
        intent = campaign.intent.model_copy(update={"started_at": self.time})
        obstore.put(self.store, campaign.intent_slot.name, intent.model_dump_json().encode())
        self.campaign = Campaign(self.store, campaign.id)
        if approved:
            self.runs_end_alike(Ending.done, times=2 * len(MODELS))
            self.a_person_approves()

    # -- what Dagster and the backend do

    def under_way(self) -> list[Run]:
        return [run for run in self.runs if run.ended is None]

    def launch(self, plan: Plan, keys: dict[str, str], *, is_late: bool = False) -> None:
        """Launch what a tick returned, as Dagster's daemon: a key that was there is not launched again."""
        for model in plan.launches:
            is_canary = plan.phase == "canaries"
            if keys[model] in {run.key for run in self.runs}:
                continue
            if not is_late:
                self.assert_may_launch(model, is_canary=is_canary)
            run = Run(keys[model], model, is_canary, self.time)
            if self.compute != "local":
                sample, shards = (10, []) if is_canary else (None, ["00", "01"])
                run.execution = open_execution(self.store, model, "digest", shards, compute=self.compute, sample=sample)
                assert run.execution, "two executions of the same shards"
                intent = run.execution.intent.model_copy(update={"created_at": self.time})
                obstore.put(self.store, run.execution.intent_slot.name, intent.model_dump_json().encode())
            self.runs.append(run)

    @precondition(lambda self: self.under_way())
    @rule(index=st.integers(0, 9), how=st.sampled_from([*Ending, Ending.done, Ending.done]))
    def a_run_ends(self, index: int, how: Ending) -> None:
        runs = self.under_way()
        self.end_run(runs[index % len(runs)], how)

    def end_run(self, run: Run, how: Ending) -> None:
        if how is Ending.cut_off and run.is_canary:
            how = Ending.infrastructure
        if how is Ending.done and run.is_canary:
            put_report(self.store, report(run.model, self.estimates[run.model]))
        landed = {Ending.done: N_SHARDS, Ending.cut_off: 1}.get(how, 0) if not run.is_canary else 0
        for shard in range(landed):
            self.land(run.model, f"{shard:02d}")
        if run.execution:
            seconds = (self.time - run.began).total_seconds()
            run.execution.settled.create(Settled(conclusion="x", runner_seconds=seconds, settled_at=self.time))
        run.ended, run.ending = self.time, how
        self.time += timedelta(seconds=1)

    def land(self, model: str, shard: str) -> None:
        name = manifest_name(model, shard)
        obstore.put(self.store, name, manifest(model, shard).model_dump_json().encode())
        at = self.time.timestamp()
        os.utime(Path(self.folder.name, name), (at, at))

    @rule(minutes=st.sampled_from([1, 10, 60, 240]))
    def time_passes(self, minutes: int) -> None:
        self.time += timedelta(minutes=minutes)
        self.late_tick_launches()

    # -- ticks

    @rule(killed=st.sampled_from([None, None, None, 0, 1, 2, 3]), launched=st.sampled_from([None, None, 0, 1]))
    def the_sensor_ticks(self, killed: int | None, launched: int | None) -> None:
        """Tick, perhaps killed before or after one of its writes, or before all that it returned was launched."""
        self.time += timedelta(seconds=30)
        self.late_tick_launches()
        plan, keys = self.tick(killed)
        if plan:
            self.launch(replace(plan, launches=plan.launches[:launched]), keys)

    @rule(how=st.sampled_from([Ending.done, Ending.infrastructure, Ending.cut_off]), times=st.integers(1, 4))
    def runs_end_alike(self, how: Ending, times: int) -> None:
        """Tick, and have all runs end in the same way, some times in a row."""
        for _ in range(times):
            self.the_sensor_ticks(None, None)
            for run in self.under_way():
                self.end_run(run, how)

    @precondition(lambda self: self.late is None)
    @rule()
    def a_tick_is_late(self) -> None:
        """Tick, but have Dagster launch what it returns only after other events."""
        plan, keys = self.tick(None)
        if plan:
            self.late = (self.time, plan, keys)

    def late_tick_launches(self) -> None:
        """Launch what the late tick returned, which is within a minute, or never."""
        if self.late and self.time - self.late[0] <= timedelta(seconds=60):
            _, plan, keys = self.late
            self.launch(plan, keys, is_late=True)
        self.late = None

    def tick(self, killed: int | None) -> tuple[Plan | None, dict[str, str]]:
        if self.campaign.end.read():
            return None, {}
        seen = list(self.runs)
        plan = None
        with killed_at(killed):
            try:
                plan = tick(self.campaign, [run.seen() for run in seen], self.settings, self.time, self.warnings.append)
            except KilledError:
                return None, {}
        if plan.phase == "stopping":
            for run in self.under_way():
                self.end_run(run, Ending.cancelled)
        is_canary = plan.phase == "canaries"
        made = {
            model: 1 + sum(run.model == model and run.is_canary == is_canary for run in seen) for model in plan.launches
        }
        return plan, {model: f"{'canary' if is_canary else 'shards'}/{model}/{count}" for model, count in made.items()}

    # -- what people do

    @rule()
    def a_person_approves(self) -> None:
        progress = self.campaign.progress.read()
        if progress and progress.phase == "approval":
            self.campaign.approval.create(Approval(approved_at=self.time))

    @rule(paused=st.booleans())
    def a_person_pauses_or_resumes(self, paused: bool) -> None:
        self.campaign.pause.put(Pause(paused=paused, changed_at=self.time))
        self.paused, self.resumed_at = paused, self.time
        self.late = None
        self.time += timedelta(seconds=1)

    @precondition(lambda self: len(self.runs) > 3)
    @rule(sure=st.integers(0, 4))
    def a_person_stops(self, sure: int) -> None:
        if sure == 0 and self.stopped_at is None and not self.campaign.end.read():
            self.campaign.stop.create(Stop(requested_at=self.time))
            self.stopped_at = self.time

    # -- the promises

    def assert_may_launch(self, model: str, *, is_canary: bool) -> None:
        """Assert what holds at every launch by a tick that is not late, by the plain model."""
        assert self.stopped_at is None
        assert not self.paused
        under_way = self.under_way()
        assert len(under_way) < (min(CANARY_JOBS, self.jobs) if is_canary else self.jobs)
        own = [run for run in self.runs if run.model == model and run.is_canary == is_canary]
        assert {run.ending for run in own} <= {Ending.infrastructure, Ending.cut_off}
        assert [run.ending for run in own[-ATTEMPTS:]] != [Ending.infrastructure] * ATTEMPTS
        ended = [run for run in self.runs if run.ended and run.ended > self.resumed_at]
        counted = sorted(
            (run for run in ended if run.ending is not Ending.cancelled), key=lambda run: run.ended or self.time
        )
        in_a_row: list[Run] = []
        for run in counted:
            if run.ending is not Ending.infrastructure:
                in_a_row = []
            elif not in_a_row or run.began >= (in_a_row[-1].ended or self.time):
                in_a_row.append(run)
        assert len(in_a_row) < BREAKER
        spent = sum(((run.ended or self.time) - run.began) / HOUR for run in self.runs)
        if is_canary:
            assert spent < LIMIT or self.compute != "local"
            return
        assert self.campaign.approval.read()
        assert [run.ending for run in self.runs if run.model == model and run.is_canary][-1] is Ending.done
        ended_hours = sum((run.ended - run.began) / HOUR for run in self.runs if run.ended)
        reserved = sum(self.missing_hours(run.model) for run in under_way)
        assert ended_hours + reserved + self.missing_hours(model) <= LIMIT + 1e-9

    def missing_hours(self, model: str) -> float:
        folder = Path(self.folder.name, f"raw/model={model}")
        return self.estimates[model] * (1 - len(list(folder.glob("*/manifest.json"))) / N_SHARDS)

    @invariant()
    def nothing_runs_twice(self) -> None:
        under_way = [run.model for run in self.under_way()]
        assert len(set(under_way)) == len(under_way)
        assert not self.warnings

    def teardown(self) -> None:
        """Let everything run to its end: each model is computed, given up for a reason, or beyond the budget."""
        try:
            if hasattr(self, "campaign"):
                self.run_to_the_end()
        finally:
            self.folder.cleanup()

    def run_to_the_end(self) -> None:
        if self.stopped_at is None:
            self.a_person_pauses_or_resumes(paused=False)
        for _ in range(100):
            if self.campaign.end.read():
                break
            self.a_person_approves()
            self.the_sensor_ticks(None, None)
            for run in self.under_way():
                self.end_run(run, Ending.done)
            self.time += LATE
        end, progress = self.campaign.end.read(), self.campaign.progress.read()
        assert end
        assert progress
        assert self.under_way() == []
        assert end.conclusion == ("stopped" if self.stopped_at else "finished")
        if self.compute != "local":
            assert unsettled(self.store) == []
        for model in MODELS:
            own = [run for run in self.runs if run.model == model]
            if self.stopped_at is None:
                self.assert_not_forgotten(model, own, progress.models[model].standing)

    def assert_not_forgotten(self, model: str, own: list[Run], standing: str) -> None:
        spent = sum((run.ended - run.began) / HOUR for run in self.runs if run.ended)
        last = own[-1].ending if own else None
        match standing:
            case "done":
                assert not own[-1].is_canary
                assert last is Ending.done
            case "broken":
                assert last is Ending.broken
            case "cancelled":
                assert last is Ending.cancelled
            case "failed":
                assert [run.ending for run in own[-ATTEMPTS:]] == [Ending.infrastructure] * ATTEMPTS
            case _:
                assert standing == "left out"
                needed = self.missing_hours(model) if any(run.ending is Ending.done for run in own) else 0.0
                assert spent + needed >= LIMIT


class CampaigningOnRunners(Campaigning):
    """The same on a backend: hours are those of settled executions."""

    compute: Compute = "github"


@contextmanager
def killed_at(point: int | None):
    """Kill whoever writes to the store: before its first write (0), after it (1), before its second one (2), …"""
    put: Callable = obstore.put
    points = iter(range(1_000))

    def count(*arguments, **options):
        if next(points) == point:
            raise KilledError
        done = put(*arguments, **options)
        if next(points) == point:
            raise KilledError
        return done

    with patch("obstore.put", count):
        yield


def manifest(model: str, shard: str, release: str = "v1.0.0") -> RawManifest:
    return RawManifest(
        model=model,
        release=release,
        shard=shard,
        shard_digest="d",
        columns=(),
        parts=(),
        rows=0,
        quarantined=0,
        environment="",
        seconds=1.0,
        finished_at=datetime(2030, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("release", "different", "landed"),
    [("v1.0.0", None, 3), ("v1.0.0", 1, 3), ("v0.9.0", None, 1), ("v0.9.0", 1, 1), ("v0.9.0", 0, 3)],
)
def test_shards_of_a_release_that_is_not_reproduced_are_left(release: str, different: int | None, landed: int) -> None:
    store = MemoryStore()
    for shard, by in (("00", release), ("01", release), ("02", "v1.0.0")):
        obstore.put(store, manifest_name(MODELS[0], shard), manifest(MODELS[0], shard, by).model_dump_json().encode())
    obstore.put(store, manifest_name(MODELS[0], "03"), b"damaged")
    compared = different is not None and Adoption(
        computed_by=(release,), molecules=9, different=different, example="", compared_at=datetime.now(UTC)
    )
    canary = report(MODELS[0], 1.0).model_copy(update={"adoption": compared or None})
    assert count_landed(store, canary, 5) == landed


@pytest.mark.parametrize(("minutes", "standing"), [(20, "ready"), (-20, "canary")])
def test_canary_that_outlives_its_run_is_not_repeated(minutes: int, standing: str) -> None:
    store, began = MemoryStore(), datetime.now(UTC)
    campaign = start_campaign(store, MODELS[:1], budget_hours=LIMIT)
    died = CampaignRun(MODELS[0], True, began, began + timedelta(minutes=1), Ending.infrastructure, "killed")
    left = report(MODELS[0], 1.0).model_copy(update={"finished_at": began + timedelta(minutes=minutes)})
    put_report(store, left)
    plan = tick(campaign, [died], Settings(compute="slurm"), began + HOUR, print)
    assert plan.models[MODELS[0]] == (standing, "" if standing == "ready" else "killed")


def test_campaign_ends_when_the_hours_of_its_executions_are_known() -> None:
    store, began = MemoryStore(), datetime.now(UTC)
    campaign = start_campaign(store, MODELS[:1], budget_hours=LIMIT)
    campaign.approval.create(Approval(approved_at=began))
    put_report(store, report(MODELS[0], 1.0))
    runs = [CampaignRun(MODELS[0], is_canary, began, began + HOUR, Ending.done) for is_canary in (True, False)]
    for shard in ("00", "01", "02", "03"):
        obstore.put(store, manifest_name(MODELS[0], shard), manifest(MODELS[0], shard).model_dump_json().encode())
    execution = open_execution(store, MODELS[0], "digest", ["00"], compute="slurm")
    assert execution
    settings, warnings = Settings(compute="slurm", n_shards=4), []
    assert tick(campaign, runs, settings, began + HOUR, warnings.append).phase == "models"
    execution.settled.create(Settled(conclusion="success", runner_seconds=1800, settled_at=began))
    assert tick(campaign, runs, settings, began + HOUR, warnings.append).phase == "finished"
    progress = campaign.progress.read()
    assert progress
    assert progress.spent_hours == 0.5


@pytest.mark.parametrize(("seconds", "held"), [(0, False), (600, True)])
def test_runs_that_fail_together_are_one_failure(seconds: int, *, held: bool) -> None:
    campaign = start_campaign(MemoryStore(), MODELS, budget_hours=LIMIT, jobs=4)
    died = []
    for at, model in enumerate(MODELS[:3]):
        began = datetime.now(UTC) + timedelta(seconds=at * seconds)
        died.append(CampaignRun(model, True, began, began + timedelta(seconds=300), Ending.infrastructure, "killed"))
    plan = tick(campaign, died, Settings(), datetime.now(UTC) + HOUR, print)
    assert bool(plan.held) == held


def report(model: str, hours: float) -> CanaryReport:
    return CanaryReport(
        model=model,
        metadata=ModelMetadata(Identifier=model, Title="T", Release="v1.0.0"),
        release="v1.0.0",
        declared=(),
        library_digest="d",
        finished_at=datetime(2030, 1, 1, tzinfo=UTC),
        molecules=10,
        quarantined=0,
        run=RunEstimate(molecules=100, machines=1, runner_hours=hours, wall_hours=hours, dollars=0.0),
        peak_memory=None,
        bytes_per_molecule=None,
        adoption=None,
        checks=(),
    )


@pytest.mark.parametrize("machine", [Campaigning, CampaigningOnRunners])
def test_campaign_forgets_nothing_and_launches_nothing_twice(machine: type[Campaigning]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

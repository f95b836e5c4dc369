"""What a campaign does next, as a table: what is known of its models, and what is launched. No store, no Dagster."""

from dataclasses import replace

import pytest

from precalc_assets.campaigns.campaign_plan import (
    ATTEMPTS,
    BREAKER,
    MOST_RUNS,
    CampaignState,
    Ending,
    ModelState,
    Phase,
    Stage,
    next_launches,
)

NEW = Stage()
RUNS = Stage(under_way=True)
DONE = Stage(ending=Ending.done)
BROKEN = Stage(ending=Ending.broken, why="not_all_null: it answers nothing")
CANCELLED = Stage(ending=Ending.cancelled)
CUT_OFF = Stage(ending=Ending.cut_off)


def failed(times: int) -> Stage:
    return Stage(ending=Ending.infrastructure, failures=times, why="no machine")


def model(number: int, canary: Stage = DONE, shards: Stage = NEW, **hours: float) -> ModelState:
    return ModelState(f"eos{number}aaa", canary, shards, **{"hours": float(number), **hours})


def state(*models: ModelState, jobs: int = 2, approved: bool = True, **more) -> CampaignState:
    return CampaignState(models, jobs=jobs, approved=approved, **more)


TRIED = [model(number, NEW) for number in (1, 2, 3)]

TABLE: dict[str, tuple[CampaignState, Phase, list[int]]] = {
    # 1. stopping
    "stopped: nothing is launched": (state(model(1), stopped=True), "stopped", []),
    "stopped while a canary runs: not ended": (state(model(1, RUNS), model(2), stopped=True), "stopping", []),
    "stopped while shards run: not ended": (state(model(1, DONE, RUNS), stopped=True), "stopping", []),
    # 2. canaries
    "new: two canaries": (state(*TRIED, jobs=9, approved=False), "canaries", [1, 2]),
    "one job at a time: one canary": (state(*TRIED, jobs=1, approved=False), "canaries", [1]),
    "a canary runs: one more": (state(model(1, RUNS), *TRIED[1:], approved=False), "canaries", [2]),
    "two canaries run: no more": (state(model(1, RUNS), model(2, RUNS), model(3, NEW)), "canaries", []),
    "a pinned model's canary comes first": (state(*TRIED, jobs=1, pinned=["eos3aaa"]), "canaries", [3]),
    "a canary that failed is tried after the others": (
        state(model(1, failed(1)), model(2, NEW), jobs=1),
        "canaries",
        [2],
    ),
    "a canary that failed twice is tried again": (state(model(1, failed(ATTEMPTS - 1))), "canaries", [1]),
    "a model whose canary has passed waits for the others": (state(model(1), model(2, RUNS)), "canaries", []),
    "the budget is spent on canaries: no more": (
        state(model(1, NEW), model(2, BROKEN, spent=5), limit=5),
        "finished",
        [],
    ),
    # 3. approval
    "canaries have ended: a person approves": (state(model(1), model(2, BROKEN), approved=False), "approval", []),
    "no canary has passed: there is nothing to approve": (state(model(1, BROKEN), approved=False), "finished", []),
    "canary given up after three failures": (state(model(1, failed(ATTEMPTS)), approved=False), "finished", []),
    "nothing fits into the budget: there is nothing to approve": (
        state(model(9), approved=False, limit=8),
        "finished",
        [],
    ),
    # 4. launching
    "approved: the shortest models first": (state(model(3), model(1), model(2)), "models", [1, 2]),
    "a pinned model comes first": (state(model(3), model(1), pinned=["eos3aaa"], jobs=1), "models", [3]),
    "pinned models come in their order": (
        state(model(1), model(3), model(2), pinned=["eos3aaa", "eos2aaa"]),
        "models",
        [3, 2],
    ),
    "jobs are taken: nothing is launched": (state(model(1, DONE, RUNS), model(2), jobs=1), "models", []),
    "a job is free: one is launched": (state(model(1, DONE, RUNS), model(2), model(3)), "models", [2]),
    "only what fits into the budget is launched": (state(model(1), model(2), jobs=9, limit=2.5), "models", [1]),
    "what was spent counts": (state(model(1, DONE, DONE, spent=2), model(2), limit=3), "finished", []),
    "what is under way counts with its estimate": (
        state(model(3, DONE, RUNS), model(2), limit=4),
        "models",
        [],
    ),
    "what is under way counts with what it has taken": (
        state(model(1, DONE, RUNS, running=3), model(2), limit=4),
        "models",
        [],
    ),
    "a pinned model that does not fit lets others go first": (
        state(model(5), model(2), limit=4, pinned=["eos5aaa"]),
        "models",
        [2],
    ),
    "nothing is left to compute: launched all the same": (state(model(1, hours=0), limit=3), "models", [1]),
    # 5. again
    "shards failed by the infrastructure: again": (state(model(1, DONE, failed(1))), "models", [1]),
    "shards failed three times: given up": (state(model(1, DONE, failed(ATTEMPTS))), "finished", []),
    "a model that has just failed comes last": (state(model(1, DONE, failed(1)), model(2), jobs=1), "models", [2]),
    "cut off after progress: again": (state(model(1, DONE, CUT_OFF)), "models", [1]),
    "cut off too often: given up": (state(model(1, DONE, replace(CUT_OFF, runs=MOST_RUNS))), "finished", []),
    "broken: not again": (state(model(1, BROKEN), model(2, DONE, BROKEN)), "finished", []),
    "a person cancelled the run: not again": (state(model(1, DONE, CANCELLED), model(2, CANCELLED)), "finished", []),
    # 6. pauses
    "paused: no canary": (state(*TRIED, paused=True), "canaries", []),
    "paused: no model": (state(model(1), paused=True), "models", []),
    "three failures in a row: nothing is launched": (state(model(1), failures=["x"] * BREAKER), "models", []),
    "two failures in a row: it goes on": (state(model(1), failures=["x"] * (BREAKER - 1)), "models", [1]),
    "paused with nothing left to do: finished": (state(model(1, DONE, DONE), paused=True), "finished", []),
    # 7. the end
    "all models are computed: finished": (state(model(1, DONE, DONE), model(2, DONE, DONE)), "finished", []),
    "a model computes: not finished": (state(model(1, DONE, RUNS), model(2, DONE, DONE)), "models", []),
}


@pytest.mark.parametrize(("known", "phase", "launched"), TABLE.values(), ids=TABLE)
def test_next_launches(known: CampaignState, phase: Phase, launched: list[int]) -> None:
    plan = next_launches(known)
    assert (plan.phase, list(plan.launches)) == (phase, [f"eos{number}aaa" for number in launched])


def test_each_model_says_how_it_stands_and_why() -> None:
    models = [
        model(1),
        model(2, DONE, RUNS),
        model(3, DONE, DONE),
        model(4, BROKEN),
        model(5, DONE, failed(ATTEMPTS)),
        model(6, DONE, CANCELLED),
        model(7),
    ]
    assert next_launches(state(*models, jobs=1, limit=8)).models == {
        "eos1aaa": ("ready", ""),
        "eos2aaa": ("computing", ""),
        "eos3aaa": ("done", ""),
        "eos4aaa": ("broken", BROKEN.why),
        "eos5aaa": ("failed", "no machine"),
        "eos6aaa": ("cancelled", ""),
        "eos7aaa": ("left out", "needs 7.00 hours, and 5.00 of the budget are left"),
    }


def test_what_is_launched_shows_as_under_way() -> None:
    assert next_launches(state(model(1))).models == {"eos1aaa": ("computing", "")}
    assert next_launches(state(model(1, NEW))).models == {"eos1aaa": ("canary", "")}


def test_pause_and_breaker_say_why_nothing_is_launched() -> None:
    waiting = state(model(1))
    assert next_launches(replace(waiting, paused=True)).held == "a person paused it"
    held = next_launches(replace(waiting, failures=["a", "b", "no network"])).held
    assert held == "3 failures of the infrastructure in a row; the last one: no network"
    assert next_launches(waiting).held == ""

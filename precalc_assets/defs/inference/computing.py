"""Where raw predictions and canaries are computed: in the run itself, or on GitHub's runners, which it then follows.

The assets choose by the run's configuration, and else by PRECALC_COMPUTE. How GitHub's runners are followed is in
`defs.executions.following`.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

import dagster as dg

from precalc_assets.defs.inference.checks import canary_input
from precalc_assets.defs.recording import Beside
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import CanaryReport, open_backend, open_model, predict_shards, run_canary
from precalc_assets.library import LibraryManifest
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason


class Compute(Enum):
    """Where it is computed: in this run, or on GitHub's runners."""

    local = "local"
    github = "github"


class Computation(NamedTuple):
    """Shards of a model as they land, and what they are made from beside the library."""

    outcomes: Iterable[ShardOutcome]
    beside: Beside = lambda _: ()


Computing = Callable[[dg.AssetExecutionContext, Platform, LibraryManifest, str, list[str]], Computation]
Trying = Callable[[dg.AssetExecutionContext, Platform, LibraryManifest, str, int], CanaryReport]


def shards_computed(compute: Compute | None, platform: Platform) -> Computing:
    """Return the function that computes shards of a model, where the run or else the settings want it."""
    if (compute or Compute(platform.settings.compute)) is Compute.local:
        return _compute
    # githubkit takes a third of a second to load, and a run on this machine needs none of it.
    from precalc_assets.defs.executions.following import compute_on_runners

    return compute_on_runners


def canary_run(compute: Compute | None, platform: Platform) -> Trying:
    """Return the function that runs a model's canary, where the run or else the settings want it."""
    if (compute or Compute(platform.settings.compute)) is Compute.local:
        return _try
    from precalc_assets.defs.executions.following import try_on_runner

    return try_on_runner


def _compute(
    context: dg.AssetExecutionContext, platform: Platform, library: LibraryManifest, model: str, shards: list[str]
) -> Computation:
    settings = platform.settings
    try:
        backend = open_backend(open_model(model, settings), settings)
    except FAILURES as error:
        return Computation([ShardOutcome(shard, failure=reason(error)) for shard in shards])
    outcomes = predict_shards(
        platform.store,
        library,
        model,
        backend,
        shards,
        batch_size=settings.batch_size,
        max_failure_rate=settings.max_failure_rate,
        on_progress=platform.progress(context.log, sum(library.shards[shard].rows for shard in shards)),
    )
    canary = canary_input(context.instance, platform, model, backend.release, backend.columns)
    return Computation(outcomes, lambda _: [canary])


def _try(
    context: dg.AssetExecutionContext, platform: Platform, library: LibraryManifest, model: str, size: int
) -> CanaryReport:
    return run_canary(
        platform.store,
        library,
        model,
        size,
        settings=platform.settings,
        on_progress=platform.progress(context.log, 2 * min(size, library.molecules)),
    )

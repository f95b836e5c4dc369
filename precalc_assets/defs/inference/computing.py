"""The choice of where raw predictions and canaries are computed: in the run itself, or on GitHub's runners.

A run's configuration decides, or else PRECALC_COMPUTE. `on_github` follows GitHub's runners.
"""

from collections.abc import Callable, Iterable
from enum import Enum

import dagster as dg

from precalc_assets.defs.inference.on_github import compute_on_github, try_on_github
from precalc_assets.defs.resources import Platform
from precalc_assets.inference import CanaryReport, open_backend, open_model, predict_shards, run_canary
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason


class Compute(Enum):
    """Where to compute: in this run, or on GitHub's runners."""

    local = "local"
    github = "github"


ComputeShards = Callable[[dg.AssetExecutionContext, Platform, str, list[str]], Iterable[ShardOutcome]]
RunCanary = Callable[[dg.AssetExecutionContext, Platform, str, int], CanaryReport]


def shards_computed(compute: Compute | None, platform: Platform) -> ComputeShards:
    """Return the function that computes a model's shards at the run's place, or else the settings'."""
    return _compute if (compute or Compute(platform.settings.compute)) is Compute.local else compute_on_github


def canary_run(compute: Compute | None, platform: Platform) -> RunCanary:
    """Return the function that runs a model's canary at the run's place, or else the settings'."""
    return _try if (compute or Compute(platform.settings.compute)) is Compute.local else try_on_github


def _compute(
    context: dg.AssetExecutionContext, platform: Platform, model: str, shards: list[str]
) -> Iterable[ShardOutcome]:
    settings, library = platform.settings, platform.library()
    try:
        backend = open_backend(open_model(model, settings), settings)
    except FAILURES as error:
        return [ShardOutcome(shard, failure=reason(error)) for shard in shards]
    return predict_shards(
        platform.store,
        library,
        model,
        backend,
        shards,
        batch_size=settings.batch_size,
        max_failure_rate=settings.max_failure_rate,
        on_progress=platform.progress(context.log, sum(library.shards[shard].rows for shard in shards)),
    )


def _try(context: dg.AssetExecutionContext, platform: Platform, model: str, size: int) -> CanaryReport:
    library = platform.library()
    return run_canary(
        platform.store,
        library,
        model,
        size,
        settings=platform.settings,
        on_progress=platform.progress(context.log, 2 * min(size, library.molecules)),
    )

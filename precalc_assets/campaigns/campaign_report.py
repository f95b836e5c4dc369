"""What a person reads of a campaign, in the command `campaign status` and on the campaign's page in Dagster."""

from collections.abc import Sequence
from typing import get_args

from obstore.store import ObjectStore

from precalc_assets.campaigns.campaign_plan import Standing
from precalc_assets.campaigns.campaign_records import Campaign, Progress
from precalc_assets.campaigns.campaign_tick import count_landed
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.settings import Settings

HEAD = ("model", "standing", "hours", "dollars", "memory", "disk", "shards", "spent")


def report_models(
    store: ObjectStore, settings: Settings, progress: Progress
) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Return for each model its cells under HEAD, and the reasons why it is not computed, or what its canary warns of.

    What runs comes first, then what waits, in the order in which it is launched.
    """
    order = get_args(Standing)
    models = sorted(progress.models.items(), key=lambda item: order.index(item[1].standing))
    rows: list[tuple[Sequence[str], Sequence[str]]] = []
    for model, each in models:
        report = find_report(store, model) if each.hours is not None else None
        memory = disk = hours = dollars = "–"
        landed, whys = each.landed, [each.why] if each.why else []
        if each.hours is not None:
            hours, dollars = f"{each.hours:,.2f}", f"${each.hours * settings.runner_price:,.2f}"
        if report:
            memory = f"{report.peak_memory / (1 << 20):,.0f} MB" if report.peak_memory else memory
            if report.bytes_per_molecule and report.run:
                disk = f"{report.bytes_per_molecule * report.run.molecules / 1e9:,.2f} GB"
            if each.standing == "computing":
                landed = count_landed(store, report, settings.n_shards)
            if each.standing == "ready" and not whys:
                whys = [f"{check.name}: {check.description}" for check in report.checks if not check.passed]
        shards = f"{landed}/{settings.n_shards}"
        rows.append(((model, each.standing, hours, dollars, memory, disk, shards, f"{each.spent_hours:,.2f}"), whys))
    return rows


def next_command(campaign: Campaign, progress: Progress | None) -> str:
    """Return the command by which a person lets the campaign go on, empty if it needs none."""
    if progress is None or campaign.end.read():
        return ""
    if progress.held:
        return "`precalc campaign resume` goes on"
    if progress.phase == "approval":
        return f"the canaries have ended; `precalc campaign approve` launches what is ready: {describe_ready(progress)}"
    return ""


def describe_ready(progress: Progress) -> str:
    """Return how many models wait to be launched, and their hours."""
    hours = [each.hours or 0.0 for each in progress.models.values() if each.standing == "ready"]
    return f"{len(hours)} models, {sum(hours):,.2f} hours"

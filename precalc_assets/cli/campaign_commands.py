"""`precalc campaign …`: starts and steers a campaign, and shows how far it is.

The commands write and read records of the store. Dagster's sensor `campaign` does the work.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from precalc.cli.terminal import PlainConsole, say, show
from precalc.errors import UsageError
from precalc.identifiers import check_model_id
from precalc_assets.campaigns.campaign_records import (
    Approval,
    Campaign,
    Pause,
    Progress,
    Stop,
    find_latest,
    find_unfinished,
    start_campaign,
)
from precalc_assets.campaigns.campaign_tick import count_landed
from precalc_assets.models.hub_registry import read_registry
from precalc_assets.platform import Platform, open_platform
from precalc_assets.platform_errors import CampaignError
from precalc_assets.predictions.canary_report import find_report

app = typer.Typer()

_QUIET = timedelta(minutes=5)
"""Without a tick for this long, Dagster is probably not running."""


@app.command()
def start(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Model ids.")] = None,
    file: Annotated[Path | None, typer.Option(help="File of model ids, one a line; # begins a comment.")] = None,
    ready: Annotated[bool, typer.Option("--ready", help="All models of the hub that may be computed.")] = False,
    budget_hours: Annotated[float | None, typer.Option(help="Budget in runner-hours.")] = None,
    budget_dollars: Annotated[float | None, typer.Option(help="Budget in dollars, at PRECALC_RUNNER_PRICE.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models to compute at a time.")] = 2,
    pin: Annotated[
        list[str] | None, typer.Option(help="A model to compute before all others; may be repeated.")
    ] = None,
) -> None:
    """Start a campaign: canaries first, then, once approved, all shards of the models within the budget."""
    platform = open_platform()
    chosen = [*(models or ()), *(_read_file(file) if file else ())]
    if ready:
        chosen += read_registry(platform.settings).computable(platform.settings)
    campaign = start_campaign(
        platform.store,
        chosen,
        pinned=pin or (),
        budget_hours=budget_hours,
        budget_dollars=budget_dollars,
        jobs=jobs,
        price=platform.settings.runner_price,
    )
    show(campaign.id)
    say(
        f"{len(campaign.intent.models)} models; Dagster's sensor campaign runs their canaries first, and must be "
        "running; next: precalc campaign status"
    )


@app.command()
def approve() -> None:
    """Approve the canaries' report: the models that passed are launched."""
    campaign = _unfinished()
    progress = campaign.progress.read()
    if campaign.approval.read():
        raise CampaignError(
            f"campaign {campaign.id} is approved already; `precalc campaign status` shows how far it is"
        )
    if progress is None or progress.phase != "approval":
        raise CampaignError(
            f"campaign {campaign.id} cannot be approved yet: its canaries have not all ended; "
            "`precalc campaign status` shows them"
        )
    campaign.approval.create(Approval(approved_at=datetime.now(UTC)))
    show(f"campaign {campaign.id}: approved; {_ready(progress)}")


@app.command()
def pause() -> None:
    """Launch nothing new; what runs goes on."""
    campaign = _unfinished()
    campaign.pause.put(Pause(paused=True, changed_at=datetime.now(UTC)))
    show(f"campaign {campaign.id}: paused; `precalc campaign resume` goes on")


@app.command()
def resume() -> None:
    """Go on after a pause, or after failures of the infrastructure that have paused the campaign."""
    campaign = _unfinished()
    campaign.pause.put(Pause(paused=False, changed_at=datetime.now(UTC)))
    show(f"campaign {campaign.id}: resumed")


@app.command()
def stop() -> None:
    """Cancel all that runs, and end the campaign; finished work is kept."""
    campaign = _unfinished()
    campaign.stop.create(Stop(requested_at=datetime.now(UTC)))
    show(f"campaign {campaign.id}: stopping; Dagster's sensor campaign cancels its runs within a minute")


@app.command()
def status() -> None:
    """Show the campaign's budget, and each model: what it takes by its canary, how far it is, and why."""
    platform = open_platform()
    campaign = find_latest(platform.store)
    if campaign is None:
        raise CampaignError("there is no campaign in this store; start one: `precalc campaign start`")
    progress = campaign.progress.read()
    show(campaign.headline(platform.settings.runner_price))
    if progress is None:
        return
    PlainConsole().print(_table(platform, progress))
    for model, each in progress.models.items():
        for why in [each.why] if each.why else _warnings(platform, model) if each.standing == "ready" else ():
            show(f"{model} {each.standing}: {why}")
    if progress.held:
        show("`precalc campaign resume` goes on")
    if progress.phase == "approval":
        show(f"the canaries have ended; `precalc campaign approve` launches what is ready: {_ready(progress)}")
    if not campaign.end.read() and datetime.now(UTC) - progress.seen_at > _QUIET:
        say(f"as of {progress.seen_at:%Y-%m-%d %H:%M} UTC; Dagster's sensor campaign has not run since: is Dagster up?")


def _table(platform: Platform, progress: Progress) -> Table:
    """Return a table of what each model takes by its canary, and how far it is."""
    table = Table("model", "", box=None, pad_edge=False)
    for name in ("hours", "dollars", "memory", "disk", "shards", "spent"):
        table.add_column(name, justify="right")
    for model, each in progress.models.items():
        report = find_report(platform.store, model) if each.hours is not None else None
        memory = disk = "–"
        landed = each.landed
        if report:
            memory = f"{report.peak_memory / (1 << 20):,.0f} MB" if report.peak_memory else memory
            if report.bytes_per_molecule and report.run:
                disk = f"{report.bytes_per_molecule * report.run.molecules / 1e9:,.2f} GB"
            if each.standing == "computing":
                landed = count_landed(platform.store, report, platform.settings.n_shards)
        hours, dollars = ("–", "–") if each.hours is None else _cost(each.hours, platform)
        shards = f"{landed}/{platform.settings.n_shards}"
        table.add_row(model, each.standing, hours, dollars, memory, disk, shards, f"{each.spent_hours:,.2f}")
    return table


def _warnings(platform: Platform, model: str) -> list[str]:
    """Return what a person should know of a model that has passed its canary."""
    report = find_report(platform.store, model)
    return [f"{check.name}: {check.description}" for check in report.checks if not check.passed] if report else []


def _cost(hours: float, platform: Platform) -> tuple[str, str]:
    return f"{hours:,.2f}", f"${hours * platform.settings.runner_price:,.2f}"


def _ready(progress: Progress) -> str:
    hours = [each.hours or 0.0 for each in progress.models.values() if each.standing == "ready"]
    return f"{len(hours)} models, {sum(hours):,.2f} hours"


def _unfinished() -> Campaign:
    campaign = find_unfinished(open_platform().store)
    if campaign is None:
        raise CampaignError("no campaign is under way; start one: `precalc campaign start`")
    return campaign


def _read_file(path: Path) -> list[str]:
    """Return the model ids in a file. Raises UsageError if it cannot be read, or a line is not a model id."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"{path} cannot be read: {why}; give a file of model ids, one a line") from None
    models: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        try:
            models += [check_model_id(text)] if text else []
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
    if not models:
        raise UsageError(f"{path} names no model; write one model id a line")
    return models

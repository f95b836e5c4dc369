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
    Stop,
    find_latest,
    find_unfinished,
    start_campaign,
)
from precalc_assets.campaigns.campaign_report import HEAD, describe_ready, next_command, report_models
from precalc_assets.models.hub_registry import read_registry
from precalc_assets.platform import open_platform
from precalc_assets.platform_errors import CampaignError

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
    show(f"campaign {campaign.id}: approved; {describe_ready(progress)}")


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
    rows = report_models(platform.store, platform.settings, progress)
    table = Table(*HEAD[:2], box=None, pad_edge=False)
    for name in HEAD[2:]:
        table.add_column(name, justify="right")
    for cells, _ in rows:
        table.add_row(*cells)
    PlainConsole().print(table)
    for (model, standing, *_), whys in rows:
        for why in whys:
            show(f"{model} {standing}: {why}")
    if command := next_command(campaign, progress):
        show(command)
    if not campaign.end.read() and datetime.now(UTC) - progress.seen_at > _QUIET:
        say(f"as of {progress.seen_at:%Y-%m-%d %H:%M} UTC; Dagster's sensor campaign has not run since: is Dagster up?")


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

"""`precalc models` and `precalc status`: the models and their progress."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from rich.table import Table

from precalc.cli.served_models import models_table, yes_or_no
from precalc.cli.terminal import PlainConsole, show
from precalc.identifiers import check_model_id
from precalc.source import name_variation
from precalc_assets.emptied_cells import describe_emptied, merge_emptied
from precalc_assets.inference.canary import CANARY_SIZE
from precalc_assets.inference.opening import find_known, list_known
from precalc_assets.model_progress import find_entry, find_progress
from precalc_assets.models.hub_registry import read_registry
from precalc_assets.platform import open_platform
from precalc_assets.platform_errors import ModelError, PrecalcError
from precalc_assets.predictions.canary_report import CanaryReport
from precalc_assets.predictions.shard_manifest import RawManifest
from precalc_assets.settings import Settings, load_settings
from precalc_assets.sharding import format_shards
from precalc_assets.tables import LIBRARY, REGISTRY


def models() -> None:
    """Print a table of the models that can be run here or are served."""
    platform = open_platform()
    settings, tables = platform.settings, platform.tables
    table = models_table()
    runnable = list_known(settings)
    for name in sorted({*runnable, *tables.list_tables()} - {LIBRARY, REGISTRY}):
        entry = find_entry(tables, name)
        card = entry.card if entry else None
        releases = ", ".join(entry.releases) if entry else ""
        try:
            if name in runnable:
                folder = find_known(name, settings)
                release = folder.metadata.release
                differs = f", served: {releases}" if releases not in ("", release) else ""
                said = (folder.metadata.title, str(len(folder.columns)), release + differs)
            elif card:
                said = (card.metadata.title, str(len(card.columns)), releases)
            else:
                said = ("served, not published", "–", releases or "–")
        except PrecalcError as error:
            table.add_row(name, f"cannot be used: {error}")
            continue
        table.add_row(
            name,
            *said,
            f"{len(entry.directories)}/{settings.n_shards}" if entry else "–",
            f"{entry.molecules:,}" if entry else "–",
            yes_or_no(entry.deterministic if entry else None),
        )
    PlainConsole().print(table)


def hub_models() -> None:
    """Print a table of the models in the hub's registry, and below it why some are not computed, or what to know."""
    settings = load_settings()
    registry = read_registry(settings)
    rows = [model.row(settings) for model in registry.models]
    notes = [f"{row['model']}: {note}" for row in rows if (note := row.pop("note"))]
    table = Table(*(rows[0] if rows else ()), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    PlainConsole().print(table)
    for line in (*notes, *registry.unreadable, registry.describe(settings)):
        show(line)


def status(model: str) -> None:
    """Print how many shards of a model each stage has, and which are missing or stale."""
    platform = open_platform()
    check_model_id(model)
    settings = platform.settings
    library = platform.library().shards
    progress = find_progress(platform, model)
    raw, directories = progress.raw, progress.entry.directories if progress.entry else {}
    stale = [shard for shard in raw if raw[shard].shard_digest != library[shard].digest]
    outdated = [each for each in progress.served if each in raw and raw[each].digest != directories[each].built_from]
    if not progress.manifests and not progress.served and model not in list_known(settings):
        find_known(model, settings)
    table = Table("stage", "shards", "missing", box=None, pad_edge=False)
    done = {"raw predictions": raw, "predictions": progress.predicted, "prediction table": progress.served}
    for stage, there in done.items():
        missing = format_shards(set(library).difference(there))
        table.add_row(stage, f"{len(there)}/{len(library)}", missing or "–")
    console = PlainConsole()
    console.print(table)
    console.print(f"{progress.quarantined:,} molecules quarantined")
    console.print(describe_emptied(merge_emptied(each for manifest in raw.values() for each in manifest.emptied)))
    console.print(_canary_line(model, progress.report))
    for line in _mixture_lines(model, raw, _release(model, settings, raw, progress.report)):
        console.print(line)
    if stale:
        console.print(f"of an earlier library: {format_shards(stale)}; run `precalc predict {model}`")
    if outdated:
        console.print(f"served from earlier raw predictions: {format_shards(outdated)}; run `precalc load {model}`")
    for shard, why in progress.failed.items():
        console.print(f"shard {shard}: {why}")


def _release(model: str, settings: Settings, raw: Mapping[str, RawManifest], report: CanaryReport | None) -> str | None:
    """Return the release of a model's folder; without a folder, the release of the latest run."""
    if model in list_known(settings):
        try:
            return find_known(model, settings).metadata.release
        except ModelError:
            return None
    runs: list[RawManifest | CanaryReport] = [*raw.values(), *filter(None, [report])]
    return max(runs, key=lambda run: run.finished_at).release if runs else None


def _mixture_lines(model: str, raw: Mapping[str, RawManifest], release: str | None) -> Iterator[str]:
    """Yield lines on shards of other releases, and on shards of one release from different environments."""
    others, made_in = defaultdict(list), defaultdict(list)
    for shard, manifest in raw.items():
        if release not in (None, manifest.release):
            others[manifest.release].append(shard)
        if manifest.environment:
            made_in[manifest.release, manifest.environment].append(shard)
    for other, shards in others.items():
        yield f"of an earlier release ({other}): {format_shards(shards)}; run `precalc predict {model}`"
    if len(made_in) > len({of for of, _ in made_in}):
        named = (f"{environment}: {format_shards(shards)}" for (_, environment), shards in sorted(made_in.items()))
        yield f"computed in different environments: {'; '.join(named)}"


def _canary_line(model: str, report: CanaryReport | None) -> str:
    if report is None:
        return f"canary: not run; run `precalc predict {model} --sample {CANARY_SIZE}`"
    if report.broken:
        said = "; ".join(f"{check.name} failed: {check.description}" for check in report.broken)
    elif report.deterministic is False:
        said = f"predictions vary between runs, in {name_variation(report.varying)}"
    else:
        said = "passed, predictions are the same in every run"
    return f"canary of {report.release}: {said}"

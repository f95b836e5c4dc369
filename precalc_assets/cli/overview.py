"""`precalc models` and `precalc status`: the models and their progress."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.table import Table

from precalc.cli.served_models import models_table, yes_or_no
from precalc.identifiers import check_model_id
from precalc_assets.cards import ModelCard, find_card, name_variation
from precalc_assets.inference import CANARY_SIZE, CanaryReport, find_known, find_report, list_known
from precalc_assets.library import read_manifest, require_shards
from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import ModelError, PrecalcError, TableError
from precalc_assets.predictions import RawManifest, find_manifest
from precalc_assets.settings import Settings, load_settings
from precalc_assets.sharding import format_shards, shard_keys
from precalc_assets.storage import list_sizes, open_store, predictions
from precalc_assets.tables import LIBRARY, REGISTRY, Directory, KeyValueStore, TableReader, open_tables


def models() -> None:
    """Print a table of the models that can be run here or are served."""
    settings = load_settings()
    tables = open_tables(settings.tables_url)
    table = models_table()
    runnable = list_known(settings)
    for name in sorted({*runnable, *tables.list_tables()} - {LIBRARY, REGISTRY}):
        served = _directories(tables, name).values()
        releases = ", ".join(sorted({shard.release for shard in served}))
        card = _find_card(tables, name)
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
            f"{len(served)}/{settings.n_shards}" if served else "–",
            f"{sum(shard.rows for shard in served):,}" if served else "–",
            yes_or_no(card.deterministic if card else None),
        )
    Console(markup=False, emoji=False).print(table)


def status(model: str) -> None:
    """Print how many shards of a model each stage has, and which are missing or stale."""
    settings = load_settings()
    check_model_id(model)
    store = open_store(settings.store_url)
    library = require_shards(read_manifest(store), settings.n_shards)
    shards = shard_keys(settings.n_shards)
    raw: dict[str, RawManifest] = {}
    damaged = {}
    for shard in shards:
        try:
            manifest = find_manifest(store, model, shard)
        except PrecalcError as error:
            damaged[shard] = reason(error)
            continue
        if manifest:
            raw[shard] = manifest
    stale = [shard for shard in raw if raw[shard].shard_digest != library.shards[shard].digest]
    listed = list_sizes(store, f"predictions/model={model}")
    parquet = [shard for shard in shards if predictions(model, shard) in listed]
    tables = open_tables(settings.tables_url)
    directories = _directories(tables, model)
    served = [shard for shard in shards if shard in directories]
    outdated = [shard for shard in served if shard in raw and raw[shard].digest != directories[shard].built_from]
    if not raw and not served and model not in list_known(settings):
        find_known(model, settings)
    table = Table("stage", "shards", "missing", box=None, pad_edge=False)
    for stage, there in (("raw predictions", raw), ("predictions", parquet), ("prediction table", served)):
        table.add_row(stage, f"{len(there)}/{len(shards)}", format_shards(_without(shards, there)) or "–")
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"{sum(manifest.quarantined for manifest in raw.values()):,} molecules quarantined")
    report = find_report(store, model)
    console.print(_canary_line(model, report))
    for line in _mixture_lines(model, raw, _release(model, settings, raw, report)):
        console.print(line)
    if stale:
        console.print(f"of an earlier library: {format_shards(stale)}; run `precalc predict {model}`")
    if outdated:
        console.print(f"served from earlier raw predictions: {format_shards(outdated)}; run `precalc load {model}`")
    for shard, why in damaged.items():
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
    """Return a line on the canary's result, or on how to run it."""
    if report is None:
        return f"canary: not run; run `precalc predict {model} --sample {CANARY_SIZE}`"
    if report.broken:
        said = "; ".join(f"{check.name} failed: {check.description}" for check in report.broken)
    elif report.deterministic is False:
        said = f"predictions vary between runs, in {name_variation(report.varying)}"
    else:
        said = "passed, predictions are the same in every run"
    return f"canary of {report.release}: {said}"


def _find_card(tables: KeyValueStore, model: str) -> ModelCard | None:
    """Return a model's card, None if it has none; a damaged one is None with a warning."""
    try:
        return find_card(tables, model)
    except TableError as error:
        print(f"warning: {error}", file=sys.stderr)
        return None


def _directories(tables: KeyValueStore, model: str) -> dict[str, Directory]:
    """Return the directories of a model's table; none if there is no table or it was never loaded."""
    try:
        return TableReader(tables, model).directories() if tables.has_table(model) else {}
    except TableError:
        return {}


def _without(shards: Iterable[str], there: Iterable[str]) -> list[str]:
    present = set(there)
    return [shard for shard in shards if shard not in present]

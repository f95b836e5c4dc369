"""`precalc models` and `precalc status`: what can be run, and how far it is."""

from collections.abc import Iterable

from obstore.store import ObjectStore
from rich.console import Console
from rich.table import Table

from precalc_assets.cards import find_card, name_variation
from precalc_assets.cli.report import name_shards
from precalc_assets.errors import PrecalcError, TableError
from precalc_assets.inference import find_model, find_report, list_models
from precalc_assets.library import read_manifest, require_shards
from precalc_assets.model_ids import check_model_id
from precalc_assets.outcomes import reason
from precalc_assets.predictions import find_manifest
from precalc_assets.settings import load_settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import list_sizes, open_store, predictions
from precalc_assets.tables import LIBRARY, REGISTRY, Directory, KeyValueStore, TableReader, open_tables


def models() -> None:
    """Print a table of models: those that can be run here, with what of them is served, and those served alone."""
    settings = load_settings()
    tables = open_tables(settings.tables_url)
    table = Table(box=None, pad_edge=False)
    for name in ("model", "title", "columns", "release", "shards", "molecules", "deterministic"):
        table.add_column(name)
    runnable = list_models(settings.model_folders)
    for name in sorted({*runnable, *tables.list_tables()} - {LIBRARY, REGISTRY}):
        try:
            card = find_card(tables, name)
            if name in runnable:
                folder = find_model(name, settings.model_folders)
                said = (folder.metadata.title, str(len(folder.columns)), folder.metadata.release)
            elif card:
                said = (card.title, str(len(card.columns)), ", ".join(card.releases))
            else:
                said = ("served, not published", "–", "–")
        except PrecalcError as error:
            table.add_row(name, f"cannot be used: {error}")
            continue
        served = _directories(tables, name).values()
        table.add_row(
            name,
            *said,
            f"{len(served)}/{settings.n_shards}" if served else "–",
            f"{sum(shard.rows for shard in served):,}" if served else "–",
            _yes_or_no(card.deterministic if card else None),
        )
    Console(markup=False, emoji=False).print(table)


def status(model: str) -> None:
    """Print how many shards of a model are at each stage, and which are missing or out of date."""
    settings = load_settings()
    check_model_id(model)
    store = open_store(settings.store_url)
    library = require_shards(read_manifest(store), settings.n_shards)
    shards = shard_keys(settings.n_shards)
    raw: dict[str, str] = {}
    stale, damaged, quarantined = [], {}, 0
    for shard in shards:
        try:
            manifest = find_manifest(store, model, shard)
        except PrecalcError as error:
            damaged[shard] = reason(error)
            continue
        if manifest:
            raw[shard] = manifest.digest
            quarantined += manifest.quarantined
            if manifest.shard_digest != library.shards[shard].digest:
                stale.append(shard)
    listed = list_sizes(store, f"predictions/model={model}")
    parquet = [shard for shard in shards if predictions(model, shard) in listed]
    tables = open_tables(settings.tables_url)
    directories = _directories(tables, model)
    served = [shard for shard in shards if shard in directories]
    outdated = [shard for shard in served if raw.get(shard, "") not in ("", directories[shard].built_from)]
    if not raw and not served and model not in list_models(settings.model_folders):
        find_model(model, settings.model_folders)
    table = Table("stage", "shards", "missing", box=None, pad_edge=False)
    for stage, there in (("raw predictions", raw), ("predictions", parquet), ("prediction table", served)):
        table.add_row(stage, f"{len(there)}/{len(shards)}", name_shards(_without(shards, there)) or "–")
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"{quarantined:,} molecules quarantined")
    console.print(_canary_line(store, model))
    if stale:
        console.print(f"of an earlier library: {name_shards(stale)}; run `precalc predict {model}`")
    if outdated:
        console.print(f"served from earlier raw predictions: {name_shards(outdated)}; run `precalc serve {model}`")
    for shard, why in damaged.items():
        console.print(f"shard {shard}: {why}")


def _canary_line(store: ObjectStore, model: str) -> str:
    """Say what the canary found out; or how to run it."""
    report = find_report(store, model)
    if report is None:
        return f"canary: not run; run `precalc predict {model} --sample 100`"
    if report.broken:
        said = "; ".join(f"{check.name} failed: {check.description}" for check in report.broken)
    elif report.deterministic is False:
        said = f"predictions vary between runs, in {name_variation(report.varying)}"
    else:
        said = "passed, predictions are the same in every run"
    return f"canary of {report.release}: {said}"


def _yes_or_no(answer: bool | None) -> str:
    return "–" if answer is None else "yes" if answer else "no"


def _directories(tables: KeyValueStore, model: str) -> dict[str, Directory]:
    """Return what a model's table holds; nothing where there is none, or one that was never loaded into."""
    try:
        return TableReader(tables, model).directories() if tables.has_table(model) else {}
    except TableError:
        return {}


def _without(shards: Iterable[str], there: Iterable[str]) -> list[str]:
    present = set(there)
    return [shard for shard in shards if shard not in present]

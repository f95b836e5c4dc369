"""`precalc models` and `precalc status`: what can be run, and how far it is."""

from collections.abc import Iterable

import obstore
from rich.console import Console
from rich.table import Table

from precalc_assets.cards import published_cards
from precalc_assets.cli.report import name_shards
from precalc_assets.errors import PrecalcError, TableError
from precalc_assets.inference import find_model, list_models
from precalc_assets.library import read_manifest
from precalc_assets.model_ids import check_model_id
from precalc_assets.outcomes import reason
from precalc_assets.predictions import find_manifest
from precalc_assets.settings import load_settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store, predictions
from precalc_assets.tables import TableReader, open_tables


def models() -> None:
    """Print a table of models: those that can be run here, with what is published of them."""
    settings = load_settings()
    names = list_models(settings.model_folders)
    cards = published_cards(open_tables(settings.tables_url), names)
    table = Table(
        "model", "title", "columns", "release", "shards", "molecules", "quarantined", box=None, pad_edge=False
    )
    for name in names:
        try:
            folder = find_model(name, settings.model_folders)
        except PrecalcError as error:
            table.add_row(name, f"cannot be used: {error}")
            continue
        card = cards.get(name)
        table.add_row(
            name,
            folder.metadata.title,
            str(len(folder.columns)),
            folder.metadata.release,
            f"{len(card.shards)}/{card.n_shards}" if card else "–",
            f"{card.molecules:,}" if card else "–",
            f"{card.quarantined:,}" if card else "–",
        )
    Console().print(table)


def status(model: str) -> None:
    """Print how many shards of a model are at each stage, and which are missing or out of date."""
    settings = load_settings()
    check_model_id(model)
    store = open_store(settings.store_url)
    library = read_manifest(store)
    shards = shard_keys(settings.n_shards)
    raw, stale, damaged, quarantined = [], [], {}, 0
    for shard in shards:
        try:
            manifest = find_manifest(store, model, shard)
        except PrecalcError as error:
            damaged[shard] = reason(error)
            continue
        if manifest:
            raw.append(shard)
            quarantined += manifest.quarantined
            if manifest.library_digest != library.shards[shard].digest:
                stale.append(shard)
    listed = {entry["path"] for chunk in obstore.list(store, f"predictions/model={model}") for entry in chunk}
    parquet = [shard for shard in shards if predictions(model, shard) in listed]
    tables = open_tables(settings.tables_url)
    try:
        served = list(TableReader(tables, model).directories()) if tables.has_table(model) else []
    except TableError:
        served = []
    if not raw and not served and model not in list_models(settings.model_folders):
        find_model(model, settings.model_folders)
    table = Table("stage", "shards", "missing", box=None, pad_edge=False)
    for stage, there in (("raw predictions", raw), ("predictions", parquet), ("prediction table", served)):
        table.add_row(stage, f"{len(there)}/{len(shards)}", name_shards(_without(shards, there)) or "–")
    console = Console()
    console.print(table)
    console.print(f"{quarantined:,} molecules quarantined")
    if stale:
        console.print(f"of an earlier library: {name_shards(stale)}; run `precalc predict {model}`")
    for shard, why in damaged.items():
        console.print(f"shard {shard}: {why}")


def _without(shards: Iterable[str], there: Iterable[str]) -> list[str]:
    present = set(there)
    return [shard for shard in shards if shard not in present]

"""The commands that work on this machine without Dagster: `library build`, `predict`, `load` and `drop`."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore

from precalc.cli.progress_bar import progress
from precalc.identifiers import check_model_id
from precalc.progress import OnProgress
from precalc_assets.cards.publishing import publish, warn_of_licence
from precalc_assets.cli.durations import parse_duration
from precalc_assets.cli.report import Tally
from precalc_assets.inference import find_known, find_report, open_backend, open_model, predict_shards
from precalc_assets.library import (
    LibraryManifest,
    build_library,
    ensure_source,
    fetch_source,
    put_source,
    read_manifest,
    require_shards,
)
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.predictions import load_library_shards, load_shards, validate_shards
from precalc_assets.settings import load_settings
from precalc_assets.sharding import format_shards, parse_shards
from precalc_assets.storage import open_store
from precalc_assets.tables import missing_table, open_tables


def build(path: Path | None) -> None:
    """Build the library from a file, or rebuild it from the store's, and load its table."""
    settings = load_settings()
    store = open_store(settings.store_url)
    with TemporaryDirectory(prefix="precalc-") as folder:
        if path is None:
            ensure_source(store)
            source = fetch_source(store, Path(folder))
        else:
            source = path
        with _row_progress("library") as on_progress:
            manifest = build_library(
                store, source, n_shards=settings.n_shards, processes=settings.processes, on_progress=on_progress
            )
        if path is not None:
            put_source(store, path)
    report_library(manifest)
    tally = Tally()
    outcomes = tally.watch(load_library_shards(store, open_tables(settings.tables_url), manifest, manifest.shards))
    for _ in outcomes:
        pass
    tally.finish("library table")


@contextmanager
def _row_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a task that reports the rows done and their total."""
    with ExitStack() as stack:
        bar: OnProgress | None = None
        seen = 0

        def advance(done: int, total: int) -> None:
            nonlocal bar, seen
            bar = bar or stack.enter_context(progress(title, total, "rows"))
            bar(done - seen, 0)
            seen = done

        yield advance


def report_library(manifest: LibraryManifest) -> None:
    """Print counts of the library file's rows."""
    print(
        f"library: {manifest.source}, {manifest.rows:,} rows, {manifest.rejected:,} rejected, "
        f"{manifest.duplicates:,} duplicates, "
        f"{manifest.molecules:,} molecules in {manifest.n_shards} shards, {manifest.seconds:.1f} s",
        file=sys.stderr,
    )


def predict(
    model: str,
    shards: str | None,
    until: str | None,
    *,
    on_outcome: Callable[[ShardOutcome], None] = lambda _: None,
) -> None:
    """Compute raw predictions with a progress bar; call `on_outcome` with each shard's outcome."""
    started = time.monotonic()
    settings = load_settings()
    deadline = started + (math.inf if until is None else parse_duration(until))
    chosen = parse_shards(shards, settings.n_shards)
    folder = open_model(model, settings)
    store = open_store(settings.store_url)
    library = _library()
    tally = Tally()
    with progress(f"predict {model}", sum(library.shards[shard].rows for shard in chosen)) as on_progress:
        outcomes = predict_shards(
            store,
            library,
            model,
            open_backend(folder, settings),
            chosen,
            batch_size=settings.batch_size,
            max_failure_rate=settings.max_failure_rate,
            deadline=deadline,
            on_progress=on_progress,
        )
        for outcome in tally.watch(outcomes):
            on_outcome(outcome)
    if tally.unfinished:
        print(
            f"predict {model}: time budget spent (--until {until}), {len(tally.unfinished)} shards left "
            f"({format_shards(tally.unfinished)}); the same command continues",
            file=sys.stderr,
        )
    tally.finish(f"predict {model}", "the other shards are kept; the same command retries these")
    if not tally.unfinished:
        print(f"next: precalc load {model}", file=sys.stderr)


def load(model: str, shards: str | None) -> None:
    """Validate and load shards, then publish the model's card, even if some shards fail."""
    settings = load_settings()
    loaded = _load(model, shards)
    if loaded.landed:
        try:
            publish(open_store(settings.store_url), open_tables(settings.tables_url), model, settings)
        except FAILURES as error:
            why = f"loaded, but the card of {model} is not published: {reason(error)}"
            loaded.failures[why] = loaded.landed
    loaded.finish(f"load {model}", "the other shards are loaded")


def load_for_job(model: str, shards: str | None) -> None:
    """Validate and load shards in one of several concurrent jobs; another job publishes the card."""
    _load(model, shards).finish(f"load {model}", "the other shards are loaded")


def _load(model: str, shards: str | None) -> Tally:
    """Validate shards and load those that pass."""
    settings = load_settings()
    check_model_id(model)
    chosen = parse_shards(shards, settings.n_shards)
    store, tables = open_store(settings.store_url), open_tables(settings.tables_url)
    if next(iter(obstore.list(store, f"raw/model={model}")), None) is None:
        find_known(model, settings)
    validated, loaded = Tally(), Tally()
    loaded.failures = validated.failures
    with progress(f"validate {model}", len(chosen), "shards") as on_progress:
        outcomes = validate_shards(
            store,
            _library(),
            model,
            chosen,
            max_failure_rate=settings.max_failure_rate,
            canary=find_report(store, model),
        )
        for _ in validated.watch(outcomes):
            on_progress(1, 0)
    validated.warn(f"load {model}")
    warn_of_licence(store, model, settings)
    with progress(f"load {model}", len(validated.landed), "shards") as on_progress:
        for _ in loaded.watch(load_shards(store, tables, model, validated.landed)):
            on_progress(1, 0)
    return loaded


def drop(model: str) -> None:
    """Drop a model's table. Raises TableError if it has none."""
    check_model_id(model)
    tables = open_tables(load_settings().tables_url)
    if not tables.has_table(model):
        raise missing_table(model)
    tables.drop_table(model)
    print(f"dropped the table of {model}", file=sys.stderr)


def _library() -> LibraryManifest:
    settings = load_settings()
    return require_shards(read_manifest(open_store(settings.store_url)), settings.n_shards)

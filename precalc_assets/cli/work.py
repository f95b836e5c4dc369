"""The commands that work on this machine without Dagster: `library build`, `predict`, `load`, `verify`, `drop`."""

import math
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from precalc.cli.progress_bar import progress
from precalc.cli.terminal import say
from precalc.identifiers import check_model_id
from precalc_assets.cards.publishing import publish, unpublish, warn_of_licence
from precalc_assets.emptied_cells import EmptiedColumn, describe_emptied, merge_emptied
from precalc_assets.inference.opening import find_known, open_model
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform import open_platform
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions.loading import load_library_shards, load_shards, verify_shards
from precalc_assets.sharding import format_shards, parse_shards
from precalc_assets.storage import list_objects
from precalc_assets.tables import LIBRARY, missing_table

_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


class Tally:
    """Counts shard outcomes as they pass."""

    def __init__(self) -> None:
        self.landed: list[str] = []
        self.unfinished: list[str] = []
        self.failures: dict[str, list[str]] = {}
        self.warnings: dict[str, list[str]] = {}
        self.sums: dict[str, float] = {}
        self.emptied: list[EmptiedColumn] = []

    def count(
        self, outcomes: Iterable[ShardOutcome], on_outcome: Callable[[ShardOutcome], None] = lambda _: None
    ) -> None:
        """Count each outcome and tell of it."""
        for outcome in outcomes:
            if outcome.landed:
                self.landed.append(outcome.shard)
                self.emptied += outcome.emptied
                for check in outcome.checks:
                    if not check.passed:
                        self.warnings.setdefault(check.description, []).append(outcome.shard)
                for name, fact in outcome.facts.items():
                    if isinstance(fact, int | float):
                        self.sums[name] = self.sums.get(name, 0.0) + fact
            elif outcome.unfinished:
                self.unfinished.append(outcome.shard)
            else:
                self.failures.setdefault(outcome.failure, []).append(outcome.shard)
            on_outcome(outcome)

    def warn(self, what: str) -> None:
        """Print the checks that shards failed although they landed."""
        for found, shards in self.warnings.items():
            say(f"warning: {what}, shards {format_shards(shards)}: {found}")

    def finish(self, what: str, hint: str = "") -> None:
        """Print what landed, and which cells were emptied. Raises PrecalcError if a shard failed."""
        if self.landed:
            facts = [
                f"{name.replace('_', ' ')} {self.sums[name]:,.{0 if self.sums[name].is_integer() else 1}f}"
                for name in ("rows", "quarantined", "pages", "bytes", "write_units", "seconds")
                if name in self.sums
            ]
            say(f"{what}: {len(self.landed)} shards, {', '.join(facts)}")
        if self.emptied:
            say(f"warning: {what}: {describe_emptied(merge_emptied(self.emptied))}")
        if self.failures:
            raise PrecalcError(failure_lines(self.failures, hint if self.landed else ""))


def failure_lines(failures: dict[str, list[str]], hint: str = "") -> str:
    """Return one line per reason, with the shards that failed for it."""
    lines = [f"shards {format_shards(shards)}: {why}" for why, shards in failures.items()]
    return "\n".join([*lines, hint] if hint else lines)


def build(path: Path | None, column: str | None, *, accept_rejected: bool) -> None:
    """Build the library from a file, or rebuild it from the store's, and load its table."""
    platform = open_platform()
    settings = platform.settings
    manifest = build_library(
        platform.store,
        path,
        n_shards=settings.n_shards,
        processes=settings.processes,
        column=column,
        accept_rejected=accept_rejected,
        show=lambda rows: progress("library", rows, "rows"),
    )
    report_library(manifest)
    tally = Tally()
    tally.count(load_library_shards(platform.store, platform.tables, manifest, manifest.shards))
    tally.finish("library table")


def report_library(manifest: LibraryManifest) -> None:
    """Print counts of the library file's rows."""
    say(
        f"library: {manifest.source}, {manifest.rows:,} rows, {manifest.rejected:,} rejected, "
        f"{manifest.duplicates:,} duplicates, of them {manifest.other_forms:,} other forms, "
        f"{manifest.molecules:,} molecules in {manifest.n_shards} shards, {manifest.seconds:.1f} s"
    )


def predict(
    model: str, shards: str | None, until: str | None, *, on_outcome: Callable[[ShardOutcome], None] = lambda _: None
) -> None:
    """Compute raw predictions with a progress bar; call `on_outcome` with each shard's outcome."""
    started = time.monotonic()
    platform = open_platform()
    deadline = started + (math.inf if until is None else parse_duration(until))
    chosen = parse_shards(shards, platform.settings.n_shards)
    folder = open_model(model, platform.settings)
    library = platform.library()
    tally = Tally()
    with progress(f"predict {model}", sum(library.shards[shard].rows for shard in chosen)) as on_progress:
        tally.count(platform.predict(folder, chosen, on_progress, deadline), on_outcome)
    if tally.unfinished:
        say(
            f"predict {model}: time budget spent (--until {until}), {len(tally.unfinished)} shards left "
            f"({format_shards(tally.unfinished)}); the same command continues"
        )
    tally.finish(f"predict {model}", "the other shards are kept; the same command retries these")
    if not tally.unfinished:
        say(f"next: precalc load {model}")


def load(model: str, shards: str | None, *, with_card: bool = True) -> None:
    """Validate shards, load those that pass, and publish the card, which one of several jobs leaves to a later job."""
    platform = open_platform()
    check_model_id(model)
    store, tables, settings = platform.store, platform.tables, platform.settings
    chosen = parse_shards(shards, settings.n_shards)
    if not list_objects(store, f"raw/model={model}"):
        find_known(model, settings)
    validated, loaded = Tally(), Tally()
    loaded.failures = validated.failures
    with progress(f"validate {model}", len(chosen), "shards") as on_progress:
        validated.count(platform.validate(model, chosen), lambda _: on_progress(1, 0))
    validated.warn(f"load {model}")
    warn_of_licence(store, model, settings)
    with progress(f"load {model}", len(validated.landed), "shards") as on_progress:
        loaded.count(load_shards(store, tables, model, validated.landed), lambda _: on_progress(1, 0))
    if loaded.landed and with_card:
        try:
            publish(store, tables, model, settings)
        except FAILURES as error:
            loaded.failures[f"loaded, but the card of {model} is not published: {reason(error)}"] = loaded.landed
    loaded.finish(f"load {model}", "the other shards are loaded")


def verify(model: str, shards: str | None, *, repair: bool) -> None:
    """Compare a table with the Parquet files. Raises PrecalcError if a shard differs."""
    platform = open_platform()
    tables = platform.tables
    if model != LIBRARY:
        check_model_id(model)
    if not tables.has_table(model):
        raise missing_table(model)
    chosen = parse_shards(shards, platform.settings.n_shards)
    if model != LIBRARY and shards is None:
        files = {item["path"].rpartition("=")[2] for item in list_objects(platform.store, f"predictions/model={model}")}
        in_table = tables.get_many(model, chosen, consistent=True)
        chosen = [shard for shard in chosen if shard in in_table or f"{shard}.parquet" in files]
    tally = Tally()
    with progress(f"verify {model}", len(chosen), "shards") as on_progress:
        outcomes = verify_shards(platform.store, tables, model, chosen, library=platform.library(), repair=repair)
        tally.count(outcomes, lambda _: on_progress(1, 0))
    tally.warn(f"verify {model}")
    tally.finish(f"verify {model}", "the other shards are equal to their files")


def drop(model: str) -> None:
    """Drop a model's table and card. Raises TableError if it has no table."""
    check_model_id(model)
    platform = open_platform()
    if not platform.tables.has_table(model):
        raise missing_table(model)
    unpublish(platform.tables, model, platform.settings)
    say(f"dropped the table and the card of {model}")


def parse_duration(text: str) -> float:
    """Return the seconds in `5h30m`, `45m` or `90s`. Raises UsageError for any other text, and for zero."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UsageError(f"{text!r} is not a duration; write 5h30m, 45m or 90s")
    return float(total)

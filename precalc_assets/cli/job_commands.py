"""`precalc jobs …`: one command for each kind of workflow job. The workflow itself decides nothing.

A job reports through the store: a shard's manifest says that it landed, a record of the execution why it did not. The
platform does not read the job's status on GitHub.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from obstore.store import ObjectStore

from precalc.identifiers import check_model_id
from precalc_assets.cards.publishing import publish
from precalc_assets.cli import canary_commands as sample
from precalc_assets.cli import work
from precalc_assets.cli.report import failure_lines
from precalc_assets.executions import Execution, Run, claim_own
from precalc_assets.inference import CANARY_SIZE, find_report, open_model
from precalc_assets.library import LibraryManifest, read_manifest, require_shards
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions import check_failure_rate, find_manifest
from precalc_assets.settings import Settings, load_settings
from precalc_assets.sharding import format_shards, parse_shards
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables

MOST_JOBS = 256
"""The most jobs that GitHub makes of a matrix ("Actions limits")."""

LOAD_JOBS = 10
"""Jobs that load a table concurrently; the workflow gives each a tenth of a new table's write rate."""


class ShardsLeftError(PrecalcError):
    """An execution has ended without raw predictions of some shards."""


class _Platform(NamedTuple):
    settings: Settings
    store: ObjectStore
    library: LibraryManifest


def plan(model: str, key: str, shards: str, size: int | None, workers: int) -> None:
    """Claim an execution for this run, and print its jobs as lines of `$GITHUB_OUTPUT`.

    The lines are `key`, the execution's key, and `predict` and `load`, JSON lists with the shards of each job. A run
    without a key was started by hand and becomes a new execution. If another run computes the shards, key and lists
    are empty, and no later job starts.
    """
    check_model_id(model)
    platform = _open()
    execution = _claim(platform, model, key, shards, size)
    if execution is None:
        print(f"{key or model}: another run computes or has computed this; nothing to do here", file=sys.stderr)
    wanted = execution.intent.shards if execution else ()
    rows = {shard: platform.library.shards[shard].rows for shard in wanted}
    print(f"key={execution.key if execution else ''}")
    print(f"predict={json.dumps(split_shards(rows, min(workers, MOST_JOBS)))}")
    print(f"load={json.dumps(split_shards(rows, LOAD_JOBS))}")


def split_shards(rows: Mapping[str, int], jobs: int) -> list[str]:
    """Split shards, in order, over at most `jobs` jobs, and return each job's shards, such as `00-06,08`.

    `rows` are the molecules per shard. No job has only empty shards, unless all are.
    """
    filled = sum(count > 0 for count in rows.values())
    split: list[list[str]] = [[] for _ in range(min(jobs, max(1, filled)) if rows else 0)]
    before = 0
    for shard, count in rows.items():
        split[min(before * len(split) // max(1, filled), len(split) - 1)].append(shard)
        before += count > 0
    return [format_shards(part) for part in split]


def canary(key: str) -> None:
    """Run an execution's canary: of its sample size, or of the default size if the release has passed none.

    Raises CanaryFailedError or ModelError if the model should not be run.
    """
    platform = _open()
    execution = _take(platform.store, key)
    if execution is None:
        return
    intent = execution.intent
    try:
        if intent.sample is None and _has_passed(platform, intent.model):
            print(f"canary of {intent.model}: this release has passed it", file=sys.stderr)
        else:
            sample.predict_sample(intent.model, intent.sample or CANARY_SIZE)
    except FAILURES as error:
        for item in intent.items:
            execution.report(ShardOutcome(item, failure=reason(error)))
        raise


def predict(key: str, shards: str, until: str) -> None:
    """Compute shards of an execution, and record the reason of each failure. Raises like `precalc predict`."""
    platform = _open()
    execution = _take(platform.store, key)
    if execution is None:
        return
    left = set(parse_shards(shards, platform.settings.n_shards))

    def tell(outcome: ShardOutcome) -> None:
        execution.report(outcome)
        left.discard(outcome.shard)

    try:
        work.predict(execution.model, shards, until, on_outcome=tell)
    except FAILURES as error:
        for shard in sorted(left):
            tell(ShardOutcome(shard, failure=reason(error)))
        raise


def load(key: str, shards: str) -> None:
    """Validate and load the shards that landed; `report` publishes the card. Raises like `precalc load`.

    This does not check whether the execution is still this run's, since loading a shard twice is harmless.
    """
    platform = _open()
    model = Execution(platform.store, key).intent.model
    chosen = parse_shards(shards, platform.settings.n_shards)
    landed = [shard for shard in chosen if _has_landed(platform, model, shard)]
    if len(landed) < len(chosen):
        missing = format_shards([shard for shard in chosen if shard not in landed])
        print(f"load {model}: skipping shards without raw predictions: {missing}", file=sys.stderr)
    if landed:
        work.load_for_job(model, format_shards(landed))


def report(key: str) -> None:
    """Print in Markdown which shards of an execution landed, and publish the model's card.

    Raises ShardsLeftError if some did not land.
    """
    platform = _open()
    execution = Execution(platform.store, key)
    intent = execution.intent
    left = [shard for shard in intent.shards if not _has_landed(platform, intent.model, shard)]
    done = len(intent.shards) - len(left)
    print(f"**{key}**: {done} of {len(intent.shards)} shards of {intent.model} have raw predictions.\n")
    reasons: dict[str, list[str]] = {}
    for shard in left:
        reasons.setdefault(_why_not(execution, shard), []).append(shard)
    lines = failure_lines(reasons)
    if left:
        print("\n".join(f"- {line}" for line in lines.splitlines()))
        print(
            "\nFinished work is kept, also within these shards. Dagster retries them if it launched this execution; "
            "otherwise run the workflow again for the same model."
        )
    tables = open_tables(platform.settings.tables_url)
    if tables.has_table(intent.model):
        publish(platform.store, tables, intent.model, platform.settings)
    if left:
        raise ShardsLeftError(f"{key} has left {len(left)} of {len(intent.shards)} shards:\n{lines}")


def _open() -> _Platform:
    settings = load_settings()
    if not settings.store_url or not settings.tables_url:
        raise UsageError(
            "PRECALC_STORE_URL or PRECALC_TABLES_URL is empty; set both as variables of the repository: docs/github.md"
        )
    store = open_store(settings.store_url)
    return _Platform(settings, store, require_shards(read_manifest(store), settings.n_shards))


def _claim(platform: _Platform, model: str, key: str, shards: str, size: int | None) -> Execution | None:
    """Return the execution of the key, or a new one without a key; None if another run computes it."""
    run = _this_run()
    if not key:
        chosen = [] if size else parse_shards(shards or None, platform.settings.n_shards)
        return claim_own(platform.store, run, model, platform.library.digest, chosen, sample=size)
    execution = Execution(platform.store, key)
    if execution.intent.model != model:
        raise UsageError(f"{key} is an execution of {execution.model}, not of {model}; leave the key to Dagster")
    return execution if execution.take(run.run_id) else None


def _take(store: ObjectStore, key: str) -> Execution | None:
    """Return the execution, None if this run may not compute it: GitHub can rerun a job weeks later."""
    execution = Execution(store, key)
    if execution.take(_this_run().run_id):
        return execution
    print(f"{key}: settled, or claimed by another run; nothing to do here", file=sys.stderr)
    return None


def _this_run() -> Run:
    """Return this job's workflow run, from the variables that every runner sets."""
    run_id = os.environ.get("GITHUB_RUN_ID", "")
    if not run_id.isdecimal():
        raise UsageError("GITHUB_RUN_ID is not set: `precalc jobs` is for GitHub's runners; use `precalc predict` here")
    repository = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}"
    return Run(run_id=int(run_id), url=f"{repository}/actions/runs/{run_id}")


def _has_passed(platform: _Platform, model: str) -> bool:
    """Return whether the model's release has passed a canary of the default size."""
    found = find_report(platform.store, model)
    folder = open_model(model, platform.settings)
    needed = min(CANARY_SIZE, platform.library.molecules)
    return found is not None and found.lets_run(folder.metadata.release, folder.columns, needed)


def _has_landed(platform: _Platform, model: str, shard: str) -> bool:
    """Return whether a shard has raw predictions that are current and pass the failure-rate check."""
    manifest = find_manifest(platform.store, model, shard)
    return (
        manifest is not None
        and manifest.shard_digest == platform.library.shards[shard].digest
        and check_failure_rate(manifest, platform.settings.max_failure_rate).passed
    )


def _why_not(execution: Execution, shard: str) -> str:
    report = execution.shard_report(shard).read()
    if report is None:
        return "its job recorded no reason; see the job's log"
    return report.failure or "the time budget ran out"

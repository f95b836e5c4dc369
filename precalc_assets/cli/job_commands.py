"""`precalc jobs …`: the commands of a workflow's jobs, one each. The workflow itself decides nothing.

A job reports through the store: a shard's manifest says that it landed, a record of the execution why it did not. The
colour of the job on GitHub is for people.
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
from precalc_assets.cli.report import failure_lines, name_shards
from precalc_assets.executions import Execution, Run, claim_own
from precalc_assets.inference import CANARY_SIZE, find_report, open_model
from precalc_assets.library import LibraryManifest, read_manifest, require_shards
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions import check_failure_rate, find_manifest
from precalc_assets.settings import Settings, load_settings
from precalc_assets.sharding import parse_shards
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables

MOST_JOBS = 256
"""The most jobs that GitHub makes of a matrix ("Actions limits")."""

LOAD_JOBS = 10
"""Jobs that load one table at the same time; the workflow gives each a tenth of what a new table takes a second."""


class ShardsLeftError(PrecalcError):
    """An execution has ended, and some of its shards have no raw predictions."""


class _Platform(NamedTuple):
    settings: Settings
    store: ObjectStore
    library: LibraryManifest


def plan(model: str, key: str, shards: str, size: int | None, workers: int) -> None:
    """Claim an execution for this run, and print its jobs as lines of `$GITHUB_OUTPUT`.

    `key` is the execution's key; `predict` and `load` are JSON lists with the shards of each job. Without a key the
    run was started by hand and becomes an execution of its own. If another run computes the shards, key and lists are
    empty, and no later job begins.
    """
    check_model_id(model)
    platform = _open()
    execution = _claim(platform, model, key, shards, size)
    if execution is None:
        print(f"{key or model}: another run computes this, or has; nothing to do here", file=sys.stderr)
    wanted = execution.intent.shards if execution else ()
    rows = {shard: platform.library.shards[shard].rows for shard in wanted}
    print(f"key={execution.key if execution else ''}")
    print(f"predict={json.dumps(split_shards(rows, min(workers, MOST_JOBS)))}")
    print(f"load={json.dumps(split_shards(rows, LOAD_JOBS))}")


def split_shards(rows: Mapping[str, int], jobs: int) -> list[str]:
    """Split shards, in order, over at most so many jobs; `rows` are by shard. Return each job's shards, as `00-06,08`.

    Each job has molecules, if the library has any: an empty shard goes with the next one.
    """
    filled = sum(count > 0 for count in rows.values())
    split: list[list[str]] = [[] for _ in range(min(jobs, max(1, filled)) if rows else 0)]
    before = 0
    for shard, count in rows.items():
        split[min(before * len(split) // max(1, filled), len(split) - 1)].append(shard)
        before += count > 0
    return [name_shards(part) for part in split]


def canary(key: str) -> None:
    """Run an execution's canary: its sample, or the usual one of a release that has passed none.

    Raises CanaryFailedError or ModelError if the model should not be run.
    """
    platform = _open()
    execution = _take(platform.store, key)
    if execution is None:
        return
    intent = execution.intent
    try:
        if intent.sample is None and _has_passed(platform, intent.model):
            print(f"canary of {intent.model}: passed before, by the same release", file=sys.stderr)
        else:
            sample.predict_sample(intent.model, intent.sample or CANARY_SIZE)
    except FAILURES as error:
        for item in intent.items:
            execution.report(ShardOutcome(item, failure=reason(error)))
        raise


def predict(key: str, shards: str, until: str) -> None:
    """Compute shards of an execution, and record why a shard did not land. Raises like `precalc predict`."""
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
    """Validate and load those of the shards that landed; `report` publishes the card. Raises like `precalc load`.

    The execution need not be this run's any more: loading a shard again changes nothing.
    """
    platform = _open()
    model = Execution(platform.store, key).intent.model
    chosen = parse_shards(shards, platform.settings.n_shards)
    landed = [shard for shard in chosen if _has_landed(platform, model, shard)]
    if len(landed) < len(chosen):
        missing = name_shards([shard for shard in chosen if shard not in landed])
        print(f"load {model}: left out, for want of raw predictions: {missing}", file=sys.stderr)
    if landed:
        work.load_for_job(model, name_shards(landed))


def report(key: str) -> None:
    """Print, in Markdown, what an execution has landed, and publish the model's card.

    Raises ShardsLeftError if that is not all of it.
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
            "\nWhat is finished is kept, also within these shards. An execution of Dagster's is launched again for "
            "them by Dagster; otherwise run the workflow again for the same model."
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
            "PRECALC_STORE_URL or PRECALC_TABLES_URL is empty; make both variables of the repository: docs/github.md"
        )
    store = open_store(settings.store_url)
    return _Platform(settings, store, require_shards(read_manifest(store), settings.n_shards))


def _claim(platform: _Platform, model: str, key: str, shards: str, size: int | None) -> Execution | None:
    """Return the execution if this run may compute it: that of the key, or one that is opened for the run."""
    run = _this_run()
    if not key:
        chosen = [] if size else parse_shards(shards or None, platform.settings.n_shards)
        return claim_own(platform.store, run, model, platform.library.digest, chosen, sample=size)
    execution = Execution(platform.store, key)
    if execution.intent.model != model:
        raise UsageError(f"{key} is an execution of {execution.model}, not of {model}; leave the key to Dagster")
    return execution if execution.take(run.run_id) else None


def _take(store: ObjectStore, key: str) -> Execution | None:
    """Return the execution if this run may compute it; GitHub can run a job again weeks later."""
    execution = Execution(store, key)
    if execution.take(_this_run().run_id):
        return execution
    print(f"{key}: settled, or another run's; nothing to do here", file=sys.stderr)
    return None


def _this_run() -> Run:
    """Return the workflow run that this is a job of, by the variables that every runner has."""
    run_id = os.environ.get("GITHUB_RUN_ID", "")
    if not run_id.isdecimal():
        raise UsageError("GITHUB_RUN_ID is not set: `precalc jobs` is for GitHub's runners; use `precalc predict` here")
    repository = f"{os.environ.get('GITHUB_SERVER_URL')}/{os.environ.get('GITHUB_REPOSITORY')}"
    return Run(run_id=int(run_id), url=f"{repository}/actions/runs/{run_id}")


def _has_passed(platform: _Platform, model: str) -> bool:
    """Return whether the release that is to be run has passed a canary as large as the usual one."""
    found = find_report(platform.store, model)
    folder = open_model(model, platform.settings)
    needed = min(CANARY_SIZE, platform.library.molecules)
    return found is not None and found.lets_run(folder.metadata.release, folder.columns, needed)


def _has_landed(platform: _Platform, model: str, shard: str) -> bool:
    """Return whether a shard has raw predictions of the library's molecules that the next stage would take."""
    manifest = find_manifest(platform.store, model, shard)
    return (
        manifest is not None
        and manifest.shard_digest == platform.library.shards[shard].digest
        and check_failure_rate(manifest, platform.settings.max_failure_rate).passed
    )


def _why_not(execution: Execution, shard: str) -> str:
    report = execution.shard_report(shard).read()
    if report is None:
        return "its job did not say; see the job's log"
    return report.failure or "there was no time left for it"

"""`precalc jobs …`: a command for each kind of job of a run. GitHub's workflow and SLURM's job scripts decide nothing.

A job reports through the store: a shard's manifest says that it landed, a record of the execution why it did not. The
platform does not trust the job's status.

`plan` prints `key`, the execution's key. A run without a key was started by hand and becomes a new execution. If
another run computes the shards, the key is empty, and no later job starts. After the canary, `split` prints `predict`
and `load`, JSON lists with the shards of each of GitHub's jobs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from precalc.cli.app import Model
from precalc.cli.terminal import say, show
from precalc.identifiers import check_model_id
from precalc_assets.cards.publishing import publish
from precalc_assets.cli import work
from precalc_assets.cli.canary_commands import predict_sample
from precalc_assets.executions.records import Execution, Run, claim_own, store_check
from precalc_assets.inference.canary import CANARY_SIZE
from precalc_assets.inference.opening import open_model
from precalc_assets.inference.parts import find_landed
from precalc_assets.outcomes import FAILURES, ShardOutcome, failed_outcome
from precalc_assets.platform import Platform, open_platform
from precalc_assets.platform_errors import ExecutionError, PrecalcError, UsageError
from precalc_assets.predictions.canary_report import RunEstimate, find_report
from precalc_assets.sharding import format_shards, parse_shards

MOST_JOBS = 256
"""The most jobs that GitHub makes of a matrix ("Actions limits")."""

JOB_HOURS = 1.0
"""What a job that predicts should take: long beside its start of about a minute, short beside GitHub's six hours."""

LOAD_JOBS = 10
"""Jobs that load a table concurrently; the workflow gives each a tenth of a new table's write rate."""


app = typer.Typer()

Key = Annotated[str, typer.Argument(help="The execution's key, e.g. eos3b5e-0007.")]
JobShards = Annotated[str, typer.Option(help="The job's shards: 07, 00-49 or 07,08,20-29.")]


@app.command()
def plan(
    model: Model,
    key: Annotated[str, typer.Option(help="The execution's key, if Dagster launched this run.")] = "",
    shards: Annotated[str, typer.Option(help="Shards to run when no key is given (default: all).")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="Run only the canary, on N molecules.")] = None,
) -> None:
    """Claim the execution for this run and print its key as a line of $GITHUB_OUTPUT."""
    check_model_id(model)
    platform = _open()
    library = platform.library()
    execution: Execution | None
    if key:
        if Execution(platform.store, key).intent.model != model:
            raise UsageError(f"{key} is an execution of another model than {model}; leave the key to Dagster")
        execution = _take(platform, key)
    else:
        chosen = [] if sample else parse_shards(shards or None, library.n_shards)
        execution = claim_own(platform.store, _this_run(platform), model, library.digest, chosen, sample=sample)
        if execution is None:
            say(f"{model}: another run computes or has computed this; nothing to do here")
    if execution and not library.shards.keys() >= set(execution.intent.shards):
        raise ExecutionError(
            f"{key} is of a library with other shards; leave it: Dagster settles it and launches another"
        )
    show(f"key={execution.key if execution else ''}")


@app.command()
def split(
    key: Key, workers: Annotated[int, typer.Option(min=1, help="Maximum number of jobs that predict.")] = 50
) -> None:
    """Split the shards over jobs of about an hour, as the canary measured, and print them for $GITHUB_OUTPUT."""
    platform = _open()
    intent, shards = Execution(platform.store, key).intent, platform.library().shards
    rows = {shard: shards[shard].rows for shard in intent.shards}
    report = find_report(platform.store, intent.model)
    jobs = wanted_jobs(report.run if report else None, sum(rows.values()), min(workers, MOST_JOBS))
    show(f"predict={json.dumps(split_shards(rows, jobs))}")
    show(f"load={json.dumps(split_shards(rows, LOAD_JOBS))}")


def wanted_jobs(estimate: RunEstimate | None, molecules: int, most: int) -> int:
    """Return the number of jobs of about JOB_HOURS for these molecules; `most` if nothing was estimated."""
    if estimate is None or not estimate.molecules:
        return most
    hours = estimate.runner_hours * molecules / estimate.molecules
    return min(most, max(1, math.ceil(hours / JOB_HOURS)))


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


@app.command()
def canary(key: Key) -> None:
    """Run the canary of the execution's size, or of the default size unless this release has passed one."""
    platform = _open()
    execution = _take(platform, key)
    if execution is None:
        return
    model, size = execution.model, execution.intent.sample
    try:
        if size is None and platform.has_passed_canary(open_model(model, platform.settings), CANARY_SIZE):
            say(f"canary of {model}: this release has passed it")
        else:
            predict_sample(model, size or CANARY_SIZE)
    except FAILURES as error:
        for item in execution.intent.items:
            execution.report(failed_outcome(item, error))
        raise


@app.command()
def predict(key: Key, shards: JobShards, until: Annotated[str, typer.Option(help="Time budget, e.g. 5h30m.")]) -> None:
    """Compute shards; record the reason for each that fails."""
    platform = _open()
    execution = _take(platform, key)
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
            tell(failed_outcome(shard, error))
        raise


@app.command()
def load(key: Key, shards: JobShards) -> None:
    """Validate and load the shards that landed; `report` publishes the card."""
    platform = _open()
    # Not by `_take`: loading the shards of an execution that is no longer this run's is harmless.
    model = Execution(platform.store, key).intent.model
    chosen = parse_shards(shards, platform.settings.n_shards)
    left = _left(platform, model, chosen)
    if left:
        say(f"load {model}: skipping shards without usable raw predictions: {format_shards(left)}")
    if len(left) < len(chosen):
        work.load(model, format_shards(set(chosen).difference(left)), with_card=False)


@app.command()
def report(key: Key) -> None:
    """Report in Markdown which shards landed, and why the others did not (exit code 1); publish the card."""
    platform = _open()
    execution = Execution(platform.store, key)
    intent = execution.intent
    left = _left(platform, intent.model, intent.shards)
    done = len(intent.shards) - len(left)
    show(f"**{key}**: {done} of {len(intent.shards)} shards of {intent.model} have raw predictions.\n")
    reasons: dict[str, list[str]] = {}
    for shard, fault in left.items():
        found = execution.shard_report(shard).read()
        recorded = found and (found.failure or "the time budget ran out")
        why = recorded or fault or "its job recorded no reason; see the job's log"
        reasons.setdefault(why, []).append(shard)
    lines = work.failure_lines(reasons)
    if left:
        show("\n".join(f"- {line}" for line in lines.splitlines()))
        show(
            "\nFinished work is kept, also within these shards. Dagster retries them if it launched this execution; "
            "otherwise run the workflow again for the same model."
        )
    if platform.tables.has_table(intent.model):
        publish(platform.store, platform.tables, intent.model, platform.settings)
    if left:
        raise PrecalcError(f"{key} has left {len(left)} of {len(intent.shards)} shards:\n{lines}")


@app.command()
def check(token: Annotated[str, typer.Argument(help="The token that was written to Dagster's store.")]) -> None:
    """Fail unless this machine has Dagster's store; `precalc executions check` calls it."""
    platform = _open()
    found = store_check(platform.store).read()
    if found is None or found.token != token:
        raise ExecutionError(
            f"PRECALC_STORE_URL here is {platform.settings.store_url}, which is not Dagster's store; correct it in the "
            ".env file of this folder"
        )


def _open() -> Platform:
    platform = open_platform()
    if not platform.settings.store_url or not platform.settings.tables_url:
        raise UsageError(
            "PRECALC_STORE_URL or PRECALC_TABLES_URL is empty; on GitHub, set both as variables of the repository: "
            "docs/github.md"
        )
    return platform


def _take(platform: Platform, key: str) -> Execution | None:
    """Return the execution, None if this run may not compute it: a job can be run again weeks later."""
    execution = Execution(platform.store, key)
    if execution.take(_this_run(platform)):
        return execution
    say(f"{key}: another run computes or has computed this; nothing to do here")
    return None


def _this_run(platform: Platform) -> Run:
    """Return the run that this job belongs to."""
    settings = platform.settings
    if not settings.run_id:
        raise UsageError("PRECALC_RUN_ID is not set: `precalc jobs` is for a run's jobs; use `precalc predict` here")
    return Run(run_id=settings.run_id, url=settings.run_url)


def _left(platform: Platform, model: str, shards: Sequence[str]) -> dict[str, str]:
    """Return the shards that have not landed, each with what is wrong with its data, if it has any."""
    library, rate = platform.library(), platform.settings.max_failure_rate
    found = {shard: find_landed(platform.store, library, model, shard, rate) for shard in shards}
    return {shard: each.failure if each else "" for shard, each in found.items() if not (each and each.landed)}

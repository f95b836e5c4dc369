"""The platform's commands and their options, and how they are added to the client's.

Each command calls a function of another module and imports it only then, so that reading a prediction does not wait
for RDKit or Dagster to load.
"""

from pathlib import Path
from typing import Annotated

import click
import typer
from obstore.exceptions import BaseError
from typer.core import TyperGroup

from precalc.cli import show_log
from precalc.cli.app import Api, Model
from precalc.cli.app import models as list_models_of_client
from precalc_assets.platform_errors import PrecalcError

app = typer.Typer()
library_app = typer.Typer(no_args_is_help=True, help="The reference library: the molecules that models run over.")
app.add_typer(library_app, name="library")
models_app = typer.Typer(help="List, fetch, install, check and remove models.")
app.add_typer(models_app, name="models")
github_app = typer.Typer(no_args_is_help=True, help="GitHub's runners: check the setup, cancel an execution.")
app.add_typer(github_app, name="github")
jobs_app = typer.Typer(
    no_args_is_help=True, help="Commands of the GitHub workflow's jobs; by hand, use `predict` and `load`."
)
app.add_typer(jobs_app, name="jobs")

Shards = Annotated[str | None, typer.Option(help="Shards to run: 07, 00-49 or 07,08,20-29 (default: all).")]
Sample = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Run only the canary: the first N molecules by hash, twice. It estimates a full run.",
    ),
]

Until = Annotated[
    str | None,
    typer.Option(help="Time budget, e.g. 5h30m. Stops before a batch that would overrun it."),
]
Key = Annotated[str, typer.Argument(help="The execution's key, e.g. eos3b5e-0007.")]
JobShards = Annotated[str, typer.Option(help="The job's shards: 07, 00-49 or 07,08,20-29.")]


@library_app.command("build")
def library_build(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="CSV, CSV.gz or SMI file (default: the file in the store, else the NCI set of the rdkit package).",
        ),
    ] = None,
) -> None:
    """Build the library from a file: parse, key, de-duplicate and shard its molecules."""
    from precalc_assets.cli.work import build

    build(path)


@app.command()
def predict(model: Model, shards: Shards = None, sample: Sample = None, until: Until = None) -> None:
    """Run a model over the library; continues where an earlier call stopped."""
    from precalc_assets.cli.canary_commands import predict_sample
    from precalc_assets.cli.work import predict as work

    if sample is None:
        work(model, shards, until)
    else:
        _no_shards_with_sample(shards)
        predict_sample(model, sample)


@app.command()
def load(model: Model, shards: Shards = None) -> None:
    """Validate raw predictions and load them into the model's table."""
    from precalc_assets.cli.work import load as work

    work(model, shards)


@app.command()
def run(model: Model, shards: Shards = None, sample: Sample = None) -> None:
    """Predict, load and publish through Dagster, whose UI then shows the run."""
    from precalc_assets.cli.dagster_runs import run_model, run_sample

    if sample is None:
        run_model(model, shards)
    else:
        _no_shards_with_sample(shards)
        run_sample(model, sample)


@app.command()
def request(model: Model, sample: Sample = None) -> None:
    """Request a model: the running Dagster adds it, runs its canary, then all its shards."""
    from precalc_assets.cli.request import request as work

    work(model, sample)


@app.command()
def api(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8000,
) -> None:
    """Serve the read API, its documentation and the landing page on this machine."""
    from precalc_assets.cli.api_command import serve as work

    work(port)


@app.command()
def drop(
    model: Model, yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation prompt.")] = False
) -> None:
    """Drop a model's table, which hides it from readers; raw predictions and Parquet stay, `load` restores it."""
    from precalc_assets.cli.work import drop as work

    if not yes:
        typer.confirm(f"drop the table of {model}?", abort=True, err=True)
    work(model)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, api: Api = None) -> None:
    """List the models that can be run and their predictions; with --api, the models of an API."""
    if context.invoked_subcommand is not None:
        return
    if api:
        from precalc.cli.served_models import list_models

        list_models(api)
    else:
        from precalc_assets.cli.overview import models as work

        work()


@models_app.command("fetch")
def models_fetch(
    model: Annotated[str, typer.Argument(help="A model id, optionally with a release: eos3b5e@v1.0.1.")],
) -> None:
    """Fetch a model from the hub, as other commands do for a model that is not on this machine."""
    from precalc_assets.cli.models import fetch as work

    work(model)


@models_app.command("install")
def models_install(
    model: Model,
    skip_failed: Annotated[
        bool,
        typer.Option("--skip-failed", help="Skip lines of the recipe that fail, as the hub's packer does."),
    ] = False,
) -> None:
    """Make a model's environment, as its first run would, and print its name."""
    from precalc_assets.cli.models import install as work

    work(model, skip_failed=skip_failed)


@models_app.command("remove")
def models_remove(model: Model) -> None:
    """Remove a model's environments and fetched copies; predictions and your own folders stay."""
    from precalc_assets.cli.models import remove as work

    work(model)


@models_app.command("check")
def models_check(
    model: Annotated[str, typer.Argument(help="A model id, or the path of a model's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show how a model would run, or why it cannot (exit code 1); installs and runs nothing."""
    from precalc_assets.cli.model_check import check as work

    if not work(model, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def status(model: Model) -> None:
    """Show which shards of a model are predicted, validated and served."""
    from precalc_assets.cli.overview import status as work

    work(model)


@github_app.command("check")
def github_check() -> None:
    """Check token, repository, workflow, ref and permissions, without launching anything."""
    from precalc_assets.cli.github_commands import check as work

    work()


@github_app.command("cancel")
def github_cancel(key: Key) -> None:
    """Cancel an execution's run; its shards are not retried."""
    from precalc_assets.cli.github_commands import cancel as work

    work(key)


@jobs_app.command("plan")
def jobs_plan(
    model: Model,
    key: Annotated[str, typer.Option(help="The execution's key, if Dagster launched this run.")] = "",
    shards: Annotated[str, typer.Option(help="Shards to run when no key is given (default: all).")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="Run only the canary, on N molecules.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Maximum number of jobs that predict.")] = 50,
) -> None:
    """Claim the execution for this run and print its jobs as lines of $GITHUB_OUTPUT."""
    from precalc_assets.cli.job_commands import plan as work

    work(model, key, shards, sample, workers)


@jobs_app.command("canary")
def jobs_canary(key: Key) -> None:
    """Run the canary, unless this release has passed one."""
    from precalc_assets.cli.job_commands import canary as work

    work(key)


@jobs_app.command("predict")
def jobs_predict(
    key: Key,
    shards: JobShards,
    until: Annotated[str, typer.Option(help="Time budget, e.g. 5h30m.")],
) -> None:
    """Compute shards; record the reason for each that fails."""
    from precalc_assets.cli.job_commands import predict as work

    work(key, shards, until)


@jobs_app.command("load")
def jobs_load(key: Key, shards: JobShards) -> None:
    """Validate and load the shards that landed."""
    from precalc_assets.cli.job_commands import load as work

    work(key, shards)


@jobs_app.command("report")
def jobs_report(key: Key) -> None:
    """Report in Markdown which shards landed, and why the others did not; publish the card."""
    from precalc_assets.cli.job_commands import report as work

    work(key)


def add_commands(client: typer.Typer) -> None:
    """Add the platform's commands to the client's: computing commands first, then reading ones."""
    show_log("precalc_assets")
    # The platform's `models` replaces the client's, since it also lists models that can be run.
    reading = [command for command in client.registered_commands if command.callback is not list_models_of_client]
    own = app.registered_commands
    first = 1 + [command.callback for command in own].index(request)
    client.registered_commands = own[:first] + reading + own[first:]
    client.registered_groups += app.registered_groups
    client.info.cls = _OneLineErrors
    client.info.help = "Run models of the Ersilia Model Hub over a reference library once, and read the predictions."


class _OneLineErrors(TyperGroup):
    """Shortens the object store's errors, which are pages long, to one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (BaseError, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # the system's errors are one line already
            from precalc_assets.outcomes import reason

            raise PrecalcError(reason(error)) from error


def _no_shards_with_sample(shards: str | None) -> None:
    if shards is not None:
        raise typer.BadParameter("a sample spans all shards; give either --sample or --shards", param_hint="--shards")

"""The platform's commands and their options, and how they are added to the client's.

A command imports what it needs when it runs, so that reading a prediction does not wait for RDKit or Dagster to load;
so does a group: `precalc jobs` is in `jobs_commands`.
"""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated

import click
import typer
from obstore.exceptions import BaseError
from typer.core import TyperGroup

from precalc.cli import show_log
from precalc.cli.app import Api, Model
from precalc.cli.app import models as list_models_of_client
from precalc.cli.terminal import say, show
from precalc.identifiers import is_model_id
from precalc_assets.own_process import hide_process, limit_malloc
from precalc_assets.platform_errors import PrecalcError


class _LazyGroup(TyperGroup):
    """A group that imports its module, named like it, when its commands are needed."""

    @cached_property
    def _loaded(self) -> TyperGroup:
        return typer.main.get_group(import_module(f"precalc_assets.cli.{self.name}_commands").app)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return self._loaded.list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        return self._loaded.get_command(ctx, cmd_name)


app = typer.Typer()
library_app = typer.Typer(no_args_is_help=True, help="The reference library: the molecules that models run over.")
app.add_typer(library_app, name="library")
models_app = typer.Typer(cls=_LazyGroup, help="List, fetch, install, check and remove models.")
app.add_typer(models_app, name="models")
for name, about in {
    "campaign": "Many models under one budget: start, approve, pause, resume, stop, status.",
    "executions": "GitHub's runners and SLURM clusters: check the setup, cancel an execution.",
    "jobs": "Commands of the jobs on runners and clusters; by hand, use `predict` and `load`.",
}.items():
    app.add_typer(typer.Typer(cls=_LazyGroup, no_args_is_help=True, help=about), name=name)

Shards = Annotated[str | None, typer.Option(help="Shards to run: 07, 00-49 or 07,08,20-29 (default: all).")]
Sample = Annotated[
    int | None,
    typer.Option(min=1, help="Run only the canary: the first N molecules by hash, twice. It estimates a full run."),
]

Until = Annotated[str | None, typer.Option(help="Time budget, e.g. 5h30m. Stops before a batch that would overrun it.")]


@library_app.command("build")
def library_build(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="File of SMILES, as CSV or Excel (default: the file in the store, else the NCI set of rdkit)."
        ),
    ] = None,
    input_column: Annotated[
        str | None, typer.Option(help="Column of the file that has the SMILES, by name or number.")
    ] = None,
    accept_rejected: Annotated[
        bool, typer.Option("--accept-rejected", help="Build it even if most rows of the file are no molecules.")
    ] = False,
) -> None:
    """Build the library from a file: parse, key, de-duplicate and shard its molecules."""
    from precalc_assets.cli.work import build

    build(path, input_column, accept_rejected=accept_rejected)


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
    from precalc_assets.executions.request_queue import put_request
    from precalc_assets.platform import open_platform

    show(put_request(open_platform().store, model, sample).id)
    say("Dagster's sensor precalculation_requests reads it within a minute; it must be running")


@app.command()
def api(port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8000) -> None:
    """Serve the read API, its documentation and the landing page on this machine."""
    from precalc_assets.settings import load_settings
    from precalc_assets.tables import open_tables

    settings = load_settings()
    tables = open_tables(settings.tables_url)
    models = sum(map(is_model_id, tables.list_tables()))
    # Imported after the settings are checked: uvicorn and the routes take half a second.
    from precalc_assets.api import server
    from precalc_assets.screening.engine import open_engine
    from precalc_assets.storage import open_store

    def announce(url: str) -> None:
        served = "1 model" if models == 1 else f"{models:,} models"
        show(f"{url} serves {served} of {settings.tables_url}; Ctrl-C stops it")
        show(f"{url}/docs describes the API")

    screen = open_engine(open_store(settings.store_url), tables).answer
    server.serve(server.make_local_app(tables, settings.store_url, settings.cors_origins, screen), port, announce)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, or `library` for the library's table.")],
    shards: Shards = None,
    repair: Annotated[bool, typer.Option("--repair", help="Write shards that differ anew, and compare again.")] = False,
) -> None:
    """Compare every molecule and value of a table with the Parquet files; exit 1 if anything differs."""
    from precalc_assets.cli.work import verify as work

    work(model, shards, repair=repair)


@app.command()
def drop(
    model: Model, yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation prompt.")] = False
) -> None:
    """Drop a model's table and card, which hides it from readers; its files stay, and `load` restores it."""
    from precalc_assets.cli.work import drop as work

    if not yes:
        typer.confirm(f"drop the table of {model}?", abort=True, err=True)
    work(model)


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    api: Api = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="List the models of the hub's registry, and why some are not computed.")
    ] = False,
) -> None:
    """List the models that can be run and their predictions; with --api, the models of an API."""
    if context.invoked_subcommand is not None:
        return
    if hub:
        from precalc_assets.cli.overview import hub_models

        hub_models()
    elif api:
        from precalc.cli.served_models import list_models

        list_models(api)
    else:
        from precalc_assets.cli.overview import models as work

        work()


@app.command()
def status(model: Model) -> None:
    """Show which shards of a model are predicted, validated and served."""
    from precalc_assets.cli.overview import status as work

    work(model)


def add_commands(client: typer.Typer) -> None:
    """Add the platform's commands to the client's: computing commands first, then reading ones."""
    hide_process()
    limit_malloc()
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

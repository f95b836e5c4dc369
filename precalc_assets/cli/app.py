"""The commands and their options.

What a command does is in functions of other modules, imported when it is called: reading a prediction should not wait
for RDKit or Dagster to load.
"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Run every model of the Ersilia Model Hub once over a reference library, and read the predictions.",
)
library_app = typer.Typer(no_args_is_help=True, help="The reference library: the molecules that models are run over.")
app.add_typer(library_app, name="library")
models_app = typer.Typer(help="The models: which there are, and whether they can be run.")
app.add_typer(models_app, name="models")
github_app = typer.Typer(no_args_is_help=True, help="GitHub, on whose runners models can be run.")
app.add_typer(github_app, name="github")
jobs_app = typer.Typer(no_args_is_help=True, help="What the jobs of a GitHub workflow run call; not for people.")
app.add_typer(jobs_app, name="jobs")

Model = Annotated[str, typer.Argument(help="A model id: eos3b5e, or eos3b5e-v2 for a version.", show_default=False)]
Shards = Annotated[
    str | None, typer.Option(help="Which shards: 07, 00-49 or 07,08,20-29; all by default.", show_default=False)
]
Sample = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Only the canary: the first N molecules by hash, twice; says what a full run takes.",
        show_default=False,
    ),
]

Until = Annotated[
    str | None,
    typer.Option(
        help="How long this may take, as 5h30m: it ends before a batch that would not end in time.", show_default=False
    ),
]
Api = Annotated[
    str | None,
    typer.Option(
        envvar="PRECALC_API_URL",
        help="The URL of an API to read from, in place of the tables of the settings.",
        show_default=False,
    ),
]
Key = Annotated[str, typer.Argument(help="An execution's key: eos3b5e-0007.", show_default=False)]
JobShards = Annotated[str, typer.Option(help="The shards of this job.", show_default=False)]


@library_app.command("build")
def library_build(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="CSV, CSV.gz or SMI; by default the file in the store, or else the NCI set of the rdkit package.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Parse, key, de-duplicate and shard the molecules of a file."""
    from precalc_assets.cli.work import build

    build(path)


@app.command()
def predict(model: Model, shards: Shards = None, sample: Sample = None, until: Until = None) -> None:
    """Run a model over the library; goes on where an earlier call stopped."""
    from precalc_assets.cli.canary import predict_sample
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
    """Predict, load and publish through Dagster, so that it shows in its UI."""
    from precalc_assets.cli.dagster_runs import run_model, run_sample

    if sample is None:
        run_model(model, shards)
    else:
        _no_shards_with_sample(shards)
        run_sample(model, sample)


@app.command()
def request(model: Model, sample: Sample = None) -> None:
    """Ask for a model: Dagster adds it, and runs its canary and then all its shards, wherever Dagster runs."""
    from precalc_assets.cli.request import request as work

    work(model, sample)


@app.command()
def get(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL... [MOLECULE]...", help="Model ids, then InChIKeys or SMILES.", show_default=False
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="A file of InChIKeys or SMILES: CSV, CSV.gz or SMI; - is standard input, as is what is piped.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file: .csv, .csv.gz, .parquet or .jsonl; a folder for several models; stdout by default.",
            show_default=False,
        ),
    ] = None,
    missing: Annotated[
        Path | None,
        typer.Option(
            help="Write the molecules that are not precalculated here, as `ersilia run -i` takes them.",
            show_default=False,
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="csv, csv.gz, parquet or jsonl; by default what the file's name says."),
    ] = None,
    api: Api = None,
    include_smiles: Annotated[
        bool, typer.Option("--include-smiles", help="Add a column with the reference library's SMILES.")
    ] = False,
    all_models: Annotated[
        bool, typer.Option("--all-models", help="All models that are served, into a folder.")
    ] = False,
    compute_missing: Annotated[
        bool,
        typer.Option("--compute-missing", help="Run the model on what is not precalculated; `source` tells which."),
    ] = False,
) -> None:
    """Read predictions, in the order of the molecules; goes on where an earlier call was interrupted."""
    from precalc_assets.cli.get import Options, answer

    answer(
        words or [],
        Options(
            input_file=input_file,
            output=output,
            missing=missing,
            format=file_format,
            api=api,
            include_smiles=include_smiles,
            all_models=all_models,
            compute_missing=compute_missing,
        ),
    )


@app.command()
def download(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder; by default one named like the model.")
    ] = None,
    api: Api = None,
) -> None:
    """Download a model's Parquet files, checked; goes on where an earlier call was interrupted."""
    from precalc_assets.cli.download import download as work

    work(model, output or Path(model), api)


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="The URL of an API.", show_default=False)],
    forget: Annotated[bool, typer.Option("--forget", help="Remove the key from the keyring.")] = False,
) -> None:
    """Keep an API's key in this machine's keyring; it is asked for, and not shown."""
    from precalc_assets.cli.get import login as work

    work(url, forget=forget)


@app.command()
def api(port: Annotated[int, typer.Option(min=0, max=65_535, help="Where it listens.")] = 8000) -> None:
    """Serve the read API, its documentation and the landing page on this machine."""
    from precalc_assets.cli.api import serve as work

    work(port)


@app.command()
def drop(
    model: Model, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether that is meant.")] = False
) -> None:
    """Drop a model's table, and so what readers see; raw predictions and Parquet stay, `load` puts them back."""
    from precalc_assets.cli.work import drop as work

    if not yes:
        typer.confirm(f"drop the table of {model}?", abort=True, err=True)
    work(model)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the models that can be run, and what is precalculated of them."""
    if context.invoked_subcommand is None:
        from precalc_assets.cli.overview import models as work

        work()


@models_app.command("fetch")
def models_fetch(
    model: Annotated[
        str, typer.Argument(help="A model id, perhaps with a release: eos3b5e@v1.0.1.", show_default=False)
    ],
) -> None:
    """Fetch a model from the hub, as is done for every model that is asked for and not here."""
    from precalc_assets.cli.models import fetch as work

    work(model)


@models_app.command("install")
def models_install(
    model: Model,
    skip_failed: Annotated[
        bool,
        typer.Option("--skip-failed", help="Pass over lines of the recipe that fail, as the hub's own packer does."),
    ] = False,
) -> None:
    """Make the environment of a model, as is done for every model that is run; print its name."""
    from precalc_assets.cli.models import install as work

    work(model, skip_failed=skip_failed)


@models_app.command("remove")
def models_remove(model: Model) -> None:
    """Remove a model's environments and what was fetched of it; predictions and folders of yours stay."""
    from precalc_assets.cli.models import remove as work

    work(model)


@models_app.command("check")
def models_check(
    model: Annotated[str, typer.Argument(help="A model id, or the path of a model's folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show how a model would be run, and why it cannot be (exit code 1); installs and runs nothing."""
    from precalc_assets.cli.model_check import check as work

    if not work(model, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def status(model: Model) -> None:
    """Tell which shards of a model are predicted, validated and served."""
    from precalc_assets.cli.overview import status as work

    work(model)


@github_app.command("check")
def github_check() -> None:
    """Tell whether token, repository, workflow, ref and permissions are right, without launching anything."""
    from precalc_assets.cli.github import check as work

    work()


@github_app.command("cancel")
def github_cancel(key: Key) -> None:
    """Cancel an execution's run, and have none of its shards tried again."""
    from precalc_assets.cli.github import cancel as work

    work(key)


@jobs_app.command("plan")
def jobs_plan(
    model: Model,
    key: Annotated[str, typer.Option(help="The execution's key, if Dagster has launched this run.")] = "",
    shards: Annotated[str, typer.Option(help="Which shards, if nobody has; all by default.")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="Only the canary, on so many molecules.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many jobs may predict.")] = 50,
) -> None:
    """Claim the execution for this run, and print its jobs."""
    from precalc_assets.cli.jobs import plan as work

    work(model, key, shards, sample, workers)


@jobs_app.command("canary")
def jobs_canary(key: Key) -> None:
    """Try the model on a sample, unless this release has passed that."""
    from precalc_assets.cli.jobs import canary as work

    work(key)


@jobs_app.command("predict")
def jobs_predict(
    key: Key,
    shards: JobShards,
    until: Annotated[str, typer.Option(help="How long this may take, as 5h30m.", show_default=False)],
) -> None:
    """Compute shards, and keep why those that did not land did not."""
    from precalc_assets.cli.jobs import predict as work

    work(key, shards, until)


@jobs_app.command("load")
def jobs_load(key: Key, shards: JobShards) -> None:
    """Validate and load the shards that landed."""
    from precalc_assets.cli.jobs import load as work

    work(key, shards)


@jobs_app.command("report")
def jobs_report(key: Key) -> None:
    """Tell in Markdown which shards landed, and why the others did not."""
    from precalc_assets.cli.jobs import report as work

    work(key)


def _no_shards_with_sample(shards: str | None) -> None:
    if shards is not None:
        raise typer.BadParameter("a sample is not of certain shards: give --sample or --shards", param_hint="--shards")

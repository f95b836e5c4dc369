"""The client's commands and their options.

Each command calls a function of another module and imports it only then, so that help does not wait for it.
"""

from pathlib import Path
from typing import Annotated

import typer

from precalc.plugins import URL_VARIABLE

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Read precalculated predictions of the Ersilia Model Hub.",
)

Model = Annotated[str, typer.Argument(help="A model id: eos3b5e, or eos3b5e-v2 for a version.")]
Api = Annotated[str | None, typer.Option(envvar=URL_VARIABLE, help="URL of the API to read from.")]


@app.command()
def get(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL... [MOLECULE]...", help="Model ids, then InChIKeys or SMILES."),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="File of InChIKeys or SMILES: CSV, CSV.gz or SMI; - or a pipe is standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file: .csv, .csv.gz, .parquet or .jsonl; for several models a folder (default: stdout).",
        ),
    ] = None,
    missing: Annotated[
        Path | None,
        typer.Option(
            help="File for the molecules that are not precalculated, in the format of `ersilia run -i`.",
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="csv, csv.gz, parquet or jsonl (default: by the file's suffix)."),
    ] = None,
    api: Api = None,
    include_smiles: Annotated[
        bool, typer.Option("--include-smiles", help="Add a column with the reference library's SMILES.")
    ] = False,
    all_models: Annotated[
        bool, typer.Option("--all-models", help="Read all models that have predictions, into a folder.")
    ] = False,
    compute_missing: Annotated[
        bool,
        typer.Option(
            "--compute-missing",
            help="Run the model here on what is not precalculated; the column `source` marks it.",
        ),
    ] = False,
) -> None:
    """Read predictions, in the order of the molecules; continues after an interruption."""
    from precalc.cli.get import Options
    from precalc.cli.get import get as work

    work(
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
        Path | None, typer.Option("--output", "-o", help="Output folder (default: the model's id).")
    ] = None,
    api: Api = None,
) -> None:
    """Download a model's Parquet files and verify them; continues after an interruption."""
    from precalc.cli.download import download as work

    work(model, output or Path(model), api)


@app.command()
def models(api: Api = None) -> None:
    """List the models that have predictions."""
    from precalc.cli.served_models import list_models

    list_models(api)


@app.command()
def describe(model: Model, api: Api = None) -> None:
    """Show a model's release, columns, coverage, counts and citation."""
    from precalc.cli.served_models import describe as work

    work(model, api)


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="URL of an API.")],
    forget: Annotated[bool, typer.Option("--forget", help="Remove the key from the keyring.")] = False,
) -> None:
    """Store an API's key in this machine's keyring; the prompt hides it."""
    from precalc.cli.login import login as work

    work(url, forget=forget)

"""The client's commands and their options. What a command needs is imported when it runs: help does not wait for it."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from precalc.cli.terminal import say
from precalc.plugins import URL_VARIABLE
from precalc.source import Engine

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Read precalculated predictions of the Ersilia Model Hub.",
)

_KB = 1_000

Model = Annotated[str, typer.Argument(help="A model id: eos3b5e, or eos3b5e-v2 for a version.")]
Api = Annotated[str | None, typer.Option(envvar=URL_VARIABLE, help="URL of the API to read from.")]


@app.command()
def get(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL... [MOLECULE]...", help="Model ids, then InChIKeys or SMILES.")
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="File of SMILES or InChIKeys: CSV, .smi, SDF, Excel, Parquet; - or a pipe is standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output file: .csv, .csv.gz, .parquet or .jsonl; for several models without --join a folder "
            "(default: stdout).",
        ),
    ] = None,
    missing: Annotated[
        Path | None,
        typer.Option(help="File for the molecules that are not precalculated, in the format of `ersilia run -i`."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="csv, csv.gz, parquet, jsonl, or spreadsheet: CSV of which Excel runs no text as a formula "
            "(default: by the file's suffix).",
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Write several models into one wide table, with columns like eos3b5e.score.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of the model to read, with commas between them, in this order (default: all)."),
    ] = None,
    input_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the input file that has the molecules, by name or number (default: found by name)."
        ),
    ] = None,
    only_predictions: Annotated[
        bool, typer.Option("--only-predictions", help="Leave the input file's own columns out.")
    ] = False,
    percentiles: Annotated[
        bool, typer.Option("--percentiles", help="After each number, the percent of the library with at most that.")
    ] = False,
    api: Api = None,
    include_smiles: Annotated[
        bool, typer.Option("--include-smiles", help="Fill in library_smiles in each row, not only for other forms.")
    ] = False,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Fill in reason for molecules on which the model failed, too.")
    ] = False,
    all_models: Annotated[
        bool, typer.Option("--all-models", help="Read all models that have predictions, into a folder.")
    ] = False,
    compute_missing: Annotated[
        bool,
        typer.Option(
            "--compute-missing", help="Run the model here on what is not precalculated; its status is `computed`."
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
            join=join,
            columns=columns,
            input_column=input_column,
            only_predictions=only_predictions,
            api=api,
            percentiles=percentiles,
            include_smiles=include_smiles,
            reasons=reasons,
            all_models=all_models,
            compute_missing=compute_missing,
        ),
    )


@app.command()
def screen(
    where: Annotated[
        str,
        typer.Option(help="Conditions: 'eos3b5e.mol_weight between 200 and 400 and eos4e40.score > 0.5'."),
    ] = "",
    order: Annotated[str, typer.Option(help="Columns to order by: 'eos4e40.score desc' (default: by InChIKey).")] = "",
    select: Annotated[
        str, typer.Option(help="Columns to read, with commas between them (default: those of --order and --where).")
    ] = "",
    limit: Annotated[int, typer.Option(help="The most molecules to read, up to 10,000; 0 only counts them.")] = 100,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output file: .csv, .parquet or .sdf (default: stdout).")
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="csv, spreadsheet, parquet or sdf (default: by the file's suffix).")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Join models of different libraries, over the molecules of both.")
    ] = False,
    engine: Annotated[
        Engine | None,
        typer.Option(help="athena: Amazon Athena, over the tables of PRECALC_GLUE_DATABASE (default: this process)."),
    ] = None,
    api: Api = None,
) -> None:
    """Find the molecules whose predictions meet conditions, of one model or of several."""
    from precalc.cli.screen import screen as work
    from precalc.expressions import make_question

    question = make_question(where, order=order, select=select, limit=limit, allow_mixed=allow_mixed)
    work(question, output, file_format, api, engine)


@app.command()
def download(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output folder (default: the model's id).")
    ] = None,
    api: Api = None,
) -> None:
    """Download a model's Parquet files and verify them; continues after an interruption."""
    from precalc.cli.progress_bar import progress
    from precalc.downloading import download as work
    from precalc.errors import UsageError
    from precalc.plugins import open_source
    from precalc.source import cite

    folder = output or Path(model)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with -o")
    with closing(open_source(api)) as source:
        listing = source.files(model)
        size = sum(file.bytes for file in listing.files)
        with progress(f"download {model}", size // _KB, "kB") as advance:
            work(source, listing, folder, on_bytes=lambda n: advance(n / _KB, 0))
    say(
        f"{folder}: {len(listing.files):,} files, {size:,} bytes, {sum(file.rows for file in listing.files):,} "
        f"molecules of {cite(model, listing.releases, listing.library_digest)}"
    )


@app.command()
def models(api: Api = None) -> None:
    """List the models that have predictions."""
    from precalc.cli.served_models import list_models

    list_models(api)


@app.command()
def describe(
    model: Model,
    column: Annotated[str | None, typer.Argument(help="One of the model's columns, to show this alone.")] = None,
    where: Annotated[
        str, typer.Option(help="Molecules to count in the column's histogram, as in `precalc screen` (default: all).")
    ] = "",
    api: Api = None,
) -> None:
    """Show a model's release, columns, coverage, counts and citation, or one of its columns with a histogram."""
    from precalc.cli.served_models import describe as work

    work(model, column, where, api)


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="URL of an API.")],
    forget: Annotated[bool, typer.Option("--forget", help="Remove the key from the keyring.")] = False,
) -> None:
    """Store an API's key in this machine's keyring; the prompt hides it."""
    from precalc.api_keys import check_key, forget_key, normal_url, store_key
    from precalc.remote import RemoteSource

    url = normal_url(url)
    if forget:
        say(f"the key of {url} is removed" if forget_key(url) else f"there was no key of {url}")
        return
    # A password manager may pipe the key in: then there is no prompt.
    typed = typer.prompt(f"key of {url}", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = check_key(url, typed.strip())
    with closing(RemoteSource(url, key)) as source:
        n_models = len(source.models())
    store_key(url, key)
    say(f"{url} accepts the key and has {n_models:,} models; the key is in this machine's keyring")

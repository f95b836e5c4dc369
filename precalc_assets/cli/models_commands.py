"""`precalc models fetch`, `install`, `remove` and `check`: a model's files and environments, and how it would run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from precalc.cli.app import Model
from precalc.cli.terminal import PlainConsole, say, show
from precalc.identifiers import is_model_id
from precalc_assets.inference.opening import fetch as fetch_model
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.inference.opening import remove as remove_model
from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.environment import model_environment
from precalc_assets.models.policy import ModelCheck, check_folder
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import load_settings

app = typer.Typer()


@app.command()
def fetch(model: Annotated[str, typer.Argument(help="A model id, optionally with a release: eos3b5e@v1.0.1.")]) -> None:
    """Fetch a model from the hub and print its folder, as other commands do for a model not on this machine."""
    model, _, release = model.partition("@")
    folder = fetch_model(model, load_settings(), release)
    require_checkpoints(folder.model, folder.path)
    show(folder.path)
    if release:
        say(f"runs use the newest release of {model}; to use this one, set PRECALC_MODELS_DIR={folder.path.parent}")


@app.command()
def install(
    model: Model,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Skip lines of the recipe that fail, as the hub's packer does.")
    ] = False,
) -> None:
    """Make a model's environment or get its image, as its first run would, and print its name."""
    settings = load_settings()
    if settings.model_backend == "image":
        with open_backend(open_model(model, settings), settings) as backend:
            show(backend.environment)
        return
    if settings.model_backend != "framework":
        raise UsageError(
            f"the {settings.model_backend} backend installs {model} itself when it runs; "
            "set PRECALC_MODEL_BACKEND=framework to make an environment"
        )
    folder = open_model(model, settings)
    require_checkpoints(folder.model, folder.path)
    show(model_environment(folder, settings.cache_dir, skip_failed=skip_failed).name)


@app.command()
def remove(model: Model) -> None:
    """Remove a model's environments and fetched copies; predictions and your own folders stay."""
    freed = remove_model(model, load_settings())
    show(f"removed the environments and the fetched copies of {model}: {freed / 1e6:,.1f} MB freed")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="A model id, or the path of a model's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show how a model would run, or why it cannot (exit code 1); installs and runs nothing."""
    settings = load_settings()
    path = open_model(model, settings).path if is_model_id(model) else Path(model).expanduser().resolve()
    if not path.is_dir():
        raise UsageError(f"{model!r} is neither a model id, such as eos3b5e, nor a folder")
    found = check_folder(path, settings)
    if as_json:
        show(found.model_dump_json(indent=2))
    else:
        _print(found)
    if found.refusals:
        raise typer.Exit(1)


def _print(found: ModelCheck) -> None:
    console = PlainConsole(markup=True, soft_wrap=True)
    console.print(f"[bold]{escape(f'{found.model} {found.release}'.strip())}[/]  {escape(found.title)}")
    if found.recipe:
        console.print(f"recipe       {found.recipe.source}, Python {found.recipe.python}")
        for step in found.recipe.steps:
            console.print(f"             {escape(' '.join(step.line.split()))}")
    console.print(f"checkpoints  {found.checkpoints:,} files, {found.checkpoint_bytes / 1e6:,.1f} MB")
    console.print(f"columns      {found.columns:,}")
    for warning in found.warnings:
        console.print(f"[yellow]warning[/]      {escape(warning)}")
    for refusal in found.refusals:
        console.print(f"[red]refused[/]      {escape(refusal)}")
    console.print("cannot be run here" if found.refusals else "can be run here")

"""`precalc models check`: shows how a model would run here, or why it cannot; installs and runs nothing."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from precalc.identifiers import is_model_id
from precalc_assets.models import ModelCheck, check_folder
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import load_settings


def check(model: str, *, as_json: bool) -> bool:
    """Print the plan for a model, by id or folder, and return whether it can be run."""
    settings = load_settings()
    if is_model_id(model):
        # Imports polars, which checking a folder does not need.
        from precalc_assets.inference import open_model

        path = open_model(model, settings).path
    else:
        path = Path(model).expanduser().resolve()
        if not path.is_dir():
            raise UsageError(f"{model!r} is neither a model id, such as eos3b5e, nor a folder")
    found = check_folder(path, settings)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        _print(found)
    return not found.refusals


def _print(found: ModelCheck) -> None:
    console = Console(emoji=False, highlight=False, soft_wrap=True)
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

"""Whether a model may be run, and warnings for its maintainer before it costs anything.

Everything is read from the model's files; nothing is installed or run.
"""

import platform
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.folder import ModelFolder, read_folder
from precalc_assets.models.recipe import Recipe, read_recipe
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.settings import Settings
from precalc_assets.tables.store import DOLLARS_PER_WRITE_UNIT, WRITE_UNIT_BYTES

WIDE = 1000
"""Columns from which on the table's price is printed: one in ten of the hub's models has as many."""

_FLOAT_BYTES = 8
_ARCHITECTURES = {"x86_64": "AMD64", "amd64": "AMD64", "aarch64": "ARM64", "arm64": "ARM64"}
"""`platform.machine`'s names and the hub's."""

_NON_COMMERCIAL = re.compile(r"non-?commercial|\bNC\b", re.IGNORECASE)


_Found = TypeVar("_Found")


class ModelCheck(FrozenRecord):
    """Facts about a model from its files. It can be run if there are no `refusals`."""

    model: str
    folder: Path
    title: str = ""
    release: str = ""
    recipe: Recipe | None = None
    columns: int = 0
    checkpoints: int = 0
    checkpoint_bytes: int = 0
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()


def check_folder(path: Path, settings: Settings) -> ModelCheck:
    """Read a model's folder; return how it would be run, or the reasons why it cannot be."""
    refusals: list[str] = []

    def attempt(check: Callable[[], _Found]) -> _Found | None:
        try:
            return check()
        except (ModelError, UsageError) as error:
            refusals.append(str(error))
            return None

    recipe = attempt(lambda: read_recipe(path))
    folder = attempt(lambda: read_folder(path))
    script = path / "model" / "framework" / "run.sh"
    if not script.is_file():
        refusals.append(f"{script} is missing: the model cannot be run without it")
    attempt(lambda: require_checkpoints(path.name, path))
    if folder:
        attempt(partial(require_allowed, folder, settings))
    files = [file for file in (path / "model" / "checkpoints").rglob("*") if file.is_file()]
    return ModelCheck(
        model=path.name,
        folder=path,
        title=folder.metadata.title if folder else "",
        release=folder.metadata.release if folder else "",
        recipe=recipe,
        columns=len(folder.columns) if folder else 0,
        checkpoints=len(files),
        checkpoint_bytes=sum(file.stat().st_size for file in files),
        warnings=(*(recipe.warnings if recipe else ()), *(_warnings(folder) if folder else ())),
        refusals=tuple(refusals),
    )


def require_allowed(folder: ModelFolder, settings: Settings) -> None:
    """Raise ModelError for a model that sends molecules to a third party, unless the settings allow it."""
    if refusal := online_refusal(folder.model, folder.metadata, settings):
        raise ModelError(refusal)


def online_refusal(model: str, metadata: ModelMetadata, settings: Settings) -> str:
    """Return why a model that sends molecules to a third party is not run; empty if it does not, or may."""
    if metadata.source.lower() != "online" or settings.allow_online:
        return ""
    return (
        f"{model} sends each molecule to a third party's server (Source: Online), so it is not run over a library; "
        "set PRECALC_ALLOW_ONLINE=true if the server's owner agrees"
    )


def licence_warning(license_: str) -> str:
    """Return a warning about publishing predictions under a licence, empty if there is none."""
    if not license_:
        return "the model names no licence; ask its authors before its predictions are published"
    if _NON_COMMERCIAL.search(license_):
        return f"the model's licence is {license_}: some readers may not use its predictions"
    return ""


def _warnings(folder: ModelFolder) -> Iterator[str]:
    yield from folder.warnings
    yield from metadata_warnings(folder.metadata)
    if folder.metadata.packaged_on is None:
        yield "no Last Packaging Date: packages are as of the day of installation"
    if len(folder.columns) >= WIDE:
        dollars = 1_000_000 * len(folder.columns) * _FLOAT_BYTES / WRITE_UNIT_BYTES * DOLLARS_PER_WRITE_UNIT
        yield (
            f"{len(folder.columns):,} columns: loading a million molecules into DynamoDB costs at most "
            f"${dollars:,.2f}; `precalc predict {folder.model} --sample 100` estimates it"
        )


def metadata_warnings(metadata: ModelMetadata) -> Iterator[str]:
    """Yield warnings about a model that its metadata alone give."""
    if metadata.status not in ("", "Ready"):
        yield f"its status in the hub is {metadata.status!r}, not 'Ready'"
    if metadata.output_consistency == "Variable":
        yield "its predictions vary between runs (Output Consistency: Variable); those of one run would be stored"
    machine = _ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    if metadata.architectures and machine not in metadata.architectures:
        yield f"the hub runs it on {' and '.join(metadata.architectures)}; this machine is {machine}"
    if warning := licence_warning(metadata.license):
        yield warning

"""From a model's id and the settings to its folder and the runner that runs it."""

from pathlib import Path
from typing import TypedDict

from precalc_assets.inference.ersilia import ErsiliaRunner, fetch_from_hub
from precalc_assets.inference.framework import FrameworkRunner
from precalc_assets.inference.runner import ModelRunner
from precalc_assets.model_ids import check_model_id
from precalc_assets.models import ModelFolder, find_model, list_models, require_allowed
from precalc_assets.settings import Settings

_OURS = "eos0"
"""How the ids of built-in and test models start: the hub has none of them."""


class _Options(TypedDict):
    """What every runner is told of the settings."""

    cache_dir: Path
    batch_size: int
    batch_timeout: float


def open_model(model: str, settings: Settings) -> ModelFolder:
    """Return a model's folder: a local one, or with the ersilia runner else the hub's, fetched if need be.

    Raises UsageError for what is no model id or names no model, ModelError for a folder that cannot be used and for a
    model that cannot be fetched.
    """
    check_model_id(model)
    is_elsewhere = model not in list_models(settings.model_folders) and not model.startswith(_OURS)
    if settings.runner == "ersilia" and is_elsewhere:
        return fetch_from_hub(model, settings.cache_dir)
    return find_model(model, settings.model_folders)


def open_runner(folder: ModelFolder, settings: Settings) -> ModelRunner:
    """Return the runner that the settings choose for a model. Raises ModelError for one that may not be run."""
    require_allowed(folder, settings)
    options: _Options = {
        "cache_dir": settings.cache_dir,
        "batch_size": settings.batch_size,
        "batch_timeout": settings.batch_timeout,
    }
    if settings.runner == "ersilia":
        return ErsiliaRunner(folder, restart_batches=settings.restart_batches, **options)
    return FrameworkRunner(folder, **options)

"""Find a model's folder by its id, and choose the backend that runs it, by the settings."""

import logging
import shutil
from pathlib import Path
from typing import TypedDict

from precalc.identifiers import check_model_id
from precalc_assets.inference.ersilia import ErsiliaBackend, fetch_from_hub
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.models import (
    Hub,
    ModelFolder,
    fetch_model,
    find_fetched,
    find_model,
    list_fetched,
    list_models,
    remove_environments,
    remove_fetched,
    require_allowed,
    require_checkpoints,
)
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

_BUILT_IN_PREFIX = "eos0"
"""Prefix of the ids of built-in and test models; the hub has no such ids."""


class _Options(TypedDict):
    """The settings that every backend takes."""

    cache_dir: Path
    batch_size: int
    batch_timeout: float


def open_model(model: str, settings: Settings) -> ModelFolder:
    """Return a model's folder: a local one, or else the hub's, fetched if needed.

    With the ersilia backend and Docker, the ersilia CLI fetches the model as an image. Raises UsageError for an invalid
    id or an unknown model, ModelError for an unusable folder or a model that cannot be fetched.
    """
    check_model_id(model)
    if model in list_models(settings.model_folders) or model.startswith(_BUILT_IN_PREFIX):
        return find_model(model, settings.model_folders)
    try:
        return fetch_from_hub(model, _hub(settings)) if _takes_images(settings) else fetch(model, settings)
    except UsageError as error:
        known = ", ".join(list_known(settings)) or "none"
        raise UsageError(
            f"there is no model {model!r} here (known: {known}), and {error}; put its folder into a folder that "
            "PRECALC_MODELS_DIR names"
        ) from None


def fetch(model: str, settings: Settings, release: str = "") -> ModelFolder:
    """Return a hub model's folder at this release, by default the newest; fetch it unless the cache has it.

    Raises UsageError if the hub has no such model or release, ModelError if it cannot be fetched.
    """
    if check_model_id(model).startswith(_BUILT_IN_PREFIX):
        raise UsageError(f"{model} is not on the hub: ids that start with {_BUILT_IN_PREFIX} belong to built-in models")
    return fetch_model(model, _hub(settings), release)


def remove(model: str, settings: Settings) -> int:
    """Remove a model's environments and fetched files, and return the freed bytes.

    Folders that PRECALC_MODELS_DIR names stay. Raises UsageError for an invalid id, ModelError while an environment is
    being made.
    """
    check_model_id(model)
    return remove_environments(model, settings.cache_dir) + remove_fetched(model, _hub(settings))


def find_known(model: str, settings: Settings) -> ModelFolder:
    """Return a model's folder like `open_model`, without fetching. Raises UsageError, ModelError."""
    is_elsewhere = model not in list_models(settings.model_folders) and not _takes_images(settings)
    fetched = find_fetched(model, _hub(settings)) if is_elsewhere else None
    return fetched or find_model(model, settings.model_folders)


def list_known(settings: Settings) -> list[str]:
    """Return the sorted ids of the models that can be opened without fetching."""
    fetched = [] if _takes_images(settings) else list_fetched(_hub(settings))
    return sorted({*list_models(settings.model_folders), *fetched})


def open_backend(folder: ModelFolder, settings: Settings) -> ModelBackend:
    """Return the backend that the settings choose for a model, and log the warnings about its columns.

    Raises ModelError if the model may not be run, or its checkpoints are missing.
    """
    require_allowed(folder, settings)
    require_checkpoints(folder.model, folder.path)
    for warning in folder.warnings:
        logger.warning("%s", warning)
    options: _Options = {
        "cache_dir": settings.cache_dir,
        "batch_size": settings.batch_size,
        "batch_timeout": settings.batch_timeout,
    }
    if settings.model_backend == "ersilia":
        return ErsiliaBackend(folder, restart_batches=settings.restart_batches, **options)
    return FrameworkBackend(folder, **options)


def _takes_images(settings: Settings) -> bool:
    """Return whether the ersilia CLI fetches the hub's models as images."""
    return settings.model_backend == "ersilia" and shutil.which("docker") is not None


def _hub(settings: Settings) -> Hub:
    return Hub(settings.hub_url, settings.cache_dir)

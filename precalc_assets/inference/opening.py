"""Find a model's folder by its id, and choose the backend that runs it, by the settings."""

import logging
import shutil
from collections.abc import Callable

from precalc.identifiers import check_model_id
from precalc_assets.inference.ersilia.ersilia_backend import ErsiliaBackend, fetch_from_hub
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.image_backend import ImageBackend, fetch_image, find_images, remove_images
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.environment import remove_environments
from precalc_assets.models.fetching import fetch_model, find_fetched, list_fetched, remove_fetched
from precalc_assets.models.folder import ModelFolder, find_model, list_models
from precalc_assets.models.policy import require_allowed
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

_BUILT_IN_PREFIX = "eos0"
"""Prefix of the ids of built-in and test models; the hub has no such ids."""

_BACKENDS: dict[str, Callable[[ModelFolder, Settings], ModelBackend]] = {
    "framework": FrameworkBackend,
    "ersilia": ErsiliaBackend,
    "image": ImageBackend,
}


def open_model(model: str, settings: Settings) -> ModelFolder:
    """Return a model's folder: a local one, or else the hub's, fetched if needed.

    With the image backend, or with the ersilia backend and Docker, it is taken out of the hub's image. Raises
    UsageError for an invalid id or an unknown model, ModelError for an unusable folder or a model that cannot be
    fetched.
    """
    check_model_id(model)
    if model in list_models(settings.model_folders) or model.startswith(_BUILT_IN_PREFIX):
        return find_model(model, settings.model_folders)
    try:
        if settings.model_backend == "image":
            return fetch_image(model, settings)
        return fetch_from_hub(model, settings) if _has_images_by_ersilia(settings) else fetch(model, settings)
    except UsageError as error:
        known = ", ".join(list_known(settings)) or "none"
        raise UsageError(
            f"there is no model {model!r} here (known: {known}), and {error}; put its folder into a folder that "
            "PRECALC_MODELS_DIR names"
        ) from None


def fetch(model: str, settings: Settings, release: str = "") -> ModelFolder:
    """Return a hub model's folder at a release (default: the newest). Raises UsageError and ModelError."""
    if check_model_id(model).startswith(_BUILT_IN_PREFIX):
        raise UsageError(f"{model} is not on the hub: ids that start with {_BUILT_IN_PREFIX} belong to built-in models")
    return fetch_model(model, settings, release)


def remove(model: str, settings: Settings) -> int:
    """Remove a model's environments, fetched files and images, and return the freed bytes.

    Folders that PRECALC_MODELS_DIR names stay, and images that docker or podman keep. Raises UsageError for an invalid
    id, ModelError while an environment is being made.
    """
    check_model_id(model)
    environments = remove_environments(model, settings.cache_dir)
    return environments + remove_fetched(model, settings) + remove_images(model, settings)


def find_known(model: str, settings: Settings) -> ModelFolder:
    """Return a model's folder like `open_model`, without fetching. Raises UsageError, ModelError."""
    fetched = None
    if model not in list_models(settings.model_folders):
        if settings.model_backend == "image":
            fetched = next(reversed(find_images(model, settings)), None)
        elif not _has_images_by_ersilia(settings):
            fetched = find_fetched(model, settings)
    return fetched or find_model(model, settings.model_folders)


def list_known(settings: Settings) -> list[str]:
    """Return the sorted ids of the models that can be opened without fetching."""
    if settings.model_backend == "image":
        fetched = [folder.model for folder in find_images("", settings)]
    else:
        fetched = [] if _has_images_by_ersilia(settings) else list_fetched(settings)
    return sorted({*list_models(settings.model_folders), *fetched})


def open_backend(folder: ModelFolder, settings: Settings) -> ModelBackend:
    """Return a model's backend by the settings. Raises ModelError if it may not run or lacks checkpoints."""
    require_allowed(folder, settings)
    if settings.model_backend != "image":
        require_checkpoints(folder.model, folder.path)
    for warning in folder.warnings:
        logger.warning("%s", warning)
    return _BACKENDS[settings.model_backend](folder, settings)


def _has_images_by_ersilia(settings: Settings) -> bool:
    """Return whether the ersilia CLI fetches the hub's models as images."""
    return settings.model_backend == "ersilia" and shutil.which("docker") is not None

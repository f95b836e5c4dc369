"""Models: their folders, metadata, recipes, environments, fetching and policy."""

from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.environment import (
    ERSILIA_VERSION,
    Environment,
    ersilia_program,
    model_environment,
    remove_environments,
)
from precalc_assets.models.fetching import (
    Hub,
    describe_model,
    fetch_model,
    find_fetched,
    list_fetched,
    remove_fetched,
)
from precalc_assets.models.folder import ModelFolder, digest_files, find_model, list_models
from precalc_assets.models.policy import ModelCheck, check_folder, licence_warning, require_allowed
from precalc_assets.models.recipe import Recipe, read_recipe

__all__ = [
    "ERSILIA_VERSION",
    "Environment",
    "Hub",
    "ModelCheck",
    "ModelFolder",
    "Recipe",
    "check_folder",
    "describe_model",
    "digest_files",
    "ersilia_program",
    "fetch_model",
    "find_fetched",
    "find_model",
    "licence_warning",
    "list_fetched",
    "list_models",
    "model_environment",
    "read_recipe",
    "remove_environments",
    "remove_fetched",
    "require_allowed",
    "require_checkpoints",
]

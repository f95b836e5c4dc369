"""What a model is: its folder, what its files say of it, and the environment that it runs in."""

from precalc_assets.models.environment import ERSILIA_VERSION, ersilia_program, model_environment
from precalc_assets.models.folder import ModelFolder, ModelMetadata, find_model, list_models
from precalc_assets.models.policy import ModelCheck, check_folder, licence_warning, require_allowed
from precalc_assets.models.recipe import Recipe, read_recipe

__all__ = [
    "ERSILIA_VERSION",
    "ModelCheck",
    "ModelFolder",
    "ModelMetadata",
    "Recipe",
    "check_folder",
    "ersilia_program",
    "find_model",
    "licence_warning",
    "list_models",
    "model_environment",
    "read_recipe",
    "require_allowed",
]

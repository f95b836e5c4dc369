"""What a model is: its folder, what its files say of it, and the environment that it runs in."""

from precalc_assets.models.environment import ERSILIA_VERSION, ersilia_program, model_environment
from precalc_assets.models.folder import ModelFolder, ModelMetadata, find_model, list_models
from precalc_assets.models.recipe import Recipe, read_recipe

__all__ = [
    "ERSILIA_VERSION",
    "ModelFolder",
    "ModelMetadata",
    "Recipe",
    "ersilia_program",
    "find_model",
    "list_models",
    "model_environment",
    "read_recipe",
]

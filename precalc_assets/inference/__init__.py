"""Running models robustly: model folders, runners, batches that survive, parts that resume, and the canary."""

from precalc_assets.inference.ersilia import ErsiliaRunner
from precalc_assets.inference.framework import FrameworkRunner
from precalc_assets.inference.model_folder import ModelMetadata, find_model, list_models
from precalc_assets.inference.opening import open_model, open_runner
from precalc_assets.inference.predict import predict_shards
from precalc_assets.inference.runner import BatchError, ModelRunner
from precalc_assets.inference.sample import predict_sample

__all__ = [
    "BatchError",
    "ErsiliaRunner",
    "FrameworkRunner",
    "ModelMetadata",
    "ModelRunner",
    "find_model",
    "list_models",
    "open_model",
    "open_runner",
    "predict_sample",
    "predict_shards",
]

"""Running models robustly: model folders, runners, batches that survive, parts that resume, and the canary."""

from precalc_assets.inference.canary import CANARY_SIZE, run_canary
from precalc_assets.inference.canary_report import (
    CANARY_CHECKS,
    CANARY_WARNINGS,
    CanaryReport,
    find_report,
)
from precalc_assets.inference.ersilia import ErsiliaRunner
from precalc_assets.inference.framework import FrameworkRunner
from precalc_assets.inference.model_folder import ModelFolder, ModelMetadata, find_model, list_models
from precalc_assets.inference.opening import open_model, open_runner
from precalc_assets.inference.predict import predict_shards
from precalc_assets.inference.runner import BatchError, ModelRunner

__all__ = [
    "CANARY_CHECKS",
    "CANARY_SIZE",
    "CANARY_WARNINGS",
    "BatchError",
    "CanaryReport",
    "ErsiliaRunner",
    "FrameworkRunner",
    "ModelFolder",
    "ModelMetadata",
    "ModelRunner",
    "find_model",
    "find_report",
    "list_models",
    "open_model",
    "open_runner",
    "predict_shards",
    "run_canary",
]

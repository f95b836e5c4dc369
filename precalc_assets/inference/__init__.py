"""Run models robustly: model folders, backends, fault-tolerant batches, resumable parts, and the canary."""

from precalc_assets.inference.canary import CANARY_SIZE, run_canary
from precalc_assets.inference.canary_report import (
    CANARY_CHECKS,
    CANARY_WARNINGS,
    CanaryReport,
    find_report,
)
from precalc_assets.inference.ersilia import ErsiliaBackend
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.model_backend import BatchError, ModelBackend
from precalc_assets.inference.opening import fetch, find_known, list_known, open_backend, open_model, remove
from precalc_assets.inference.predict import predict_shards

__all__ = [
    "CANARY_CHECKS",
    "CANARY_SIZE",
    "CANARY_WARNINGS",
    "BatchError",
    "CanaryReport",
    "ErsiliaBackend",
    "FrameworkBackend",
    "ModelBackend",
    "fetch",
    "find_known",
    "find_report",
    "list_known",
    "open_backend",
    "open_model",
    "predict_shards",
    "remove",
    "run_canary",
]

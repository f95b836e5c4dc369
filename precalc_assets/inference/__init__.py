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
from precalc_assets.inference.opening import fetch, find_known, list_known, open_model, open_runner, remove
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
    "ModelRunner",
    "fetch",
    "find_known",
    "find_report",
    "list_known",
    "open_model",
    "open_runner",
    "predict_shards",
    "remove",
    "run_canary",
]

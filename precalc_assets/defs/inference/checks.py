"""The checks of the group. The canary evaluates its own; a shard's are evaluated when it lands."""

import dagster as dg

from precalc_assets.defs.asset_checks import AssetChecks
from precalc_assets.inference import CANARY_CHECKS, CANARY_WARNINGS

CANARY = AssetChecks(dg.AssetKey("sample_predictions"), CANARY_CHECKS, CANARY_WARNINGS)
RAW = AssetChecks(dg.AssetKey("raw_predictions"), {"failure_rate": "few enough molecules are quarantined"})

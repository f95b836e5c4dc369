"""What Dagster loads: the assets of all groups with their resources, sensors and executor."""

import dagster as dg

from precalc_assets.defs.executions.sensors import failed_shards, github_executions, precalculation_requests
from precalc_assets.defs.inference.assets import raw_predictions, sample_predictions
from precalc_assets.defs.library.assets import library_shards, reference_library
from precalc_assets.defs.resources import Platform
from precalc_assets.defs.serving.assets import model_card, prediction_table, predictions
from precalc_assets.defs.serving.automation import automation


def build_defs(platform: Platform) -> dg.Definitions:
    """Assemble the platform over the given stores; tests pass stores of their own."""
    return dg.Definitions(
        assets=[
            reference_library,
            library_shards,
            sample_predictions,
            raw_predictions,
            predictions,
            prediction_table,
            model_card,
        ],
        sensors=[automation, precalculation_requests, github_executions, failed_shards],
        resources={"platform": platform},
        # A run works through a range in one step after another: a process for each would only cost its start.
        executor=dg.in_process_executor,
    )


defs = build_defs(Platform())

"""Turn a model's output into typed predictions: text cells, manifest, validation, Parquet, and loading."""

from precalc_assets.predictions.cells import (
    cell_text,
    format_header,
    format_record,
    misshapen_record,
    read_records,
    read_text_csv,
    split_first_cells,
    split_records,
    split_rows,
    tidy_cell,
)
from precalc_assets.predictions.loading import LIBRARY_SHARD_CHECKS, TABLE_CHECKS, load_library_shards, load_shards
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance, open_predictions
from precalc_assets.predictions.shard_manifest import (
    PartInfo,
    RawManifest,
    find_manifest,
    manifest_name,
    require_manifest,
)
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.predictions.validation import (
    PREDICTION_CHECKS,
    PREDICTION_WARNINGS,
    broken_check,
    check_failure_rate,
    predictions_schema,
)

__all__ = [
    "LIBRARY_SHARD_CHECKS",
    "PREDICTION_CHECKS",
    "PREDICTION_WARNINGS",
    "TABLE_CHECKS",
    "PartInfo",
    "PredictionsWriter",
    "Provenance",
    "RawManifest",
    "broken_check",
    "cell_text",
    "check_failure_rate",
    "find_manifest",
    "format_header",
    "format_record",
    "load_library_shards",
    "load_shards",
    "manifest_name",
    "misshapen_record",
    "open_predictions",
    "predictions_schema",
    "read_records",
    "read_text_csv",
    "require_manifest",
    "split_first_cells",
    "split_records",
    "split_rows",
    "tidy_cell",
    "validate_shards",
]

"""Memory of validating and loading wide shards, as the benchmark `load_memory` measures it, at a smaller size."""

import pytest

from benchmarks.load_memory import Shape, peak_of, write_raw_predictions
from precalc_assets.storage import open_store

MOST_MB = 325


@pytest.mark.slow
def test_wide_shards_take_little_memory(tmp_path) -> None:
    write_raw_predictions(open_store(tmp_path.as_uri()), Shape("doubles", 2_000, 3_200))
    peaks = {stage: peak_of(stage, str(tmp_path)) for stage in ("validate", "load")}
    assert max(peaks.values()) < MOST_MB, peaks

"""The warning of leftover predictions of a library with another number of shards."""

from pathlib import Path

import obstore
import pytest

from precalc_assets import storage
from precalc_assets.library.build import warn_of_leftovers
from precalc_assets.storage import open_store


def test_the_warning_says_that_raw_predictions_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(f"file://{tmp_path}")
    raw = f"{storage.raw_prefix('eos9abc', '07')}/manifest.json"
    obstore.put(store, raw, b"")
    warn_of_leftovers(store, 5, before=20)
    assert caplog.messages == []

    obstore.put(store, storage.predictions("eos9abc", "07"), b"")
    warn_of_leftovers(store, 5, before=20)
    (said,) = caplog.messages
    assert "1 files in predictions/ and quarantine/" in said
    assert "or build the library with 20 shards again. Raw predictions stay" in said
    assert raw not in said

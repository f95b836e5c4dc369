"""Durations on the command line."""

import pytest

from precalc_assets.cli.work import parse_duration
from precalc_assets.platform_errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5h30m", 19_800), ("45m", 2_700), (" 90s ", 90), ("1h1m1s", 3_661), ("999999h", 3_599_996_400)],
)
def test_a_duration_is_its_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "5", "h", "30m5h", "-5m", "1.5h", "٥h", "1" * 400 + "h", "5h 30m"])
def test_malformed_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_duration(text)
    assert repr(text) in str(error.value)
    assert "5h30m" in str(error.value)

"""Durations in options: `5h30m`, `90s`."""

import re

from precalc_assets.platform_errors import UsageError

_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def parse_duration(text: str) -> float:
    """Return the seconds in `5h30m`, `45m` or `90s`. Raises UsageError for any other text, and for zero."""
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UsageError(f"{text!r} is not a duration; write 5h30m, 45m or 90s")
    return float(total)

"""From the canary's calls to the whole library: what a full run of a model will take. Its table: `tables.estimate`."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from precalc_assets.inference.canary_report import RunEstimate, Speed
from precalc_assets.library import LibraryManifest
from precalc_assets.settings import Settings

_HOUR = 3600.0


class Call(NamedTuple):
    """A call of the model that went well: molecules, and how long it took."""

    molecules: int
    seconds: float


def measure_speed(calls: Iterable[Call], seconds_to_start: float) -> Speed:
    """Return how long the model takes, by its calls of different sizes; there is one at least.

    Of the calls of one size the median counts, since the first call of all is mostly slow: files are read from disk
    for the first time. A straight line through these, by least squares, has a call's own time and a molecule's.
    """
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    for call in calls:
        by_size[call.molecules].append(call.seconds)
    points = [Call(molecules, median(seconds)) for molecules, seconds in sorted(by_size.items())]
    best = min(points, key=lambda point: point.seconds / point.molecules)
    per_call, per_molecule = _fit_line(points)
    return Speed(
        best_batch_size=best.molecules,
        seconds_per_molecule=best.seconds / best.molecules,
        seconds_per_call=per_call,
        seconds_per_further_molecule=per_molecule,
        seconds_to_start=seconds_to_start,
    )


def _fit_line(points: list[Call]) -> tuple[float, float]:
    """Return intercept and slope, neither of them negative; of points of one size alone, all of it is slope."""
    sizes = sum(point.molecules for point in points) / len(points)
    seconds = sum(point.seconds for point in points) / len(points)
    spread = sum((point.molecules - sizes) ** 2 for point in points)
    if not spread:
        return 0.0, seconds / sizes
    slope = sum((point.molecules - sizes) * (point.seconds - seconds) for point in points) / spread
    if slope < 0:
        return seconds, 0.0
    if seconds < slope * sizes:
        return 0.0, seconds / sizes
    return seconds - slope * sizes, slope


def estimate_run(speed: Speed, library: LibraryManifest, settings: Settings) -> RunEstimate:
    """Return what a run over the library takes, in batches and on runners as the settings have them.

    A runner computes whole shards, one after the other, so the wall time is that of the runner with the most of them.
    """
    sizes = sorted((info.rows for info in library.shards.values() if info.rows), reverse=True)
    shards = [
        -(-rows // settings.batch_size) * speed.seconds_per_call + rows * speed.seconds_per_further_molecule
        for rows in sizes
    ]
    runners = max(1, min(settings.runners, len(shards)))
    hours = (runners * speed.seconds_to_start + sum(shards)) / _HOUR
    # The largest of every round: the others of it are done by then.
    wall = (speed.seconds_to_start + sum(shards[::runners])) / _HOUR
    return RunEstimate(
        molecules=library.molecules,
        runners=runners,
        runner_hours=hours,
        wall_hours=wall,
        dollars=hours * settings.runner_price,
    )

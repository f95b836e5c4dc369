"""Estimate a full run of a model from the canary's calls. `tables.table_cost` estimates its table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean, median

from precalc_assets.inference.call_size import Call, fit_line, planned_size
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.predictions.canary_report import RunEstimate, Speed
from precalc_assets.settings import Settings

_HOUR = 3600.0


def measure_speed(
    calls: Iterable[Call], seconds_to_start: float, *, failed: Sequence[Call] = (), failing_share: float = 0.0
) -> Speed:
    """Measure a model's speed by its answered calls, at least one, of different sizes.

    `failed` are calls that the model did not answer, `failing_share` is the share of molecules that make a call fail.

    The median represents the calls of one size, since the very first call is usually slow: it reads files from disk. A
    least-squares line through the medians gives the fixed time per call and the time per molecule.
    """
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    for call in calls:
        by_size[call.molecules].append(call.seconds)
    points = [Call(molecules, median(seconds)) for molecules, seconds in sorted(by_size.items())]
    best = min(points, key=lambda point: point.seconds / point.molecules)
    per_call, per_molecule = fit_line(points)
    lost = [call.seconds - per_call - call.molecules * per_molecule for call in failed]
    return Speed(
        best_batch_size=best.molecules,
        seconds_per_molecule=best.seconds / best.molecules,
        seconds_per_call=per_call,
        seconds_per_further_molecule=per_molecule,
        seconds_to_start=seconds_to_start,
        failing_share=failing_share,
        seconds_lost_per_failed_call=max(0.0, mean(lost)) if lost else 0.0,
    )


def estimate_run(speed: Speed, library: LibraryManifest, settings: Settings) -> RunEstimate:
    """Estimate a run over the library with the settings' batch size, machines and price.

    A machine computes whole shards, one after the other, so the wall time is that of the busiest machine. The share
    of molecules that make a call fail is taken to be that of the sample.
    """
    sizes = sorted((info.rows for info in library.shards.values() if info.rows), reverse=True)
    size = planned_size(speed.seconds_per_call, speed.seconds_per_further_molecule, settings.batch_size)
    shards = [rows // size * _call_seconds(speed, size) + _call_seconds(speed, rows % size) for rows in sizes]
    machines = max(1, min(settings.machines, len(shards)))
    hours = (machines * speed.seconds_to_start + sum(shards)) / _HOUR
    # The largest shard of each round of `machines` shards.
    wall = (speed.seconds_to_start + sum(shards[::machines])) / _HOUR
    return RunEstimate(
        molecules=library.molecules,
        machines=machines,
        runner_hours=hours,
        wall_hours=wall,
        dollars=hours * settings.runner_price,
    )


def _call_seconds(speed: Speed, molecules: int) -> float:
    """Return the expected seconds of a call and of the smaller calls that bisect it if it fails.

    Each failed call is followed by two of half its size. A molecule that fails alone costs one more call, of the
    witness.
    """
    if not molecules:
        return 0.0
    seconds, calls, size = 0.0, 1.0, float(molecules)
    while True:
        failed: float = molecules / size * (1 - (1 - speed.failing_share) ** size)
        seconds += calls * (speed.seconds_per_call + size * speed.seconds_per_further_molecule)
        seconds += failed * speed.seconds_lost_per_failed_call
        if size == 1 or not failed:
            return seconds + failed * (speed.seconds_per_call + speed.seconds_per_further_molecule)
        calls, size = 2 * failed, max(1.0, size / 2)

"""The canary of a model that the real ersilia CLI serves."""

from pathlib import Path

import pytest

from precalc_assets.inference.canary import run_canary


@pytest.mark.slow
def test_a_served_model_s_start_is_no_part_of_its_call_time(machine, obedient: Path, world) -> None:
    library = world.build_library()
    report = run_canary(
        world.store, library, obedient.name, 20, settings=machine.settings(obedient, "ersilia", batch_size=1_000)
    )
    assert report.broken == ()
    assert report.deterministic is True
    assert report.speed.seconds_to_start > 1
    assert report.speed.seconds_per_call < report.speed.seconds_to_start

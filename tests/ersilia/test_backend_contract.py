"""The contract of all backends, tested on the same model."""

import time
from pathlib import Path

import pytest
from image_machine import REGISTRY

from precalc_assets.inference.model_backend import BatchError, ModelBackend, TimeIsUpError
from precalc_assets.predictions.cells import read_records

pytestmark = pytest.mark.slow

SECONDS = 5.0


@pytest.fixture(params=["framework", "ersilia", "podman", "ch-run"])
def backend(request: pytest.FixtureRequest, obedient: Path) -> ModelBackend:
    if request.param in ("framework", "ersilia"):
        machine = request.getfixturevalue("machine")
        return machine.backend(obedient, request.param, batch_size=1, batch_timeout=SECONDS)
    # Before the machine, whose proxy stands in for the network.
    images = request.getfixturevalue("image_machine")
    machine = request.getfixturevalue("machine")
    images.make(obedient, machine.cache_dir, "v1.2.3")
    image = {"container_program": request.param, "image_registry": REGISTRY}
    return machine.backend(obedient, "image", batch_size=1, batch_timeout=SECONDS, **image)


def test_columns_and_release_are_known_before_entering(backend: ModelBackend) -> None:
    assert [(column.name, column.type) for column in backend.columns] == [
        ("score", "float"),
        ("atoms", "integer"),
    ]
    assert backend.release == "v1.2.3"


def test_a_backend_fulfils_its_contract(backend: ModelBackend, machine) -> None:
    with backend:
        # One record per molecule, in order and as printed; an empty cell is no value.
        records = backend.predict(["CCCC", "C", "NOTHING", "C"])
        assert records == [b"1.3333333333333333,4", b"0.3333333333333333,1", b",", b"0.3333333333333333,1"]
        parsed = read_records(records, backend.columns)
        assert parsed.typed["atoms"].to_list() == [4, 1, None, 1]
        assert (parsed.misshapen, parsed.invalid) == ({}, ())
        # A failure has the model's message, and does not affect the next batch.
        for _ in range(7):
            with pytest.raises(BatchError, match="cannot parse BAD"):
                backend.predict(["C", "BAD"])
        assert backend.predict(["CC"]) == [b"0.6666666666666666,2"]
        with pytest.raises(BatchError, match=r"no answer within 5 s \(PRECALC_BATCH_TIMEOUT\)"):
            backend.predict(["HANG"])
        assert backend.predict(["CC"]) == [b"0.6666666666666666,2"]
        # A call that the deadline cuts is no failure, and no call begins after the deadline.
        for seconds in (0.5, 0.0):
            with pytest.raises(TimeIsUpError):
                backend.predict(["HANG"], time.monotonic() + seconds)
        assert backend.predict(["CC"], time.monotonic() + 100) == [b"0.6666666666666666,2"]
    assert machine.left() == []
    # The backend can be entered again.
    with backend:
        assert len(backend.predict(["C"])) == 1
    assert machine.left() == []

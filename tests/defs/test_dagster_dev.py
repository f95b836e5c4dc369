"""`dagster dev` as `make ui` starts it: a model is added or asked for, is one run, and the rest follows by itself."""

from collections.abc import Iterator

import pytest
from dagster_dev import SHARDS, DagsterDev, build_fifty_shards, dagster_dev, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = "eos9abc"


@pytest.fixture
def dev(world) -> Iterator[DagsterDev]:
    """Dagster with a library of fifty shards, which it has on record."""
    build_fifty_shards(world)
    with dagster_dev(world) as dev:
        dev.backfill("library_shards", SHARDS)
        dev.wait_for("library_shards", 50)
        yield dev


def test_a_backfill_from_the_ui_is_one_run_and_the_rest_follows(world, dev: DagsterDev):
    dev.add_model(MODEL)
    dev.backfill("raw_predictions", [f"{MODEL}|{shard}" for shard in SHARDS])

    dev.wait_for("prediction_table", 50)
    dev.wait_for("model_card", 1)
    assert list(dev.runs_of("raw_predictions").values()) == ["SUCCESS"]
    assert world.precalc("get", MODEL, "CCO").stdout.splitlines()[1].startswith("LFQSCWFLJHTTHZ-UHFFFAOYSA-N,CCO,1.0,3")


def test_a_model_that_is_asked_for_is_tried_run_and_served_by_the_daemon(world, dev: DagsterDev):
    assert world.precalc("request", MODEL).returncode == 0

    dev.wait_for("sample_predictions", 1)
    dev.wait_for("prediction_table", 50)
    wait_until(lambda: world.objects("requests/met"))

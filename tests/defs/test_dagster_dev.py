"""`dagster dev` as `make ui` starts it: models that are added or asked for are one run each, and the rest follows."""

import pytest
from dagster_dev import SHARDS, build_fifty_shards, dagster_dev, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ADDED, ASKED_FOR = "eos9abc", "eos9abd"
KEYS = {model: [f"{model}|{shard}" for shard in SHARDS] for model in (ADDED, ASKED_FOR)}


def test_backfill_and_request_are_one_run_each(world):
    build_fifty_shards(world)
    world.write_model(model=ASKED_FOR)
    with dagster_dev(world) as dev:
        dev.backfill("library_shards", SHARDS)
        dev.wait_for("library_shards", 50)
        dev.add_model(ADDED)
        dev.backfill("raw_predictions", KEYS[ADDED])
        assert world.precalc("request", ASKED_FOR).returncode == 0

        dev.wait_for("prediction_table", 100)
        dev.wait_for("model_card", 2)
        wait_until(lambda: world.objects("requests/met"))

        recorded = dev.materializations("raw_predictions")
        for keys in KEYS.values():
            mine = [event for event in recorded if event["partition"] in keys]
            assert sorted(event["partition"] for event in mine) == keys
            assert len({event["runId"] for event in mine}) == 1
        tried = sorted(event["partition"] for event in dev.materializations("sample_predictions"))
        assert tried == [ADDED, ASKED_FOR]
    for model in KEYS:
        read = world.precalc("get", model, "CCO").stdout.splitlines()[1]
        assert read.startswith("LFQSCWFLJHTTHZ-UHFFFAOYSA-N,CCO,found,,same,,1.0,3")
    warned = [line for line in (world.root / "dagster.log").read_text().splitlines() if "Warning:" in line]
    assert [line for line in warned if "is superseded" not in line] == []

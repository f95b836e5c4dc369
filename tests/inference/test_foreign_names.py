"""Names in records of the store: a damaged or foreign one is refused in one line, and leads to no other object."""

import json

import pytest

from precalc_assets import storage
from precalc_assets.inference.canary import run_canary
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.platform_errors import LibraryError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import manifest_name
from precalc_assets.settings import Settings

MODEL = "eos9abc"
PREFIX = f"raw/model={MODEL}/shard=00"


def change(world, name: str, **fields: object) -> None:
    path = world.path(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "name",
    [
        "../../outside.csv.gz",
        "/etc/passwd",
        f"{PREFIX}/../shard=01/part-0.csv.gz",
        f"raw/model={MODEL}/shard=01/part-0.csv.gz",
        f"{PREFIX}/..",
        f"{PREFIX}/part-0/../../x.csv.gz",
        f"{PREFIX}/part-0\n.csv.gz",
        f"{PREFIX}/part-\x1b[2J.csv.gz",
        "",
    ],
)
@pytest.mark.parametrize("stage", ["predict", "validate"])
def test_a_part_of_another_place_is_refused(predicted, name: str, stage: str) -> None:
    manifest = manifest_name(MODEL, "00")
    (first, *rest) = json.loads(predicted.path(manifest).read_text())["parts"]
    change(predicted, manifest, parts=[first | {"name": name}, *rest])
    (outcome,) = getattr(predicted, stage)(["00"])
    assert outcome.failure.startswith(f"{manifest} is damaged (its content: {name[:80]!r} is not the name of a part")
    assert "delete it and predict shard 00 again" in outcome.failure
    assert "\n" not in outcome.failure


@pytest.mark.parametrize("fields", [{"shard": "../01"}, {"shard": ""}, {"model": "../eos9abc"}, {"model": "eos9abc\n"}])
def test_a_manifest_of_a_foreign_model_or_shard_is_damaged(predicted, fields: dict[str, str]) -> None:
    change(predicted, manifest_name(MODEL, "00"), parts=[], **fields)
    (outcome,) = predicted.predict(["00"])
    assert "is damaged" in outcome.failure


def test_a_manifest_of_another_shard_is_refused(predicted) -> None:
    name = manifest_name(MODEL, "00")
    predicted.path(name).write_bytes(predicted.path(manifest_name(MODEL, "01")).read_bytes())
    for outcomes in (predicted.predict(["00"]), predicted.validate(["00"])):
        assert outcomes[0].failure.startswith(f"{name} is damaged (it is of another model or shard); delete it")


@pytest.mark.parametrize("digest", ["../../x", "", "abc/def"])
def test_a_library_shard_of_another_place_is_refused(predicted, digest: str) -> None:
    shards = json.loads(predicted.path(storage.LIBRARY_MANIFEST).read_text())["shards"]
    shards["00"]["digest"] = digest
    change(predicted, storage.LIBRARY_MANIFEST, shards=shards)
    with pytest.raises(LibraryError, match=r"library/manifest\.json is damaged"):
        read_manifest(predicted.store)


def test_a_report_on_another_model_is_not_taken_for_this_one(world) -> None:
    world.write_model()
    settings = Settings(models_dir=(world.models_dir,), cache_dir=world.cache_dir)
    run_canary(world.store, world.build_library(), MODEL, 5, settings=settings)
    assert find_report(world.store, MODEL)
    change(world, storage.canary_report(MODEL), model="eos9xyz")
    assert find_report(world.store, MODEL) is None


def test_a_command_tells_it_in_one_line(predicted) -> None:
    manifest = manifest_name(MODEL, "00")
    (first, *rest) = json.loads(predicted.path(manifest).read_text())["parts"]
    change(predicted, manifest, parts=[first | {"name": "../../x"}, *rest])
    done = predicted.precalc("load", MODEL)
    assert done.returncode == 1
    assert "is not the name of a part of this shard" in done.stderr
    assert "Traceback" not in done.stderr

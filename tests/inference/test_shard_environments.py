"""A shard's manifest names its environment, and a new environment invalidates no predictions."""

import pytest

from precalc_assets.cards.publishing import make_card
from precalc_assets.defs.checks import card_checks
from precalc_assets.predictions.shard_manifest import RawManifest, manifest_name, require_manifest
from precalc_assets.settings import Settings

MODEL = "eos9abc"

ELSEWHERE = "python: '3.11'\ncommands: ['python -c pass']\n"
"""A recipe that installs the same packages in another way."""


def manifest(world, shard: str = "00") -> RawManifest:
    return require_manifest(world.store, MODEL, shard)


def environment(world) -> str:
    with world.backend() as backend:
        return backend.environment


def test_the_manifest_names_the_environment(predicted) -> None:
    assert manifest(predicted).environment == environment(predicted)
    assert manifest(predicted).environment.startswith("framework-")


def test_the_same_values_have_one_digest_in_all_environments(world) -> None:
    world.write_model()
    world.build_library()
    world.predict(["00"])
    changed = {name: manifest(world).model_copy(update={name: "other"}).digest for name in ("environment", "release")}
    assert changed["environment"] == manifest(world).digest
    assert changed["release"] != manifest(world).digest


def test_parts_are_used_again_in_another_environment(predicted) -> None:
    calls, made_in = predicted.calls(), manifest(predicted).environment
    predicted.path(manifest_name(MODEL, "00")).unlink()
    predicted.write_model(install=ELSEWHERE)
    assert environment(predicted) != made_in
    predicted.predict()
    assert predicted.calls() == calls
    assert manifest(predicted, "01").environment == made_in


def test_a_fully_reused_shard_keeps_its_environment(world) -> None:
    world.write_model()
    molecules = [atom * n for n in range(1, 16) for atom in ("C", "N", "O")]
    world.build_library(molecules)
    world.predict()
    before = manifest(world)
    world.build_library(molecules[::2])
    world.predict()
    assert manifest(world).rows < before.rows
    assert manifest(world).environment == before.environment


def test_a_shard_killed_before_its_manifest_knows_its_environment(predicted) -> None:
    made_in = manifest(predicted).environment
    predicted.path(manifest_name(MODEL, "00")).unlink()
    calls = predicted.calls()
    predicted.predict()
    assert predicted.calls() == calls
    assert manifest(predicted).environment == made_in


def test_parts_of_a_later_environment_than_the_manifest_count(world) -> None:
    world.write_model()
    world.build_library()
    world.predict(["00"])
    stored = world.path(manifest_name(MODEL, "00")).read_bytes()
    for name in world.objects("raw"):
        world.path(name).unlink()
    world.write_model(install=ELSEWHERE)
    world.predict(["00"])
    later = manifest(world).environment
    old = RawManifest.model_validate_json(stored)
    world.path(manifest_name(MODEL, "00")).write_bytes(stored)
    assert old.environment != later
    world.predict(["00"])
    assert manifest(world).environment == later
    assert manifest(world).digest == old.digest


def test_parts_made_of_reused_rows_name_their_environment(world) -> None:
    world.write_model()
    molecules = [atom * n for n in range(1, 16) for atom in ("C", "N", "O")]
    world.build_library(molecules)
    world.predict()
    made_in = manifest(world).environment
    world.build_library(molecules[::2])
    world.predict()
    names = [part.name for part in manifest(world).parts]
    assert names
    assert all(made_in in name for name in names)


@pytest.mark.slow
def test_card_and_status_name_both_environments_of_a_release(world) -> None:
    world.write_model()
    world.build_library()
    world.predict(["00"])
    world.write_model(install=ELSEWHERE)
    world.predict()
    world.validate()
    world.load()
    here, there = manifest(world, "01").environment, manifest(world, "00").environment
    card = make_card(world.store, world.tables, MODEL, Settings(models_dir=str(world.models_dir), n_shards=4))
    assert card.environments == tuple(sorted({here, there}))
    (found,) = [check for check in card_checks(card) if check.name == "one_environment"]
    assert (found.passed, found.description) == (False, f"environments: {', '.join(card.environments)}")
    said = " ".join(world.precalc("status", MODEL).stdout.split())
    assert "computed in different environments: " in said
    assert f"{there}: 00" in said
    assert f"{here}: 01-03" in said
    assert card_checks(card.model_copy(update={"environments": (here,)}))[-1].passed

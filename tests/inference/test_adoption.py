"""A new release reuses the predictions of an earlier one only if it prints the same."""

import gzip

import obstore
import pytest

from precalc_assets.adoption_record import same_major
from precalc_assets.cards.publishing import make_card
from precalc_assets.inference import adoption
from precalc_assets.inference.canary import run_canary
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.predictions.shard_manifest import find_manifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
SHARDS = shard_keys(4)
OTHERWISE = 'return "0.5,1,x"'


def canary(world, **options):
    settings = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir, **options)
    return run_canary(world.store, read_manifest(world.store), MODEL, 5, settings=settings)


def asked(world) -> int:
    """Return the number of molecules that the model has been run on."""
    return sum(len(call) for call in world.calls())


def manifests(world):
    return [find_manifest(world.store, MODEL, shard) for shard in SHARDS]


def values(world) -> dict[str, bytes]:
    """Return the unpacked parts of all manifests, by the digest of their molecules."""
    parts = [part for manifest in manifests(world) for part in manifest.parts]
    return {
        part.name.split("-")[4]: gzip.decompress(bytes(obstore.get(world.store, part.name).bytes())) for part in parts
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("v1.0.0", "v1.0.1", True),
        ("v1.0.0", "v1.2.0", True),
        ("1.0.0", "v1.0.1", True),
        ("v1.0.0", "v2.0.0", False),
        ("v1.0.0", "v10.0.0", False),
        ("v1.0.0", "v1.0.0", False),
        ("v1.0.0", "commit-1a2b3c4d5e6f", False),
        ("content-1a2b", "content-3c4d", False),
    ],
)
def test_releases_of_the_same_major_are_compared(one: str, other: str, same: bool) -> None:
    assert same_major(one, other) is same


def test_shards_that_a_new_release_reproduces_are_adopted(predicted) -> None:
    before = values(predicted)
    predicted.write_model(release="v1.1.0")
    report = canary(predicted)
    assert report.adoption is not None
    assert report.adoption.equal
    assert report.adoption.computed_by == ("v1.0.0",)
    assert report.adoption.molecules == len(read_molecules(predicted))
    done = asked(predicted)
    outcomes = predicted.predict()
    assert all(outcome.landed for outcome in outcomes)
    assert asked(predicted) == done
    assert values(predicted) == before
    for manifest in manifests(predicted):
        assert (manifest.release, manifest.computed_by) == ("v1.1.0", ("v1.0.0", "v1.1.0"))
        assert manifest.adopted == report.adoption


def read_molecules(world) -> list[str]:
    return [line for content in values(world).values() for line in content.decode().splitlines()[1:]]


def test_after_one_difference_all_shards_are_computed_again(predicted) -> None:
    # The differing molecule is not in the canary, so only the comparison over all shards finds it.
    odd = next(smiles for call in predicted.calls()[::-1] for smiles in call[::-1])
    answer = f"if smiles == {odd!r}:\n    {OTHERWISE}\nreturn f'{{len(smiles) / 3!r}},{{len(smiles)}},\"{{smiles}}\"'"
    predicted.write_model(release="v1.1.0", answer=answer)
    report = canary(predicted)
    assert report.adoption is not None
    assert (report.adoption.equal, report.adoption.different) == (False, 1)
    assert odd in report.adoption.example
    done = asked(predicted)
    predicted.predict()
    assert asked(predicted) - done == len(read_molecules(predicted))
    assert all(manifest.adopted is None for manifest in manifests(predicted))
    assert all(manifest.release == "v1.1.0" for manifest in manifests(predicted))


@pytest.mark.parametrize("release", ["v2.0.0", "commit-1a2b3c4d5e6f"])
def test_another_major_is_computed_again(predicted, release: str) -> None:
    predicted.write_model(release=release)
    assert canary(predicted).adoption is None
    done = asked(predicted)
    predicted.predict()
    assert asked(predicted) > done


def test_other_columns_are_computed_again(predicted) -> None:
    predicted.write_model(release="v1.1.0", columns=(("score", "float"),), answer="return '1.0'")
    assert canary(predicted).adoption is None


def test_without_a_canary_nothing_is_adopted_and_a_log_says_so(predicted, caplog: pytest.LogCaptureFixture) -> None:
    predicted.write_model(release="v1.1.0")
    done = asked(predicted)
    predicted.predict()
    assert asked(predicted) - done == len(read_molecules(predicted))
    assert caplog.text.count("precalc predict eos9abc --sample 100") == 1


def test_a_damaged_part_prevents_adoption(predicted) -> None:
    first = manifests(predicted)[0].parts[0]
    obstore.put(predicted.store, first.name, b"damaged")
    predicted.write_model(release="v1.1.0")
    assert canary(predicted).adoption is None


def test_a_failure_is_compared_like_an_answer(world) -> None:
    odd = "CCCCCCCCCO"
    fails = f"if smiles == {odd!r}:\n    return ',,'\nreturn f'{{len(smiles) / 3!r}},{{len(smiles)}},\"{{smiles}}\"'"
    world.write_model(answer=fails)
    world.build_library()
    world.predict()
    world.write_model(answer=fails, release="v1.0.1")
    report = canary(world)
    assert report.adoption is not None
    assert report.adoption.equal
    world.write_model(release="v1.0.2")
    report = canary(world)
    assert report.adoption is not None
    assert f"{odd}: stored no answer" in report.adoption.example


def test_a_third_release_adopts_what_the_first_computed(predicted) -> None:
    for release in ("v1.1.0", "v1.2.0"):
        predicted.write_model(release=release)
        canary(predicted)
        done = asked(predicted)
        predicted.predict()
        assert asked(predicted) == done
    assert {manifest.computed_by for manifest in manifests(predicted)} == {("v1.0.0", "v1.1.0", "v1.2.0")}


@pytest.mark.parametrize("canaries_after", [0, 1])
def test_new_molecules_are_computed_by_the_new_release(predicted, canaries_after: int) -> None:
    predicted.write_model(release="v1.1.0")
    canary(predicted)
    predicted.predict()
    for _ in range(canaries_after):
        canary(predicted)
    predicted.build_library([*"NOPSFI", *("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl"))])
    done = asked(predicted)
    predicted.predict()
    assert asked(predicted) - done == 6
    assert all(manifest.release == "v1.1.0" for manifest in manifests(predicted))


def test_molecules_are_compared_in_every_shard(predicted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "COMPARED", 8)
    predicted.write_model(release="v1.1.0")
    done = len(predicted.calls())
    report = canary(predicted)
    assert report.adoption is not None
    compared = {smiles for call in predicted.calls()[done:] for smiles in call}
    for manifest in manifests(predicted):
        stored = {
            line.split(",")[1]
            for part in manifest.parts
            for line in gzip.decompress(predicted.path(part.name).read_bytes()).decode().splitlines()[1:]
        }
        assert len(stored & compared) >= 2


def test_a_card_names_the_computing_and_the_current_release(predicted) -> None:
    predicted.write_model(release="v1.1.0")
    canary(predicted)
    predicted.predict()
    predicted.validate()
    predicted.load()
    settings = Settings(models_dir=str(predicted.models_dir), cache_dir=predicted.cache_dir)
    card = make_card(predicted.store, predicted.tables, MODEL, settings)
    assert card.releases == ("v1.1.0",)
    assert "by v1.0.0; this release printed the same for" in str(card.adopted)

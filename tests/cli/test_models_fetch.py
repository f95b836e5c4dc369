"""Models without a local folder: `precalc models fetch`, and commands that fetch implicitly."""

from pathlib import Path

import pytest

from precalc_assets.sharding import shard_keys

MODEL = "eos3b5e"


@pytest.fixture
def hub(world) -> str:
    """The URL of a hub that has one model with one release."""
    world.write_model(model=MODEL, release="")
    return world.move_to_hub(MODEL, "v1.0.0")


@pytest.mark.parametrize("word", [MODEL, f"{MODEL}@v1.0.0"])
def test_models_fetch_prints_the_folder_and_models_lists_it(world, hub: str, tmp_path: Path, word: str) -> None:
    cache = str(tmp_path / "cache")
    done = world.precalc("models", "fetch", word, hub_url=hub, cache_dir=cache)
    assert (done.returncode, done.stdout) == (0, f"{cache}/models/{MODEL}/v1.0.0/{MODEL}\n")
    assert f"fetching {MODEL} v1.0.0 from {hub}/{MODEL}" in done.stderr
    listed = world.precalc("models", hub_url=hub, cache_dir=cache).stdout
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("eos3")] == [MODEL]
    assert "v1.0.0" in listed


@pytest.mark.slow
def test_model_that_only_the_hub_has_is_predicted_and_served(world, hub: str, tmp_path: Path) -> None:
    world.build_library()
    options = {"hub_url": hub, "cache_dir": str(tmp_path / "cache")}
    (shard, *_) = shard_keys(4)
    for verb in ("predict", "load"):
        done = world.precalc(verb, MODEL, "--shards", shard, **options)
        assert done.returncode == 0, done.stderr
    assert "raw predictions   1/4" in world.precalc("status", MODEL, **options).stdout


@pytest.mark.parametrize(("word", "words"), [("eos9zzz", "there is no repository"), ("eos0aaa", "not on the hub")])
def test_failed_fetch_is_one_line_and_exit_code_2(world, hub: str, word: str, words: str) -> None:
    done = world.precalc("models", "fetch", word, hub_url=hub)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert words in done.stderr


def test_models_remove_deletes_what_was_fetched(world, hub: str, tmp_path: Path) -> None:
    options = {"hub_url": hub, "cache_dir": str(tmp_path / "cache")}
    folder = Path(world.precalc("models", "fetch", MODEL, **options).stdout.strip())
    assert folder.is_dir()
    done = world.precalc("models", "remove", MODEL, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert not folder.parent.exists()

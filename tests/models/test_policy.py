"""Refusals and warnings about a model, and `precalc models check`, which prints them."""

import json
import platform

import pytest

from precalc_assets.inference.opening import open_backend
from precalc_assets.models.folder import find_model
from precalc_assets.models.policy import WIDE, check_folder, licence_warning, require_allowed
from precalc_assets.platform_errors import ModelError
from precalc_assets.settings import Settings

READY = {
    "Identifier": "eos9abc",
    "Title": "A model for tests",
    "Release": "v1.0.0",
    "Status": "Ready",
    "Source": "Local",
    "License": "MIT",
    "Last Packaging Date": "2026-02-04",
}
ONLINE = {"Source": "Online"}


def write(world, columns=(("score", "float"),), **fields: object):
    folder = world.write_model(columns=columns)
    (folder / "metadata.yml").write_text(json.dumps({**READY, **fields}))
    return folder


def test_a_ready_model_has_a_plan_and_nothing_against_it(world) -> None:
    found = check_folder(write(world), Settings())
    assert (found.warnings, found.refusals) == ((), ())
    assert (found.release, found.columns) == ("v1.0.0", 1)
    assert found.recipe is not None
    assert found.recipe.python == "3.11"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"Status": "Archived"}, ["status", "'Archived'"]),
        ({"Status": "In progress"}, ["'In progress'"]),
        ({"Output Consistency": "Variable"}, ["vary between runs", "Variable"]),
        ({"Last Packaging Date": None}, ["Last Packaging Date", "day of installation"]),
        ({"Last Packaging Date": "soon"}, ["Last Packaging Date"]),
        ({"Docker Architecture": ["PPC64"]}, ["PPC64", "this machine"]),
        ({"License": None}, ["no licence"]),
        ({"License": "None"}, ["no licence"]),
        ({"License": "Non-commercial"}, ["licence is Non-commercial"]),
        ({"License": "CC-BY-NC-4.0"}, ["licence is CC-BY-NC-4.0"]),
    ],
    ids=str,
)
def test_what_a_maintainer_should_know_is_a_warning(world, fields: dict[str, object], words: list[str]) -> None:
    found = check_folder(write(world, **fields), Settings())
    assert found.refusals == ()
    assert len(found.warnings) == 1
    assert all(word in found.warnings[0] for word in words)


@pytest.mark.parametrize("machine", ["x86_64", "arm64", "aarch64"])
def test_a_machine_that_the_hub_runs_it_on_is_no_warning(world, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    folder = write(world, **{"Docker Architecture": ["AMD64", "ARM64"]})
    assert check_folder(folder, Settings()).warnings == ()


def test_very_wide_output_is_priced(world) -> None:
    columns = [(f"c{number}", "float") for number in range(2048)]
    assert len(columns) >= WIDE
    # 2,048 columns of 8 bytes are 16 write units of 1,024 bytes a molecule, at $0.625 for a million units.
    (warning,) = check_folder(write(world, columns=columns), Settings()).warnings
    assert "$10.00" in warning


def test_online_model_is_refused_before_its_installation(world) -> None:
    folder = write(world, **ONLINE)
    (refusal,) = check_folder(folder, Settings()).refusals
    for words in ("eos9abc sends each molecule", "PRECALC_ALLOW_ONLINE=true"):
        assert words in refusal
    with pytest.raises(ModelError, match="sends each molecule"):
        open_backend(find_model("eos9abc", [world.models_dir]), Settings())


def test_a_model_that_asks_a_server_is_run_if_that_is_allowed(world) -> None:
    folder = write(world, **ONLINE)
    assert check_folder(folder, Settings(allow_online=True)).refusals == ()
    require_allowed(find_model("eos9abc", [world.models_dir]), Settings(allow_online=True))


def test_everything_that_is_wrong_is_said_at_once(world) -> None:
    folder = write(world)
    (folder / "install.yml").unlink()
    (folder / "model" / "framework" / "run.sh").unlink()
    (folder / "metadata.yml").write_text("Title: x\n")
    (folder / "model" / "weights.bin").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    refusals = check_folder(folder, Settings()).refusals
    for words in ("neither Dockerfile nor install.yml", "run.sh is missing", "Identifier", "LFS pointer"):
        assert sum(words in refusal for refusal in refusals) == 1


@pytest.mark.parametrize("license_", ["MIT", "GPL-3.0-only", "NCSA", "Apache-2.0"])
def test_a_free_licence_is_no_warning(license_: str) -> None:
    assert licence_warning(license_) == ""


def test_check_shows_the_plan_and_exits_0(world) -> None:
    write(world)
    done = world.precalc("models", "check", "eos9abc", columns="200")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "eos9abc v1.0.0  A model for tests"
    assert done.stdout.splitlines()[-1] == "can be run here"


def test_check_says_why_not_and_exits_1(world) -> None:
    folder = write(world, **ONLINE)
    done = world.precalc("models", "check", str(folder), columns="200")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert done.stdout.splitlines()[-1] == "cannot be run here"


def test_check_as_json_has_recipe_columns_and_reasons(world) -> None:
    folder = write(world, **ONLINE)
    (folder / "install.yml").write_text('python: "3.11"\ncommands: [[pip, six, "1.17.0"]]\n')
    done = world.precalc("models", "check", str(folder), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["recipe"]["steps"][0]["arguments"] == ["six==1.17.0"]
    assert found["columns"] == 1
    assert len(found["refusals"]) == 1


def test_check_of_neither_model_nor_folder_says_so(world) -> None:
    done = world.precalc("models", "check", "./nowhere")
    assert done.returncode == 2
    assert "neither a model id" in done.stderr


@pytest.mark.parametrize(
    ("license_", "said"), [(None, "names no licence"), ("Non-commercial", "licence is Non-commercial")]
)
def test_a_licence_is_said_before_predictions_are_served(world, license_: str | None, said: str) -> None:
    write(world, columns=(("score", "float"), ("atoms", "integer"), ("label", "string")), License=license_)
    world.build_library()
    world.predict()
    done = world.precalc("load", "eos9abc")
    assert done.returncode == 0
    assert said in done.stderr

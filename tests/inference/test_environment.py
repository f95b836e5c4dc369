"""The environments that models run in: whole or not there."""

from pathlib import Path

import pytest

from precalc_assets.errors import ModelError
from precalc_assets.inference import environment, find_model
from precalc_assets.inference.environment import model_environment


def python_of(variables: dict[str, str]) -> Path:
    return Path(variables["VIRTUAL_ENV"]) / "bin" / "python"


def test_an_environment_whose_python_was_uninstalled_is_made_again(world, tmp_path: Path) -> None:
    world.write_model()
    folder = find_model("eos9abc", [world.models_dir])
    python = python_of(model_environment(folder, tmp_path))
    python.unlink()
    python.symlink_to(tmp_path / "uninstalled")
    assert python_of(model_environment(folder, tmp_path)).exists()


def test_an_installation_that_hangs_is_ended_and_not_taken_for_whole(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_INSTALL_SECONDS", 2.0)
    world.write_model(install='python: "3.11"\ncommands: ["echo waiting for a password; sleep 1000"]\n')
    folder = find_model("eos9abc", [world.models_dir])
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"eos9abc could not be made: bash .* had not ended after 2 s: waiting for"
        ):
            model_environment(folder, tmp_path)


def test_a_model_has_a_home_of_its_own(world, tmp_path: Path) -> None:
    world.write_model()
    variables = model_environment(find_model("eos9abc", [world.models_dir]), tmp_path)
    home = Path(variables["HOME"])
    assert home.is_dir()
    assert home.is_relative_to(tmp_path)

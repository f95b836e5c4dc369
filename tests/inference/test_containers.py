"""The command lines of container programs, and which program is chosen."""

import shutil
from pathlib import Path

import pytest

from precalc_assets.inference.containers import find_program, get_commands, run_command
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.platform_errors import ModelError
from precalc_assets.settings import Settings

MODEL = "eos9abc"
IMAGE = "docker.io/ersiliaos/eos3b5e:v1.0.0"


@pytest.mark.parametrize(
    ("program", "network", "expected", "close"),
    [
        (
            "docker",
            False,
            "docker run --rm --stop-timeout 0 --name x --network none --volume /s:/mnt --entrypoint sh "
            f"{IMAGE} -c true",
            "docker rm --force x",
        ),
        (
            "podman",
            True,
            f"podman run --rm --stop-timeout 0 --name x --volume /s:/mnt --entrypoint sh {IMAGE} -c true",
            "podman rm --force x",
        ),
        (
            "apptainer",
            False,
            "apptainer exec --containall --cleanenv --no-home --writable-tmpfs --net --network none --bind /s:/mnt"
            f" {IMAGE} sh -c true",
            "true",
        ),
        (
            "ch-run",
            False,
            f"unshare --map-root-user --net -- ch-run --unset-env=* --private-tmp --bind=/s:/mnt {IMAGE} -- sh -c true",
            "true",
        ),
    ],
)
def test_command_line_of_a_container(program: str, network: bool, expected: str, close: str) -> None:
    run, end = run_command(program, IMAGE, Path("/s"), "true", name="x", network=network)
    assert (" ".join(run), " ".join(end)) == (expected, close)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("docker", [f"docker pull {IMAGE}"]),
        ("apptainer", [f"apptainer pull /c/image.sif docker://{IMAGE}"]),
        ("ch-run", [f"ch-image pull {IMAGE}", f"ch-convert -i ch-image -o dir {IMAGE} /c/image.sif"]),
    ],
)
def test_command_lines_that_get_an_image(program: str, expected: list[str]) -> None:
    assert [" ".join(command) for command in get_commands(program, IMAGE, Path("/c/image.sif"))] == expected


@pytest.mark.parametrize(
    ("named", "there", "found"), [("", {"podman", "ch-run"}, "podman"), ("ch-run", {"podman", "ch-run"}, "ch-run")]
)
def test_program_is_the_named_or_the_first(monkeypatch, named: str, there: set[str], found: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    assert find_program(named) == found


@pytest.mark.parametrize("named", ["", "apptainer"])
def test_missing_container_program_is_named(monkeypatch, named: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ModelError, match=rf"{named or 'docker'}.* on the PATH.*PRECALC_MODEL_BACKEND=framework"):
        find_program(named)


def test_release_that_is_no_tag_is_refused(world, monkeypatch) -> None:
    world.write_model(release="")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    settings = Settings(models_dir=(world.models_dir,), model_backend="image", cache_dir=world.root)
    with pytest.raises(ModelError, match=r"has the release 'content-\w+', and images have tags such as v1\.0\.0"):
        open_backend(open_model(MODEL, settings), settings)

"""Models of the hub: when they are fetched again, and the errors for unknown versions.

Here, the CLI is a script, and the hub is a folder that it copies from.
"""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from precalc_assets.inference.ersilia import ersilia_backend, slot
from precalc_assets.inference.ersilia.ersilia_backend import ErsiliaBackend, fetch_from_hub
from precalc_assets.models.folder import find_model
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.settings import Settings

MODEL = "eos3b5e"
A_DAY = 24 * 3600

CLI = """#!/bin/sh
echo "$@, configured in $DOCKER_CONFIG" >> {log}
if [ -e {down} ]; then
    echo "✖ the image was not found"
    echo "✖ something went wrong"
    exit 1
fi
mkdir -p "$HOME/eos/dest" && cp -r {hub} "$HOME/eos/dest/"
"""


class Hub:
    """A hub with one model as an image and a repository, and a machine whose CLI fetches it."""

    def __init__(self, world, root: Path) -> None:
        self._world = world
        self._log = root / "fetches.txt"
        self._down = root / "down"
        self.cache_dir = root / "cache"
        self.hub = Settings(hub_url=f"file://{world.models_dir}", cache_dir=self.cache_dir)
        self.program = root / "ersilia"
        self.program.write_text(CLI.format(log=self._log, down=self._down, hub=world.models_dir / MODEL))
        self.program.chmod(0o755)

    def has(self, release: str, *, card: str = "", megabytes: float = 1.0) -> None:
        """Release the model; its image's card may be of an earlier release."""
        folder = self._world.write_model(model=MODEL, release=card or release)
        with (folder / "metadata.yml").open("a") as file:
            file.write(f"Image Size: {megabytes}\n")
        user = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        commit = [*user, "commit", "--message=Change it", "--allow-empty"]
        for words in (["init"], ["add", "metadata.yml"], commit, ["tag", release]):
            subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

    def goes_down(self) -> None:
        self._down.touch()

    def commands(self) -> list[str]:
        """Return the commands that the CLI has received."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def fetches(self) -> int:
        return len(self.commands())

    def release(self, model: str = MODEL) -> str:
        return fetch_from_hub(model, self.hub).metadata.release

    def days_pass(self, days: float) -> None:
        then = time.time() - days * A_DAY
        for mark in self.cache_dir.glob("ersilia/*/home/fetched"):
            os.utime(mark, (then, then))


@pytest.fixture
def hub(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(world, tmp_path)
    hub.has("v1.0.0")
    monkeypatch.setattr(slot, "ersilia_program", lambda cache_dir: hub.program)
    return hub


def test_a_hub_model_is_fetched_once_a_day(hub: Hub) -> None:
    assert hub.release() == "v1.0.0"
    hub.has("v1.1.0")
    hub.days_pass(0.9)
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 1)
    hub.days_pass(1.1)
    assert (hub.release(), hub.release(), hub.fetches()) == ("v1.1.0", "v1.1.0", 2)


def test_a_version_is_fetched_at_its_newest_tag(hub: Hub) -> None:
    with pytest.raises(UsageError, match=r"eos3b5e has no release v2; its releases: v1\.0\.0"):
        hub.release("eos3b5e-v2")
    assert hub.commands() == []
    for release in ("v2.0.0", "v2.1.0", "v3.0.0"):
        hub.has(release, card="v1.0.0")
    assert hub.release("eos3b5e-v2") == hub.release("eos3b5e-v2") == "v2.1.0"
    assert [command.partition(",")[0] for command in hub.commands()] == ["fetch eos3b5e --version v2.1.0"]


def test_an_image_too_large_for_the_disk_is_not_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.has("v1.1.0", megabytes=10_000_000_000)
    monkeypatch.setattr(ersilia_backend, "_DOCKER_ROOT", tmp_path)
    with pytest.raises(ModelError, match=r"needs 10,000,000,000 MB, and the disk of .* `docker system prune"):
        hub.release()
    assert hub.commands() == []


def test_an_image_of_unknown_size_is_fetched_with_a_warning(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(hub.hub.hub_url.removeprefix("file://") + f"/{MODEL}/.git")
    assert hub.release() == "v1.0.0"
    assert "the size of eos3b5e's image is unknown before the fetch: there is no repository" in caplog.text


@pytest.mark.parametrize(("variable", "where"), [("", "{home}/.docker"), ("/etc/docker-config", "/etc/docker-config")])
def test_docker_is_configured_as_it_is_for_the_user(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, where: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    if variable:
        monkeypatch.setenv("DOCKER_CONFIG", variable)
    hub.release()
    assert hub.commands() == [f"fetch {MODEL}, configured in {where.format(home=tmp_path)}"]


@pytest.mark.parametrize(("programs", "words"), [([], "conda is not on the PATH"), (["conda"], "has no Dockerfile")])
def test_a_missing_requirement_of_the_cli_is_named(
    hub: Hub, world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], words: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    folder = find_model(MODEL, [world.models_dir])
    with (
        slot.taken_slot(MODEL, hub.cache_dir) as taken,
        pytest.raises(ModelError, match=f"{words}.*PRECALC_MODEL_BACKEND=framework"),
    ):
        taken.fetch(folder)
    assert hub.commands() == []


@pytest.mark.parametrize(
    ("mode", "in_container", "is_made"),
    [("system", False, True), ("conda", True, False), (None, True, True), (None, False, False)],
)
def test_cli_has_the_models_python_where_it_runs_the_systems(
    hub: Hub,
    world,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    in_container: bool,
    is_made: bool,
) -> None:
    bin_of_model = tmp_path / "environment" / "bin"
    made = SimpleNamespace(variables={"PATH": f"{bin_of_model}:{tmp_path}:{os.defpath}"})
    monkeypatch.setattr(slot, "model_environment", lambda folder, cache_dir: made)
    monkeypatch.setattr(slot, "_IN_CONTAINER", tmp_path if in_container else tmp_path / "missing")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    (tmp_path / "conda").touch(mode=0o755)
    hub.program.write_text('#!/bin/sh\necho "$PATH" > "$HOME/path"\n')
    folder = find_model(MODEL, [world.models_dir])
    (folder.path / "Dockerfile").touch()
    if mode:
        (folder.path / "config.json").write_text(json.dumps({"default_mode": mode}))
    with slot.taken_slot(MODEL, hub.cache_dir) as taken:
        taken.fetch(folder)
    found = (hub.cache_dir / "ersilia" / f"{MODEL}-0" / "home" / "path").read_text()
    assert (str(bin_of_model) in found) is is_made


def test_a_fetched_version_stays_when_the_hub_has_a_later_one(hub: Hub) -> None:
    assert hub.release("eos3b5e-v1") == "v1.0.0"
    hub.has("v2.0.0")
    hub.days_pass(100)
    assert hub.release("eos3b5e-v1") == "v1.0.0"


def test_a_copy_stays_in_use_when_a_new_fetch_fails(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.release()
    hub.days_pass(2)
    hub.goes_down()
    assert hub.release() == "v1.0.0"
    assert "the image was not found" in caplog.text
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 3)


def test_a_copy_stays_in_use_when_a_new_fetch_is_killed(hub: Hub) -> None:
    hub.release()
    home = hub.cache_dir / "ersilia" / f"{MODEL}-0" / "home"
    home.rename(home.with_name("home-before"))
    shutil.copytree(home.with_name("home-before") / "eos", home / "half" / "of" / "it")
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 1)
    assert not (home / "half").exists()


def test_a_failed_fetch_shows_the_cli_s_first_error(hub: Hub) -> None:
    hub.goes_down()
    with pytest.raises(ModelError, match="ersilia fetch eos3b5e exited 1: the image was not found"):
        hub.release()


def test_a_release_that_changes_after_opening_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_from_hub(MODEL, hub.hub)
    served = []
    monkeypatch.setattr(slot.Slot, "serve", lambda self, folder: served.append(self) or "http://127.0.0.1:9")
    with slot.taken_slot(MODEL, hub.cache_dir):  # another worker has the copy that was opened
        hub.has("v1.1.0")
        opened = ErsiliaBackend(folder, hub.hub)
        with pytest.raises(ModelError, match=r"from the release v1\.0\.0 to v1\.1\.0; run the same command again"):
            opened.__enter__()
        assert served == []
        assert hub.release() == "v1.1.0"

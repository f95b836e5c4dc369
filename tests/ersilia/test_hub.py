"""Models of the hub: when they are fetched anew, and what is said of a version that the hub does not have.

The CLI is a script here, and the hub a folder that it copies from.
"""

import os
import shutil
import time
from pathlib import Path

import pytest

from precalc_assets.errors import ModelError
from precalc_assets.inference.ersilia import ErsiliaRunner, fetch_from_hub, slot

MODEL = "eos3b5e"
A_DAY = 24 * 3600

CLI = """#!/bin/sh
echo fetch >> {log}
if [ -e {down} ]; then
    echo "✖ the image was not found"
    echo "✖ something went wrong"
    exit 1
fi
mkdir -p "$HOME/eos/dest" && cp -r {hub} "$HOME/eos/dest/"
"""


class Hub:
    """A hub with one model, and the machine whose CLI fetches it."""

    def __init__(self, world, root: Path) -> None:
        self._world = world
        self._log = root / "fetches.txt"
        self._down = root / "down"
        self.cache_dir = root / "cache"
        self.program = root / "ersilia"
        self.program.write_text(CLI.format(log=self._log, down=self._down, hub=world.models_dir / MODEL))
        self.program.chmod(0o755)

    def has(self, release: str) -> None:
        self._world.write_model(model=MODEL, release=release)

    def goes_down(self) -> None:
        self._down.touch()

    def fetches(self) -> int:
        return len(self._log.read_text().splitlines())

    def release(self, model: str = MODEL) -> str:
        return fetch_from_hub(model, self.cache_dir).metadata.release

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


def test_a_model_of_the_hub_is_fetched_once_a_day_and_then_has_the_release_of_that_day(hub: Hub) -> None:
    assert hub.release() == "v1.0.0"
    hub.has("v1.1.0")
    hub.days_pass(0.9)
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 1)
    hub.days_pass(1.1)
    assert (hub.release(), hub.release(), hub.fetches()) == ("v1.1.0", "v1.1.0", 2)


def test_a_version_that_was_asked_for_too_early_is_had_when_the_hub_has_it(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"release v1\.0\.0 of eos3b5e, and eos3b5e-v2 .* PRECALC_MODELS_DIR"):
        hub.release("eos3b5e-v2")
    hub.has("v2.0.0")
    assert hub.release("eos3b5e-v2") == "v2.0.0"


def test_a_version_that_was_asked_for_stays_when_the_hub_has_a_later_one(hub: Hub) -> None:
    assert hub.release("eos3b5e-v1") == "v1.0.0"
    hub.has("v2.0.0")
    hub.days_pass(100)
    assert hub.release("eos3b5e-v1") == "v1.0.0"


def test_a_copy_that_cannot_be_fetched_anew_stays_in_use(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.release()
    hub.days_pass(2)
    hub.goes_down()
    assert hub.release() == "v1.0.0"
    assert "the image was not found" in caplog.text
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 3)


def test_a_copy_stays_when_the_attempt_to_fetch_another_is_killed(hub: Hub) -> None:
    hub.release()
    home = hub.cache_dir / "ersilia" / f"{MODEL}-0" / "home"
    home.rename(home.with_name("home-before"))
    shutil.copytree(home.with_name("home-before") / "eos", home / "half" / "of" / "it")
    assert (hub.release(), hub.fetches()) == ("v1.0.0", 1)
    assert not (home / "half").exists()


def test_a_fetch_that_fails_says_why_in_the_first_words_of_the_cli(hub: Hub) -> None:
    hub.goes_down()
    with pytest.raises(ModelError, match="ersilia fetch eos3b5e exited 1: the image was not found"):
        hub.release()


def test_a_hub_that_changes_between_opening_a_model_and_running_it_is_found_out(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_from_hub(MODEL, hub.cache_dir)
    served = []
    monkeypatch.setattr(slot.Slot, "serve", lambda self, folder: served.append(self) or "http://127.0.0.1:9")
    with slot.taken_slot(MODEL, hub.cache_dir):  # another worker has the copy that was opened
        hub.has("v1.1.0")
        runner = ErsiliaRunner(folder, cache_dir=hub.cache_dir, batch_size=1, batch_timeout=1.0, restart_batches=1)
        with pytest.raises(ModelError, match=r"from the release v1\.0\.0 to v1\.1\.0; run the same command again"):
            runner.__enter__()
        assert served == []
        assert hub.release() == "v1.1.0"

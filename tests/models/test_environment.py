"""The environments of models: complete or absent."""

import fcntl
import logging
import pwd
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from precalc_assets.models import environment
from precalc_assets.models.environment import Environment, model_environment
from precalc_assets.models.folder import find_model
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.settings import load_settings

pytestmark = pytest.mark.slow


def python_of(made: Environment) -> Path:
    return Path(made.variables["VIRTUAL_ENV"]) / "bin" / "python"


def test_environment_without_its_python_is_made_again(world, tmp_path: Path) -> None:
    world.write_model()
    folder = find_model("eos9abc", [world.models_dir])
    python = python_of(model_environment(folder, tmp_path))
    python.unlink()
    python.symlink_to(tmp_path / "uninstalled")
    assert python_of(model_environment(folder, tmp_path)).exists()


def test_hanging_installation_times_out_and_is_not_reused(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_INSTALL_SECONDS", 8.0)
    world.write_model(install="python: '3.11'\ncommands: [\"bash -c 'echo waiting for a password; sleep 1000'\"]\n")
    folder = find_model("eos9abc", [world.models_dir])
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"eos9abc could not be made: `bash -c .* timed out after 8 s: waiting for"
        ):
            model_environment(folder, tmp_path)


def test_a_model_has_a_home_of_its_own(world, tmp_path: Path) -> None:
    world.write_model()
    made = model_environment(find_model("eos9abc", [world.models_dir]), tmp_path)
    home = Path(made.variables["HOME"])
    assert home.is_dir()
    assert home.is_relative_to(tmp_path)


def locked(path: Path) -> IO[bytes]:
    """Lock a file, until it is closed."""
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run some work in a thread, and join it after the context."""
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join()


def test_environment_waits_for_the_installer_of_a_killed_process(world, tmp_path: Path) -> None:
    world.write_model()
    folder = find_model("eos9abc", [world.models_dir])
    path = python_of(model_environment(folder, tmp_path)).parents[1]
    (path / "ready").unlink()
    (path / "half-installed").touch()
    guard = locked(path.with_name(f"{path.name}.guard.lock"))  # as held by the guard while it ends the installer
    with guard, in_a_thread(lambda: model_environment(folder, tmp_path)) as maker:
        maker.join(1.0)
        assert maker.is_alive()
        assert (path / "half-installed").exists()
        guard.close()
    assert (path / "ready").exists()
    assert not (path / "half-installed").exists()


def test_making_an_environment_and_waiting_for_it_are_logged(
    world, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.write_model()
    folder = find_model("eos9abc", [world.models_dir])
    path = python_of(model_environment(folder, tmp_path)).parents[1]
    assert caplog.messages == ["making the environment of eos9abc (once)"]
    other = locked(path.with_name(f"{path.name}.lock"))
    with other, in_a_thread(lambda: model_environment(folder, tmp_path)) as waiting:
        waiting.join(1.0)
        assert caplog.messages[1:] == ["waiting for another process that makes the environment of eos9abc"]
        other.close()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numeric user without a home folder, as in some containers."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
def test_without_a_home_environments_need_a_cache_folder(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_model()
    folder = find_model("eos9abc", [world.models_dir])
    monkeypatch.delenv("PRECALC_CACHE_DIR", raising=False)
    with pytest.raises(UsageError, match="set PRECALC_CACHE_DIR"):
        model_environment(folder, load_settings().cache_dir)
    load_settings.cache_clear()
    monkeypatch.setenv("PRECALC_CACHE_DIR", str(tmp_path))
    assert python_of(model_environment(folder, load_settings().cache_dir)).is_relative_to(tmp_path)

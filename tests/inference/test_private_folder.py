"""A backend's private copy of a model's folder: it isolates the files that the model writes, and is removed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from precalc_assets.inference.model_backend import BatchError

HUB_RUN = "python $1/code/main.py $2 $3\n"
"""Like the hub's template, without quotes and without `set -e`."""

HABITS = """
root = os.path.dirname(os.path.abspath(__file__))
sys.path.append(root)
import neighbour
found = open(os.path.join(root, "..", "..", "checkpoints", "small.txt")).read()
assert open(os.path.join(root, "../../checkpoints/large.bin"), "rb").read(3) == b"xxx"
features = os.path.join(root, "..", "features.npz")
assert not os.path.exists(features), "somebody's features"
open(features, "w").write("")
open(os.path.join(root, "..", "..", "checkpoints", "small.txt"), "a").write("spoiled")
write("\\n".join(["text", *(f"{found}{neighbour.MARK}{s}" for s in given)]) + "\\n")
"""


@pytest.fixture
def habits(world) -> Path:
    """A model that writes next to its code and into its checkpoints, and imports a neighbouring module."""
    folder = world.write_model(columns=[("text", "string")], script=HABITS.replace("\\\\", "\\"), run=HUB_RUN)
    checkpoints = folder / "model" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "small.txt").write_text("found ")
    (checkpoints / "large.bin").write_bytes(b"x" * (1 << 21))
    (folder / "model" / "framework" / "code" / "neighbour.py").write_text("MARK = 'by '\n")
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, initially empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the content and attributes of a folder's files and folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def test_a_model_may_write_and_its_folder_stays_untouched(world, habits: Path, scratch: Path) -> None:
    before = state(habits)
    with world.backend() as backend:
        assert backend.predict(["C", "CC"]) == [b"found by C", b"found by CC"]
        assert backend.predict(["CCC"]) == [b"found by CCC"]
        (copied,) = scratch.iterdir()
        assert sum(path.lstat().st_size for path in copied.rglob("*") if path.is_file()) < 1 << 20
    assert state(habits) == before
    assert not list(scratch.iterdir())


def test_two_runners_do_not_see_each_others_files(world, habits: Path) -> None:
    with world.backend() as one, world.backend() as other:
        assert [one.predict(["C"]), other.predict(["C"])] == [[b"found by C"]] * 2


def test_a_read_only_checkout_can_be_run(world, habits: Path) -> None:
    paths = [habits, *habits.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with world.backend() as backend:
            assert backend.predict(["C"]) == backend.predict(["C"]) == [b"found by C"]
    finally:
        for path in paths:
            path.chmod(0o755)


@pytest.mark.parametrize("name", ["with a blank", "with*star"])
def test_a_path_with_a_blank_reaches_no_script(new_world, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world = new_world(name)
    world.write_model(run=HUB_RUN)
    (world.root / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(world.root / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with world.backend() as backend:
        assert backend.predict(["CCC"]) == [b'1.0,3,"CCC"']


def test_a_script_with_carriage_returns_is_run(world) -> None:
    folder = world.write_model(run=None)
    script = b"#!/bin/bash\r\nif true; then\r\n  python $1/code/main.py $2 $3\r\nfi\r\n"
    (folder / "model" / "framework" / "run.sh").write_bytes(script)
    with world.backend() as backend:
        assert backend.predict(["CCC"]) == [b'1.0,3,"CCC"']


LINKS = """
os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
text = "".join(open(name).read() for name in ("inside", "outside", "far/file"))
open("inside", "w").write("spoiled")
write("\\n".join(["text", *(text for _ in given)]) + "\\n")
"""


def test_links_lead_where_they_led(world, tmp_path: Path) -> None:
    folder = world.write_model(columns=[("text", "string")], script=LINKS)
    model = folder / "model"
    for path, content in {model / "kept": "a", tmp_path / "kept": "b", tmp_path / "far" / "file": "c"}.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (model / "inside").symlink_to(model / "kept")
    (model / "outside").symlink_to(os.path.relpath(tmp_path / "kept", model))
    (model / "far").symlink_to(tmp_path / "far")
    with world.backend() as backend:
        assert backend.predict(["C"]) == backend.predict(["C"]) == [b"abc"]
    assert (model / "kept").read_text() == "a"


def test_a_failure_names_the_models_own_file(world) -> None:
    folder = world.write_model(script="sys.exit(f'{__file__} is wrong')")
    with world.backend() as backend, pytest.raises(BatchError) as error:
        backend.predict(["C"])
    assert str(error.value) == f"run.sh exited 1: {folder}/model/framework/code/main.py is wrong"


def test_a_folder_that_cannot_be_copied_is_an_error(world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world.write_model()
    world.build_library()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    outcomes = world.predict()
    assert all("eos9abc cannot be run" in outcome.failure and "TMPDIR" in outcome.failure for outcome in outcomes)


KILLED = """
import sys, time
from pathlib import Path
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.models.folder import find_model
from precalc_assets.settings import Settings
folder = find_model("eos9abc", [Path(sys.argv[1])])
with FrameworkBackend(folder, Settings(cache_dir=Path(sys.argv[2]))) as backend:
    backend.predict(["C"])
    print("answered", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_kill_between_calls_leaves_no_folder(world, scratch: Path, number: signal.Signals) -> None:
    world.write_model()
    command = [sys.executable, "-c", KILLED, str(world.models_dir), str(world.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"answered\n"
        assert list(scratch.iterdir())
        process.send_signal(number)
    deadline = time.monotonic() + 20
    while list(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(scratch.iterdir())

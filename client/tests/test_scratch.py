"""Folders for temporary files: removed on exit, and after a kill by the next process, unless somebody uses them."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from precalc.scratch import scratch_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks on folders")

HOLD = """
from precalc.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_bytes(b"x")
    print(folder, flush=True)
    input()
"""


def start(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=os.environ | {"TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_on_exit(tmp_path):
    process, folder = start(tmp_path)
    assert folder.is_dir()
    process.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    others = tmp_path / "precalc-of-mine"
    others.mkdir()
    alive, held = start(tmp_path)
    killed, left = start(tmp_path)
    killed.kill()
    killed.communicate()
    assert left.is_dir()
    following, new = start(tmp_path)
    assert {held, new, others} == set(tmp_path.iterdir())
    for process in (alive, following):
        process.communicate("\n")
    assert list(tmp_path.iterdir()) == [others]


def test_a_living_process_keeps_its_folder_even_when_stopped_and_old(tmp_path):
    living, held = start(tmp_path)
    living.send_signal(signal.SIGSTOP)
    os.utime(held, (0, 0))
    following, _ = start(tmp_path)
    assert (held / "large").exists()
    living.send_signal(signal.SIGCONT)
    for process in (living, following):
        process.communicate("\n")


def test_many_at_once_do_not_take_each_others_folders(tmp_path):
    until = time.monotonic() + 2

    def work(number: int) -> int:
        rounds = 0
        while time.monotonic() < until:
            with scratch_folder(str(tmp_path)) as folder:
                (folder / "mine").write_text(str(number))
                time.sleep(0.001)
                assert (folder / "mine").read_text() == str(number)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 20
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_has_folders_that_nobody_sweeps(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch_folder(str(tmp_path)) as folder, scratch_folder(str(tmp_path)) as other:
        assert {folder, other} == set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())

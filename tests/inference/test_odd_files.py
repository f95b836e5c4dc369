"""What a model may leave in place of a file: none of it hangs, fills the memory, or is taken for an output."""

import os
import socket
import time
from pathlib import Path

import pytest

from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.platform_errors import ModelError
from precalc_assets.processes import last_line, last_lines, run_guarded

LEAVE = "name = sys.argv[2]\n{code}"

ODD = {
    "a pipe": ("os.mkfifo(name)", "it is not a regular file"),
    "a device": ("os.symlink('/dev/zero', name)", "it is not a regular file"),
    "a folder": ("os.mkdir(name)", "it is not a regular file"),
    "a socket": ("import socket; socket.socket(socket.AF_UNIX).bind(name)", "it is not a regular file"),
    "a link to itself": ("os.symlink(name, name)", "it cannot be opened: Too many levels of symbolic links"),
    "a sparse file": ("open(name, 'w').truncate(1 << 40)", "it has 1,099,511,627,776 bytes, and at most 1,247,488"),
    "a huge file": ("open(name, 'w').write('score\\n' * 300_000)", "and at most 1,247,488 are read"),
}


@pytest.mark.parametrize(("code", "reason"), ODD.values(), ids=ODD)
def test_an_output_that_is_no_file_is_an_error_of_the_call(world, code: str, reason: str) -> None:
    world.write_model(script=LEAVE.format(code=code))
    with world.backend() as backend:
        started = time.monotonic()
        with pytest.raises(BatchError, match=r"run\.sh wrote an output file that cannot be read: ") as error:
            backend.predict(["C", "CC", "CCC"])
        assert reason in str(error.value)
        assert time.monotonic() - started < 20


def test_a_dangling_link_is_no_output(world) -> None:
    world.write_model(script=LEAVE.format(code="os.symlink('/nowhere', name)"))
    with world.backend() as backend, pytest.raises(BatchError, match=r"run\.sh exited 0 but wrote no output file"):
        backend.predict(["C"])


def test_an_odd_output_loses_only_its_molecule(world) -> None:
    odd = "os.mkfifo(sys.argv[2]) if 'CCO' in given else write('\\n'.join([HEADER, *map(answer, given)]))"
    world.write_model(script=odd)
    world.build_library(["C", "CC", "CCO"])
    outcomes = world.predict(max_failure_rate=1.0)
    assert sum(outcome.facts["quarantined"] for outcome in outcomes) == 1
    assert sum(outcome.facts["rows"] for outcome in outcomes) == 3


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_a_log_that_is_no_file_hides_no_failure(world, kind: str) -> None:
    put = {"pipe": "os.mkfifo(log)", "device": "os.symlink('/dev/zero', log)", "folder": "os.mkdir(log)", "nothing": ""}
    world.write_model(script=f"log = 'log.txt'\nos.unlink(log)\n{put[kind]}\nsys.exit(3)")
    with world.backend() as backend, pytest.raises(BatchError, match=r"run\.sh exited [13]: ") as error:
        backend.predict(["C"])
    assert "its log cannot be read" in str(error.value) or "it printed nothing" in str(error.value)


def test_a_pipe_in_place_of_a_log_blocks_no_next_program(tmp_path: Path) -> None:
    options = {"env": dict(os.environ), "cwd": tmp_path, "log": tmp_path / "log"}
    assert run_guarded(["sh", "-c", "rm log; mkfifo log"], timeout=20, **options) == 0
    assert run_guarded(["echo", "said"], timeout=20, **options) == 0
    assert last_line(tmp_path / "log") == "said"


@pytest.mark.parametrize("name", ["metadata.yml", "install.yml", "model/framework/columns/run_columns.csv"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "sparse"])
def test_odd_files_of_a_model_folder_are_refused(world, name: str, kind: str) -> None:
    folder = world.write_model()
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(ModelError), world.backend():
        pass


def test_a_socket_and_a_file_of_proc_are_not_read(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)
        listening.bind("socket")
        with pytest.raises(ForeignFileError, match="it is not a regular file"):
            read_foreign(tmp_path / "socket", 10)
    assert read_foreign(Path("/proc/self/environ"), 10) == b""


def test_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(1 << 34)
        file.seek(0, os.SEEK_END)
        file.write(b"\nfirst\nlast\n")
    assert last_line(log) == "last"
    assert last_lines(log).endswith("first last")

"""Third-party programs: the variables that they see, and that none outlives our process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from precalc_assets.processes import clean_variables, hold, last_line, run_guarded

STUBBORN = "trap '' TERM INT HUP; while :; do sleep 0.1; done"
DAEMON = f"(setsid sh -c '(setsid sh -c \"{STUBBORN}\" daemon-$0 &)' $0 &)"
"""Leaves an orphan in another session that ignores all signals but SIGKILL."""


class Place:
    """A folder for commands, and a mark in their arguments that identifies their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        self.mark = folder.name

    @property
    def options(self) -> dict[str, object]:
        return {"env": clean_variables(self.folder), "cwd": self.folder, "log": self.log}

    def shell(self, script: str) -> list[str]:
        return ["sh", "-c", script, self.mark]

    def run(self, script: str, *, timeout: float = 20.0) -> int:
        return run_guarded(self.shell(script), timeout=timeout, **self.options)

    def left(self) -> list[list[str]]:
        """Return the command lines of processes with the mark."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if process.pid != os.getpid() and any(self.mark in word for word in command[2:]):
                found.append(command)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / f"place-{time.time_ns()}"
    folder.mkdir()
    return Place(folder)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM 0", 143)])
def test_the_exit_code_is_the_commands(place: Place, script: str, code: int) -> None:
    assert place.run(script) == code


def test_a_command_that_does_not_exist_ends_with_127_and_says_so(place: Place) -> None:
    assert run_guarded(["no-such-program"], timeout=20, **place.options) == 127
    assert last_line(place.log) == "no-such-program cannot be started: No such file or directory"


def test_a_machine_that_can_start_no_process_is_an_os_error(place: Place) -> None:
    nowhere = place.folder / "nowhere" / "lock"
    with pytest.raises(FileNotFoundError, match="no process can be started: No such file or directory"):
        run_guarded(["true"], timeout=20, lock=nowhere, **place.options)
    with pytest.raises(FileNotFoundError, match="no process can be started"):
        hold(["true"], close=["true"], timeout=20, lock=nowhere, **place.options)


def test_output_goes_to_the_log_and_input_is_empty(place: Place) -> None:
    assert place.run("cat; echo out; echo err >&2") == 0
    assert place.log.read_text() == "out\nerr\n"


def test_a_daemon_ends_with_the_command_that_left_it(place: Place) -> None:
    assert place.run(f"{DAEMON}; sleep 0.3; exit 5") == 5
    assert place.left() == []


def test_timeout_is_raised_after_all_processes_have_ended(place: Place) -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 0\.5 seconds"):
        place.run(f"{DAEMON}; {STUBBORN}", timeout=0.5)
    assert place.left() == []


def test_server_is_held_until_its_own_command_closes_it(place: Place) -> None:
    close = place.shell("echo closed > closed")
    end = hold(place.shell(f"{DAEMON}; sleep 0.3"), close=close, timeout=20, **place.options)
    assert len(place.left()) == 3  # the arguments of the guard's two processes have the mark, too
    assert not (place.folder / "closed").exists()
    end()
    assert place.left() == []
    assert (place.folder / "closed").exists()


def test_a_command_that_fails_leaves_no_server(place: Place) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        hold(place.shell(f"{DAEMON}; exit 4"), close=["true"], timeout=20, **place.options)
    assert raised.value.returncode == 4
    assert place.left() == []


def test_a_server_that_does_not_come_up_leaves_nothing(place: Place) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        hold(place.shell(f"{DAEMON}; {STUBBORN}"), close=["true"], timeout=0.5, **place.options)
    assert place.left() == []


HOLDER = """
import sys, time
from pathlib import Path
from precalc_assets.processes import clean_variables, hold, run_guarded
kind, folder, script, close = sys.argv[1:]
folder = Path(folder)
options = {"env": clean_variables(folder), "cwd": folder, "log": folder / "log.txt", "lock": folder / "lock"}
command = ["sh", "-c", script, folder.name]
if kind == "run":
    sys.exit(run_guarded(command, timeout=100, **options) != 137)
hold(command, close=["sh", "-c", close, folder.name], timeout=100, **options)
time.sleep(100)
"""


@pytest.fixture
def holder(place: Place):
    """Start a process that runs a command, or holds a server, until it is killed."""
    processes = []

    def start(kind: str, script: str, close: str = ":") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLDER, kind, str(place.folder), script, close]
        processes.append(subprocess.Popen(command, start_new_session=True))
        wait_for((place.folder / "started").exists)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["run", "hold"])
def test_nothing_survives_a_kill_of_ours(place: Place, holder, kind: str) -> None:
    ending = f"sleep 0.3; touch started; {STUBBORN if kind == 'run' else ':'}"
    process = holder(kind, f"{DAEMON}; {ending}", "touch closed")
    process.kill()
    process.wait()
    wait_for(lambda: not place.left())
    assert (place.folder / "closed").exists() == (kind == "hold")


def test_next_command_waits_for_the_server_of_a_killed_process(place: Place, holder) -> None:
    process = holder("hold", "touch started", "sleep 1; touch closed")
    process.kill()
    command = place.shell("test -e closed")
    assert run_guarded(command, timeout=20, lock=place.folder / "lock", **place.options) == 0


def test_ctrl_c_reaches_us_and_we_end_what_runs(place: Place, holder) -> None:
    process = holder("run", f"echo interrupted by nobody; {DAEMON}; touch started; {STUBBORN}")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) != 0
    assert place.left() == []


def test_a_guard_asked_to_end_goes_on_guarding(place: Place, holder) -> None:
    process = holder("run", f"touch started; {STUBBORN}")
    for child in psutil.Process(process.pid).children():
        child.terminate()
        child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert len(place.left()) == 4


def guards(process: psutil.Process | subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the outer and the inner process of the guard that a process of ours has started."""
    outer = max(psutil.Process(process.pid).children(), key=lambda child: child.create_time())
    (inner,) = outer.children()
    return [outer, inner]


ESCAPES = f"{DAEMON}; (sh -c '{STUBBORN}' $0 &); (setsid sh -c '{STUBBORN}' $0 &); sleep 0.3"
"""Leaves a daemon, a background process and a session of its own."""


@pytest.mark.parametrize("by_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1), (1, 0)], ids=["outer", "inner", "both", "both, inner first"])
def test_nothing_survives_a_kill_of_the_guard(place: Place, holder, killed: tuple[int, ...], by_group: bool) -> None:
    process = holder("run", f"{ESCAPES}; touch started; {STUBBORN}")
    found = guards(process)
    assert len(place.left()) >= 6
    for number in killed:
        (os.killpg if by_group else os.kill)(found[number].pid, signal.SIGKILL)
    assert process.wait(20) == 0
    assert place.left() == []


@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1), (1, 0)], ids=["outer", "inner", "both", "both, inner first"])
def test_no_server_survives_a_kill_of_its_guard(place: Place, killed: tuple[int, ...]) -> None:
    close = place.shell("touch closed")
    end = hold(place.shell(ESCAPES), close=close, timeout=20, **place.options)
    found = guards(psutil.Process())
    for number in killed:
        found[number].kill()
    if len(killed) == 1:
        wait_for(lambda: not place.left())
        assert (place.folder / "closed").exists()
    end()
    assert place.left() == []


def test_a_kill_of_us_and_half_of_the_guard_leaves_nothing(place: Place, holder) -> None:
    process = holder("run", f"{ESCAPES}; touch started; {STUBBORN}")
    outer, _ = guards(process)
    process.kill()
    outer.kill()
    wait_for(lambda: not place.left())


def test_a_second_call_starts_after_the_first_s_processes_ended(place: Place, holder) -> None:
    process = holder("run", f"{ESCAPES}; touch started; {STUBBORN}")
    guards(process)[0].kill()
    seen = place.shell(f"ps -eo args | grep -c '[d]aemon-{place.mark}' > seen; true")
    assert run_guarded(seen, timeout=20, lock=place.folder / "lock", **place.options) == 0
    assert (place.folder / "seen").read_text() == "0\n"


@pytest.mark.parametrize(
    ("name", "passed_on"),
    [
        ("PRECALC_STORE_URL", False),
        ("DAGSTER_HOME", False),
        ("AWS_SECRET_ACCESS_KEY", False),
        ("GITHUB_TOKEN", False),
        ("GITHUB_ACTIONS", False),
        ("UV_PUBLISH_TOKEN", False),
        ("PYTHONPATH", False),
        ("SOME_SECRET", False),
        ("https_proxy", True),
        ("HTTPS_PROXY", True),
        ("REQUESTS_CA_BUNDLE", True),
        ("LC_ALL", True),
        ("PIP_INDEX_URL", False),
        ("UV_INDEX_URL", False),
        ("UV_DEFAULT_INDEX", False),
        ("OMP_NUM_THREADS", True),
        ("CUDA_VISIBLE_DEVICES", True),
    ],
)
def test_a_model_sees_what_it_needs_and_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, passed_on: bool
) -> None:
    monkeypatch.setenv(name, "value")
    variables = clean_variables(tmp_path / "home")
    assert variables.get(name) == ("value" if passed_on else None)
    assert variables["HOME"] == str(tmp_path / "home")


@pytest.mark.parametrize(
    ("name", "passed_on"),
    [("PIP_INDEX_URL", True), ("UV_INDEX_URL", True), ("UV_PUBLISH_TOKEN", False), ("AWS_SECRET_ACCESS_KEY", False)],
)
def test_only_an_installer_sees_the_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, passed_on: bool
) -> None:
    monkeypatch.setenv(name, "value")
    assert (name in clean_variables(tmp_path / "home", installs=True)) == passed_on

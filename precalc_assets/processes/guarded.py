"""Starting third-party programs: their environment variables, and ending them when our process ends.

`guard.py` is the part that must outlive our process. What a program is for belongs in the calling module.
"""

import os
import re
import selectors
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, NotRequired, TypedDict, Unpack, cast

from filelock import FileLock

from precalc_assets.platform_errors import ModelError

_GUARD = Path(__file__).with_name("guard.py")

_PASSED_ON = re.compile(
    r"PATH|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR"
    r"|(HTTP|HTTPS|ALL|NO|FTP)_PROXY|(http|https|all|no|ftp)_proxy"
    r"|SSL_CERT_(FILE|DIR)|NIX_SSL_CERT_FILE|(REQUESTS|CURL)_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS"
    r"|PIP_\w+|UV_(?!PUBLISH_)\w+"
    r"|(OMP|MKL|OPENBLAS|NUMEXPR|VECLIB)_\w+|(CUDA|NVIDIA)_\w+|LD_LIBRARY_PATH"
)
"""Variables that a model gets: locations of programs, mirrors, certificates and devices. A model is a third party's
program, so all others, which may hold tokens, are withheld."""

_CLOSE_SECONDS = 60
"""Timeout of the command that closes a server: it takes 1 to 2 s, with Docker up to 10 s more."""

_LEAST_SPACE = 1 << 16
"""Free bytes below which a disk counts as full: too few for a small file and a log."""

_LOG_TAIL = 64 * 1024
"""Bytes at the end of a log that are searched for its last line."""


class Surroundings(TypedDict):
    """A command's environment variables, working folder and log file.

    `lock` is a file that is locked until everything that the command started has ended, even after our process is
    killed; the next command with that lock waits.
    """

    env: Mapping[str, str]
    cwd: Path
    log: Path
    lock: NotRequired[Path]


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""The unit of getrusage(2)'s `ru_maxrss`, in bytes."""

_peaks: ContextVar[list[int] | None] = ContextVar("peaks", default=None)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Collect the peak memory of each command that ends in the context: its largest process's, in bytes."""
    peaks: list[int] = []
    token = _peaks.set(peaks)
    try:
        yield peaks
    finally:
        _peaks.reset(token)


def find_home() -> Path | None:
    """Return our HOME; None for a user without one, such as a container's numeric user."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def clean_variables(home: Path) -> dict[str, str]:
    """Return the variables for a third-party program, with this folder, created if missing, as its HOME."""
    home.mkdir(parents=True, exist_ok=True)
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    ours = find_home()
    mirrors = ours and ours / ".config" / "pip" / "pip.conf"
    if mirrors and mirrors.exists():
        passed_on.setdefault("PIP_CONFIG_FILE", str(mirrors))  # pip would look for it in its HOME
    return {"PATH": os.defpath, **passed_on, "HOME": str(home)}


def run_guarded(command: Sequence[str], *, timeout: float, **surroundings: Unpack[Surroundings]) -> int:
    """Run a command, end all processes that it left, and return its exit code (127: it could not be started).

    After `timeout` seconds, end the command and its processes, and raise subprocess.TimeoutExpired.
    """
    process = _start_guard(command, (), **surroundings)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise subprocess.TimeoutExpired(list(command), timeout) from None
    finally:
        _end(process)


def wait_until_ended(lock: Path) -> None:
    """Wait until all processes that hold this lock have ended, such as those that a killed process of ours left."""
    with FileLock(lock):
        pass


class HeldServer:
    """A server that a command left running. It ends at `close`, or whenever our process ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def close(self) -> None:
        """Run the closing command, then end the processes that are left."""
        _end(self._process)

    def dismiss(self) -> None:
        """End the server without its closing command, when there is nothing to close."""
        self._process.kill()
        _end(self._process)


def hold(
    command: Sequence[str], *, close: Sequence[str], timeout: float, **surroundings: Unpack[Surroundings]
) -> HeldServer:
    """Run a command that exits 0 and leaves a server, and return the server; `close` is its closing command.

    Raises subprocess.CalledProcessError if the command fails, subprocess.TimeoutExpired if it takes longer than
    `timeout` seconds, after ending all its processes.
    """
    process = _start_guard(command, close, **surroundings)
    try:
        held = _says_held(process, timeout)
        if held is None:
            raise subprocess.TimeoutExpired(list(command), timeout)
        if not held:
            raise subprocess.CalledProcessError(process.wait(), list(command))
    except BaseException:
        _end(process)
        raise
    return HeldServer(process)


def require_space(folder: Path) -> None:
    """Raise ModelError if a folder's disk is full, so that no molecule or model is blamed for it."""
    if shutil.disk_usage(folder).free < _LEAST_SPACE:
        raise ModelError(f"no space left on device for {folder}; free some, or set TMPDIR and PRECALC_CACHE_DIR")


def last_line(log: Path) -> str:
    """Return the last line of a log, at most 300 characters, without control characters."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "it printed nothing"


def last_lines(log: Path, most: int = 700) -> str:
    """Return the last lines of a log, joined: at least one, and more while they fit into `most` characters."""
    lines = [printable(line, most) for line in log.read_text(encoding="utf-8", errors="replace").split("\n")]
    said = ""
    for line in reversed([" ".join(line.split()) for line in lines if line.strip()]):
        if said and len(line) + len(said) > most:
            break
        said = f"{line} {said}".strip()
    return said or "it printed nothing"


def printable(text: str, most: int = 300) -> str:
    """Return the first characters of a program's output, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def _start_guard(
    command: Sequence[str], close: Sequence[str], **surroundings: Unpack[Surroundings]
) -> subprocess.Popen[bytes]:
    settings = [str(surroundings.get("lock", "")), str(_CLOSE_SECONDS), str(len(close))]
    with surroundings["log"].open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *settings, *close, *command],
            env=dict(surroundings["env"]),
            cwd=surroundings["cwd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )


def _says_held(process: subprocess.Popen[bytes], timeout: float) -> bool | None:
    """Return whether the command left a server; None after the timeout."""
    output = cast("IO[bytes]", process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        return output.readline() == b"held\n" if selector.select(timeout) else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the guard watches, and wait until it has ended all processes."""
    cast("IO[bytes]", process.stdin).close()
    with cast("IO[bytes]", process.stdout) as output:
        printed = output.read().split()
    process.wait()
    peaks = _peaks.get()
    if peaks is not None and printed and printed[-1].isdigit():  # a killed guard prints nothing
        peaks.append(int(printed[-1]) * _RSS_UNIT)

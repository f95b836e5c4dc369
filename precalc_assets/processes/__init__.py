"""Starting third-party programs: their environment variables, and ending them when our process ends.

`guard.py` is the part that must outlive our process. What a program is for belongs in the calling module.
"""

import logging
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NotRequired, TypedDict, Unpack, cast

from filelock import FileLock, Timeout

from precalc_assets.foreign_files import ForeignFileError, open_foreign
from precalc_assets.platform_errors import InfrastructureError, ModelError

logger = logging.getLogger(__name__)

_GUARD = Path(__file__).with_name("guard.py")

_PASSED_ON = re.compile(
    r"PATH|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR"
    r"|(HTTP|HTTPS|ALL|NO|FTP)_PROXY|(http|https|all|no|ftp)_proxy"
    r"|SSL_CERT_(FILE|DIR)|NIX_SSL_CERT_FILE|(REQUESTS|CURL)_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS"
    r"|(OMP|MKL|OPENBLAS|NUMEXPR|VECLIB)_\w+|(CUDA|NVIDIA)_\w+|LD_LIBRARY_PATH"
)
"""Variables that a model gets: locations of programs, proxies, certificates and devices. A model is a third party's
program, so all others, which may hold tokens, are withheld."""

_INDEXES = re.compile(r"PIP_\w+|UV_(?!PUBLISH_)\w+")
"""Settings of pip and uv for an installation. The URL of a private index has a password."""

_CLOSE_SECONDS = 60
"""Timeout of the command that closes a server: it takes 1 to 2 s, with Docker up to 10 s more."""

_KILL_SECONDS = 10.0
"""Seconds to wait for killed processes; one that hangs in the kernel may never end."""

NO_ROOM = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Too many open files"
    r"|Resource temporarily unavailable"
)
"""Messages of programs on a machine that lacks something (errno(3))."""

_NO_NETWORK = re.compile(
    r"resolve host|name resolution|Name or service not known|dns error|getaddrinfo|connect error"
    r"|(Failed|unable|Couldn't) to connect|Connection (refused|reset|aborted)|Network is unreachable"
    r"|No route to host|error sending request|Max retries exceeded|timed out|early EOF"
    r"|(SSL|TLS|certificate)[ \w]* (error|fail\w*)|Could not connect to the endpoint"
    r"|\b(429|500|502|503|504) (Too Many Requests|Internal Server Error|Bad Gateway|Service Unavailable|Gateway Time)"
    r"|returned error: (429|5\d\d)|toomanyrequests",
    re.IGNORECASE,
)
"""Messages of git, curl, uv, rattler, Python's and container programs for a server that is not reached or fails."""

_LEAST_SPACE = 1 << 16
"""Bytes that fit onto a disk that is not full: a small file and a log."""

_LOG_TAIL = 1 << 20
"""Bytes at the end of a log that are read."""


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


def clean_variables(home: Path, *, installs: bool = False, own: str = "") -> dict[str, str]:
    """Return the variables for a third-party program, with this folder, created if missing, as its HOME.

    Only a program that `installs` packages gets the settings of their indexes. `own` is a pattern of further variables
    that this program gets.
    """
    home.mkdir(parents=True, exist_ok=True)
    patterns = [_PASSED_ON, *([_INDEXES] if installs else []), *([re.compile(own)] if own else [])]
    passed_on = {name: os.environ[name] for name in os.environ if any(each.fullmatch(name) for each in patterns)}
    ours = find_home()
    mirrors = ours and ours / ".config" / "pip" / "pip.conf"
    if installs and mirrors and mirrors.exists():
        passed_on.setdefault("PIP_CONFIG_FILE", str(mirrors))  # pip would look for it in its HOME
    return {"PATH": os.defpath, **passed_on, "HOME": str(home)}


def run_guarded(command: Sequence[str], *, timeout: float, **surroundings: Unpack[Surroundings]) -> int:
    """Run a command, end all processes that it left, and return its exit code (127: it could not be started).

    After `timeout` seconds, end the command and its processes, and raise subprocess.TimeoutExpired. Raises OSError if
    this machine lacks what it takes to start a process.
    """
    process = _start_guard(command, (), **surroundings)
    try:
        _wait_for_output(process, command, timeout)
        code = process.wait()
        return code if code >= 0 else 128 - code  # a guard that was killed, as shells tell it
    finally:
        _end(process)


def wait_until_ended(lock: Path) -> None:
    """Wait until all processes that hold this lock have ended, such as those that a killed process of ours left."""
    with FileLock(lock):
        pass


@contextmanager
def only_holder(lock: Path, guard_lock: Path, work: str) -> Iterator[None]:
    """Hold a lock, after a killed holder's programs have released `guard_lock`; log a wait for another's `work`."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that %s", work)
        held.acquire()
    try:
        wait_until_ended(guard_lock)
        yield
    finally:
        held.release()


def hold(
    command: Sequence[str], *, close: Sequence[str], timeout: float, **surroundings: Unpack[Surroundings]
) -> Callable[[], None]:
    """Run a command that exits 0 and leaves a server, and return what ends the server, as the end of our process does.

    First the command `close` runs, and then the processes that are left are ended.

    Raises subprocess.CalledProcessError if the command fails, subprocess.TimeoutExpired if it takes longer than
    `timeout` seconds, after ending all its processes.
    """
    process = _start_guard(command, close, **surroundings)
    try:
        said = _wait_for_output(process, command, timeout).readline()
        _raise_error(said.split())
        if said != b"held\n":
            raise subprocess.CalledProcessError(process.wait(), list(command))
    except BaseException:
        _end(process)
        raise
    return partial(_end, process)


def require_space(folder: Path) -> None:
    """Raise InfrastructureError if a small file cannot be written to a folder, so that no molecule or model is blamed.

    Only trying tells: a quota, or a disk without inodes, still has free bytes.
    """
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_LEAST_SPACE))
    except OSError as error:
        raise InfrastructureError(
            f"no file can be written to {folder}: {error.strerror}; free some space, or set TMPDIR and "
            "PRECALC_CACHE_DIR to folders on another disk"
        ) from None


def require_room(folder: Path, megabytes: float, what: str, remedy: str) -> None:
    """Raise InfrastructureError if a folder's disk has no room for `what`; `remedy` says where it could be."""
    free = shutil.disk_usage(folder).free / 1e6
    if free < megabytes:
        left = f"the disk of {folder} has {free:,.0f} MB free"
        raise InfrastructureError(f"{what} needs {megabytes:,.0f} MB, and {left}; free some, or {remedy}")


def program_error(message: str, said: str) -> ModelError:
    """Return the error for a model's program that failed, by what it said: the model's, or the infrastructure's."""
    blames_others = NO_ROOM.search(said) or _NO_NETWORK.search(said)
    return InfrastructureError(message) if blames_others else ModelError(message)


def read_log(log: Path) -> str:
    """Return the end of a program's log, at most 1 MiB."""
    try:
        with open_foreign(log, sys.maxsize) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
            return file.read(_LOG_TAIL).decode("utf-8", "replace")
    except ForeignFileError as error:
        return f"its log cannot be read: {error}"
    except FileNotFoundError:
        return ""


def last_line(log: Path) -> str:
    """Return the last line of a log, at most 300 characters, without control characters."""
    return last_lines(log, 0)[:300]


def last_lines(log: Path, most: int = 700) -> str:
    """Return the last lines of a log, joined: at least one, and more while they fit into `most` characters."""
    said = ""
    for line in reversed([" ".join(line.split()) for line in read_log(log).splitlines() if line.strip()]):
        if said and len(line) + len(said) > most:
            break
        said = f"{line} {said}".strip()
    return printable(said, 700) or "it printed nothing"


def printable(text: str, most: int = 300) -> str:
    """Return the first characters of a program's output, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def _start_guard(
    command: Sequence[str], close: Sequence[str], **surroundings: Unpack[Surroundings]
) -> subprocess.Popen[bytes]:
    settings = [str(surroundings.get("lock", "")), str(_CLOSE_SECONDS), str(len(close))]
    log = surroundings["log"]
    log.unlink(missing_ok=True)  # a program may have left a pipe in its place
    with log.open("xb") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *settings, *close, *command],
            env=dict(surroundings["env"]),
            cwd=surroundings["cwd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )


def _wait_for_output(process: subprocess.Popen[bytes], command: Sequence[str], timeout: float) -> IO[bytes]:
    """Return the guard's output as soon as it prints or ends: `Popen.wait` with a timeout asks only every 50 ms."""
    output = cast("IO[bytes]", process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        if not selector.select(timeout):
            raise subprocess.TimeoutExpired(list(command), timeout)
    return output


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the guard watches, and wait until it has ended all processes."""
    cast("IO[bytes]", process.stdin).close()
    with cast("IO[bytes]", process.stdout) as output:
        printed = output.read().split()
    process.wait()
    _raise_error(printed)
    if not printed or not printed[-1].isdigit():
        _kill_orphans(process.pid)
    elif (peaks := _peaks.get()) is not None:
        peaks.append(int(printed[-1]) * _RSS_UNIT)


def _raise_error(printed: Sequence[bytes]) -> None:
    if printed[:1] == [b"error"]:
        number = int(printed[1])
        raise OSError(number, f"no process can be started: {os.strerror(number)}")


def _kill_orphans(guard: int) -> None:
    """Kill what is left of a command if both processes of its guard were killed: processes with the guard's mark."""
    mark = b"GUARDED_BY=%d" % guard
    deadline = time.monotonic() + _KILL_SECONDS
    found = sys.platform == "linux"
    while found and time.monotonic() < deadline:
        found = False
        for variables in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is not ours
                if mark in variables.read_bytes().split(b"\0"):
                    os.kill(int(variables.parent.name), signal.SIGKILL)
                    found = True

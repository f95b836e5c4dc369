"""Starting programs of somebody else's: which variables they see, and that they end when we end, however we end.

What they are started for is the business of the modules that call this; what has to outlive us is in `guard.py`.
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
"""Variables that a model needs of ours: where programs, mirrors, certificates and devices are. All others stay with us:
a model is somebody else's program, and what it might need of them is not worth a token in its hands."""

_CLOSE_SECONDS = 60
"""A server's own command to close it takes 1 to 2 s; with Docker, up to 10 s for the container."""

_LEAST_SPACE = 1 << 16
"""Bytes that a disk has free on which a small file and a log can be written; those of a full one are fewer."""

_LOG_TAIL = 64 * 1024
"""Bytes of a log that are looked at for its last line, however much was printed."""


class Surroundings(TypedDict):
    """What a command has around it: its variables, its folder, and the file that what it prints goes to.

    `lock` is a file that is locked meanwhile, also beyond a kill of ours: the next to use it waits until all of this
    has ended.
    """

    env: Mapping[str, str]
    cwd: Path
    log: Path
    lock: NotRequired[Path]


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which getrusage(2) counts `ru_maxrss`."""

_peaks: ContextVar[list[int] | None] = ContextVar("peaks", default=None)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Collect the peak memory, in bytes, of each command that ends in the context: that of its largest process."""
    peaks: list[int] = []
    token = _peaks.set(peaks)
    try:
        yield peaks
    finally:
        _peaks.reset(token)


def find_home() -> Path | None:
    """Return our own HOME; None for a user without one, such as the number that a container may run as."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def clean_variables(home: Path) -> dict[str, str]:
    """Return the variables that a program of somebody else's gets, with this folder, made if need be, as its HOME."""
    home.mkdir(parents=True, exist_ok=True)
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    ours = find_home()
    mirrors = ours and ours / ".config" / "pip" / "pip.conf"
    if mirrors and mirrors.exists():
        passed_on.setdefault("PIP_CONFIG_FILE", str(mirrors))  # which pip would look for in the HOME that is not there
    return {"PATH": os.defpath, **passed_on, "HOME": str(home)}


def run_guarded(command: Sequence[str], *, timeout: float, **surroundings: Unpack[Surroundings]) -> int:
    """Run a command and return its exit code (127: it could not be started), after ending all that it left.

    Raises subprocess.TimeoutExpired when all has ended after so many seconds.
    """
    process = _start_guard(command, (), **surroundings)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise subprocess.TimeoutExpired(list(command), timeout) from None
    finally:
        _end(process)


def wait_until_ended(lock: Path) -> None:
    """Wait until all has ended that a process of ours has started with this lock, which may have been killed since."""
    with FileLock(lock):
        pass


class HeldServer:
    """A server that a command has left running. It ends with `close`, and when we end, however that is."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def close(self) -> None:
        """Run the command that closes it, and end what is left of it."""
        _end(self._process)

    def dismiss(self) -> None:
        """End it without the command that closes it, when nothing is left to close."""
        self._process.kill()
        _end(self._process)


def hold(
    command: Sequence[str], *, close: Sequence[str], timeout: float, **surroundings: Unpack[Surroundings]
) -> HeldServer:
    """Run a command that exits 0 and leaves a server, and hold that; `close` is the command that closes it.

    Raises subprocess.CalledProcessError when the command fails, subprocess.TimeoutExpired when it takes so many
    seconds; all has ended then.
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
    """Raise ModelError if the disk of a folder is full: no molecule is to blame then, and no model."""
    if shutil.disk_usage(folder).free < _LEAST_SPACE:
        raise ModelError(f"no space left on device for {folder}; free some, or set TMPDIR and PRECALC_CACHE_DIR")


def last_line(log: Path) -> str:
    """Return the last line of a log, at most 300 characters of it, without what a terminal would obey."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "it printed nothing"


def last_lines(log: Path, most: int = 700) -> str:
    """Return the last lines of a log that are at most so many characters together, joined, and at least one of them."""
    lines = [printable(line, most) for line in log.read_text(encoding="utf-8", errors="replace").split("\n")]
    said = ""
    for line in reversed([" ".join(line.split()) for line in lines if line.strip()]):
        if said and len(line) + len(said) > most:
            break
        said = f"{line} {said}".strip()
    return said or "it printed nothing"


def printable(text: str, most: int = 300) -> str:
    """Return the first characters of what somebody else's program said, without what a terminal would obey."""
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
    """Return whether the command has left a server; None if it has not ended in time."""
    output = cast("IO[bytes]", process.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        return output.readline() == b"held\n" if selector.select(timeout) else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the guard watches, and wait until it has ended all."""
    cast("IO[bytes]", process.stdin).close()
    with cast("IO[bytes]", process.stdout) as output:
        printed = output.read().split()
    process.wait()
    peaks = _peaks.get()
    if peaks is not None and printed and printed[-1].isdigit():  # not of a guard that was killed
        peaks.append(int(printed[-1]) * _RSS_UNIT)

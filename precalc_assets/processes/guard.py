"""Runs a command of somebody else's so that nothing of it outlives us, whatever becomes of us.

A script, started by `guarded.py` in a session of its own as
`python -I -S guard.py LOCK SECONDS N CLOSE… COMMAND…`.
Only what has to go on after our process was killed belongs here. It imports the standard library alone, and little of
that: a model that is called a thousand times starts this a thousand times, in some 25 ms.

Standard input is a pipe whose other end only our process has: when that is closed, by us or by the kernel after a
kill -9, all that the command started is ended. On Linux this process adopts what loses its parent, so that daemons and
other sessions stay beneath it and are found; elsewhere the command's process group is ended.

In the end, the peak memory of the largest process beneath this one is printed, as the system counts it (`ru_maxrss`).

Without CLOSE (N is 0) the exit code of the command is that of this script, after what it left has been ended. With
CLOSE the command is one that leaves a server: when it exits 0, "held" is printed, and the server is kept until standard
input is closed; then CLOSE is run, for at most SECONDS, and what is still there is ended.

LOCK is a file, or empty. It is locked from before the command starts until all has ended, so that whoever comes after a
killed process waits until its place is free.
"""

import ctypes
import fcntl
import os
import select
import signal
import sys
import time

_ADOPT_ORPHANS = 36
"""PR_SET_CHILD_SUBREAPER of linux/prctl.h."""

_PATIENCE = 10.0
"""Seconds for killed processes to go away; one that hangs inside the kernel may never."""

_IS_LINUX = sys.platform == "linux"


class _Children:
    """The processes beneath this one: starting them, waiting for them, ending them."""

    def __init__(self) -> None:
        self.peak = 0
        self._codes: dict[int, int] = {}
        self._wakeup, tell = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(tell, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler, a child's end is written into the pipe
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        if _IS_LINUX:
            ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)

    def start(self, command: list[str]) -> int:
        """Start a command in a session of its own, so that what it does to its process group does not reach us."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # what Python or we ignore would stay ignored
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.execvp(command[0], command)  # noqa: S606 - the command is given as a list
        except OSError as error:
            os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def wait(self, pid: int | None = None, *, heed_input: bool, seconds: float | None = None) -> int | None:
        """Wait for a child to end, or for ever; return its exit code, None if standard input or time ended first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self._reap()
            if pid in self._codes:
                return self._codes[pid]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            ready = select.select([self._wakeup, 0] if heed_input else [self._wakeup], [], [], left)[0]
            if 0 in ready:
                return None
            self._drain()

    def end(self, groups: list[int]) -> None:
        """Kill all that is left, until nothing is."""
        if not _IS_LINUX:
            for pid in groups:
                _kill(-pid)
        deadline = time.monotonic() + _PATIENCE
        while self._reap() and time.monotonic() < deadline:
            for pid in _beneath(os.getpid()) if _IS_LINUX else groups:
                _kill(pid)
            select.select([self._wakeup], [], [], 0.05)
            self._drain()

    def _reap(self) -> bool:
        """Note the exit codes of children that have ended, adopted ones too; return whether any child is left."""
        try:
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return True
                self.peak = max(self.peak, usage.ru_maxrss)
                code = os.waitstatus_to_exitcode(status)
                self._codes[pid] = code if code >= 0 else 128 - code  # as shells do
        except ChildProcessError:
            return False

    def _drain(self) -> None:
        try:  # noqa: SIM105 - contextlib takes longer to import than all the rest
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass


def _kill(pid: int) -> None:
    try:  # noqa: SIM105
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _beneath(ancestor: int) -> list[int]:
    """Return the descendants of a process."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - so does pathlib
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def main() -> int:
    """Do what the module says; return the exit code."""
    lock, seconds, count, *words = sys.argv[1:]
    close, command = words[: int(count)], words[int(count) :]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if lock:
        fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    children = _Children()
    started = [children.start(command)]
    code = children.wait(started[0], heed_input=True)
    if close:
        if code == 0:
            os.write(1, b"held\n")
            children.wait(heed_input=True)
        started.append(children.start(close))
        children.wait(started[1], heed_input=False, seconds=float(seconds))
    children.end(started)
    try:  # noqa: SIM105
        os.write(1, b"%d\n" % children.peak)
    except BrokenPipeError:
        pass  # our process was killed
    return 128 + signal.SIGKILL if code is None else code


if __name__ == "__main__":
    os._exit(main())  # at once: there is nothing to tidy up in the interpreter, which takes 5 ms for it

"""A guard: runs a third-party command and ends all its processes, even after our process or the guard is killed.

`run_guarded` starts this script in its own session as `python -I -S guard.py LOCK SECONDS N CLOSE… COMMAND…`, where
CLOSE has N words. Only what must outlive our process belongs here. The script imports little, and only from the
standard library: it starts with every call of a model, in some 25 ms.

Standard input is a pipe to our process alone. When it is closed, by us or by the kernel after a kill -9, the guard ends
every process that the command started. On Linux the guard adopts orphans, so that it finds daemons and other sessions
among its descendants; elsewhere it ends the command's process group.

On Linux the guard is two processes, each in a session of its own: an outer one that watches an inner one, which starts
the command. If the inner one is killed, the outer one adopts the command's processes and ends them. If the outer one is
killed, a pipe tells the inner one. If both are killed, the kernel kills the command itself, though not its children;
our process finds those by the variable GUARDED_BY, the outer one's process id.

Without CLOSE (N is 0) the guard ends what the command left, and exits with the command's exit code. With CLOSE the
command leaves a server: when the command exits 0, the guard prints "held" and keeps the server until standard input is
closed; then it runs CLOSE, for at most SECONDS, and ends all processes that are left.

If the machine lacks what it takes to start a process, the guard prints "error" and the number of errno(3) first.

At the end the guard prints the peak memory of its largest descendant (`ru_maxrss`, in the system's unit).

LOCK is a file, or empty. It is locked from before the command starts until all processes have ended, so that the next
command with that lock waits for those that a killed process left.
"""

import ctypes
import fcntl
import os
import select
import signal
import sys
import time

_KILL_WITH_PARENT = 1
_DUMPABLE = 4
_ADOPT_ORPHANS = 36
"""PR_SET_PDEATHSIG, PR_SET_DUMPABLE and PR_SET_CHILD_SUBREAPER of linux/prctl.h."""

_KILL_SECONDS = 10.0
"""Seconds to wait for killed processes; one that hangs in the kernel may never end."""

_IS_LINUX = sys.platform == "linux"


class _Children:
    """Starts, awaits and ends the descendants of this process. `ends` are the pipes whose closing tells it to end."""

    def __init__(self, ends: list[int]) -> None:
        self.peak = 0
        self._ends = ends
        self._codes: dict[int, int] = {}
        self._wakeup, tell = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(tell, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler set, the end of a child writes to the pipe
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        if _IS_LINUX:
            ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)

    def start(self, command: list[str]) -> int:
        """Start a command in its own session, so that signals to its process group do not reach us."""
        guard = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        told = os.dup(1)
        try:
            if _IS_LINUX:
                ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(127)  # the guard was killed before that
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # a child inherits ignored signals
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.execvp(command[0], command)  # noqa: S606 - the command is given as a list
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
        except OSError as error:
            os.write(told, b"error %d\n" % (error.errno or 0))
        finally:
            os._exit(127)

    def wait(self, pid: int | None = None, *, until_told: bool, seconds: float | None = None) -> int | None:
        """Wait for a child, or forever; return its exit code, None if a pipe was closed or the time ended first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self._reap()
            if pid in self._codes:
                return self._codes[pid]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            ready = select.select([self._wakeup, *(self._ends if until_told else ())], [], [], left)[0]
            if set(ready) & set(self._ends):
                return None
            self._drain()

    def end(self, groups: list[int]) -> None:
        """Kill all descendants, until none is left."""
        if not _IS_LINUX:
            for pid in groups:
                _kill(-pid)
        deadline = time.monotonic() + _KILL_SECONDS
        while self._reap() and time.monotonic() < deadline:
            for pid in _descendants(os.getpid()) if _IS_LINUX else groups:
                _kill(pid)
            select.select([self._wakeup], [], [], 0.05)
            self._drain()

    def _reap(self) -> bool:
        """Record the exit codes of ended children, adopted ones too; return whether any child is left."""
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
        try:  # noqa: SIM105 - importing contextlib takes longer than all other imports
            os.read(self._wakeup, 4096)
        except BlockingIOError:
            pass


def _kill(pid: int) -> None:
    try:  # noqa: SIM105
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _descendants(ancestor: int) -> list[int]:
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


def _guard(command: list[str], close: list[str], seconds: float, ends: list[int]) -> int:
    """Run the command as the module's docstring describes; return the exit code."""
    children = _Children(ends)
    started = [children.start(command)]
    code = children.wait(started[0], until_told=True)
    if close and code == 0:
        os.write(1, b"held\n")
        children.wait(until_told=True)
    _finish(children, started, close, seconds)
    return 128 + signal.SIGKILL if code is None else code


def _finish(children: _Children, started: list[int], close: list[str], seconds: float) -> None:
    """Run CLOSE, end all processes that are left, and print the peak memory."""
    if close:
        started.append(children.start(close))
        children.wait(started[-1], until_told=False, seconds=seconds)
    children.end(started)
    try:  # noqa: SIM105
        os.write(1, b"%d\n" % children.peak)
    except BrokenPipeError:
        pass  # our process was killed


def main() -> int:
    """Guard the command on the command line; on Linux, watch the process that does."""
    lock, seconds, count, *words = sys.argv[1:]
    close, command = words[: int(count)], words[int(count) :]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if lock:
        fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    if not _IS_LINUX:
        return _guard(command, close, float(seconds), [0])
    ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)
    os.environ["GUARDED_BY"] = str(os.getpid())
    is_outer_gone, held_open = os.pipe()
    ended, tell = os.pipe()
    inner = os.fork()
    if not inner:
        os.setsid()
        os.close(held_open)
        os.close(ended)
        ended_with = _guard(command, close, float(seconds), [0, is_outer_gone])
        os.write(tell, b"\n")
        os._exit(ended_with)
    os.close(is_outer_gone)
    os.close(tell)
    children = _Children([])
    code = children.wait(inner, until_told=False)
    if not os.read(ended, 1):  # it was killed
        _finish(children, [], close, float(seconds))
    return 128 + signal.SIGKILL if code is None else code


if __name__ == "__main__":
    try:
        exit_code = main()
    except OSError as failure:
        os.write(1, b"error %d\n" % (failure.errno or 0))
        exit_code = 127
    os._exit(exit_code)  # skips the interpreter's cleanup, which takes 5 ms

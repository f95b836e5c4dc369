"""A slot: an isolated HOME in which a worker runs the ersilia CLI's commands.

The CLI keeps models, sessions and settings under HOME, and only separate HOMEs isolate two workers (the CLI overwrites
`EOS_HOME`). A slot is such a HOME with a lock: a second worker on the same model takes the next slot. The next run
finds the model that was fetched into a slot.
"""

import json
import logging
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from precalc_assets import processes
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.models.environment import ERSILIA_VERSION, ersilia_program, model_environment
from precalc_assets.models.folder import ModelFolder, digest_files
from precalc_assets.platform_errors import InfrastructureError, ModelError

logger = logging.getLogger(__name__)

_FETCH_SECONDS = 4 * 3600.0
"""Timeout of a fetch. The hub's largest images have some 10 GB, and the CLI may also make a conda environment."""

_SERVE_SECONDS = 600.0
"""Timeout of a serve. Servers start in seconds, containers in minutes; the CLI waits 1,000 s for a dead server."""

_MOST_BYTES = 1 << 20
"""Limit on the size of the CLI's files that are read here."""

_SESSION = "precalc"
"""Name of the session. By default the CLI names it after its parent process, which does not last."""

_IN_CONTAINER = Path("/.dockerenv")
"""The file by which the CLI detects a container (`ersilia/utils/system.py`)."""

_CONFIG = {
    "LOCAL": {"TMP": "'tmp/'", "DEST": "'dest/'", "BUNDLES": "'bundles/'"},
    "HUB": {
        "TOKEN": "None",
        "ORG": "'ersilia-os'",
        "PACKAGE": "'ersilia'",
        "TAG": "'master'",
        "PACK_SCRIPT": "'pack.py'",
        "CONFIG_FILE": "'config.json'",
    },
    "ENV": {
        "CONDA": {"EOS_BASE_ENV": "'eosbase'"},
        "DOCKER": {"REPO_TAG": "'repo'", "LATEST_TAG": "'latest'", "SERVER_BASE_IMAGE": "'model-server'"},
    },
    "EXT": {"DOCKERHUB_ORG": "'ersiliaos'"},
}
"""The settings that the CLI reads from `config.json`; without it, the CLI downloads the file on its first import."""


@contextmanager
def taken_slot(model: str, cache_dir: Path) -> Iterator["Slot"]:
    """Take a model's first free slot; close its server on exit. Raises ModelError if the CLI cannot be installed."""
    program = ersilia_program(cache_dir)
    for number in count():
        path = _slots(cache_dir) / f"{model}-{number}"
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / "lock", timeout=0, thread_local=False)
        with suppress(Timeout):
            lock.acquire()
            break
    slot = Slot(model, path, program, cache_dir)
    try:
        processes.wait_until_ended(slot.guard_lock)  # the guard of a killed former holder closes its server
        yield slot
    finally:
        slot.close()
        lock.release()


def is_fetched(folder: ModelFolder, cache_dir: Path) -> bool:
    """Return whether a folder is the CLI's own copy of a hub model."""
    return folder.path.is_relative_to(_slots(cache_dir))


class Slot:
    """A locked HOME for the ersilia CLI and one model, and the server that runs in it."""

    def __init__(self, model: str, path: Path, program: Path, cache_dir: Path) -> None:
        self._program = program
        self._model = model
        self._identifier = model.partition("-v")[0]
        self._cache_dir = cache_dir
        self.path = path
        self._home = path / "home"
        self._log = path / "log.txt"
        self._before = path / "home-before"
        self.guard_lock = path / "guard.lock"
        self._server = ExitStack()

    def fetch(
        self, folder: ModelFolder | None, *, max_age: float = math.inf, find_version: Callable[[], str] = lambda: ""
    ) -> Path:
        """Fetch a model from a folder, or as an image if `folder` is None; return the CLI's copy of it.

        An existing copy is used unless it is older than `max_age` seconds, or the fetch of a new one fails.
        `find_version` is called before an image is fetched, and returns its tag, empty for the latest.
        Raises ModelError with the CLI's message, or naming the program or file that the CLI lacks.
        """
        source = f"{ERSILIA_VERSION} {digest_files(folder.path) if folder else 'hub'}"
        self._take_back()
        mark = _mark(self._home)
        has_copy = _read(mark).split()[:2] == source.split()
        if not has_copy or time.time() - mark.stat().st_mtime > max_age:
            logger.info("fetching %s for the ersilia CLI", self._model)
            if self._home.exists():
                self._home.rename(self._before)
            version = ""
            try:
                if folder:
                    _require_for_folder(folder)
                    origin = ["--from_dir", str(folder.path)]
                else:
                    version = find_version()
                    origin = ["--version", version] if version else []
                self._run(["fetch", self._identifier, *origin], self._variables(folder, installs=True), _FETCH_SECONDS)
            except ModelError as error:
                self._take_back()
                if not has_copy:
                    raise
                logger.warning("%s; using the copy that was fetched before", error)
            else:
                _mark(self._before).unlink(missing_ok=True)
                mark.write_text(f"{source} {version}".strip(), encoding="utf-8")
                shutil.rmtree(self._before, ignore_errors=True)
        return self._home / "eos" / "dest" / self._identifier

    @property
    def version(self) -> str:
        """The tag of the fetched image, empty for the latest."""
        return " ".join(_read(_mark(self._home)).split()[2:])

    def forget(self) -> None:
        """Mark the copy as missing, so that the next run fetches it again."""
        _mark(self._home).unlink(missing_ok=True)

    def _take_back(self) -> None:
        """Restore the copy that was set aside for a fetch, if that fetch failed or was killed."""
        if _mark(self._before).exists():
            shutil.rmtree(self._home, ignore_errors=True)
            self._before.rename(self._home)
        shutil.rmtree(self._before, ignore_errors=True)

    def serve(self, folder: ModelFolder | None) -> str:
        """Serve the model in place of a running server; return the URL. Raises ModelError with the CLI's message."""
        self.close()
        variables = self._variables(folder)
        shutil.rmtree(self._home / "eos" / "sessions", ignore_errors=True)
        try:
            end = processes.hold(
                [str(self._program), "serve", self._identifier],
                close=[str(self._program), "close"],
                env=variables,
                cwd=self.path,
                log=self._log,
                timeout=_SERVE_SECONDS,
                lock=self.guard_lock,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise self._failure("serve", error) from None
        self._server.callback(end)
        return self._url()

    def close(self) -> None:
        """Close the server, if there is one."""
        self._server.close()

    def _url(self) -> str:
        """Read the server's URL from the CLI's session file: a line of process, URL and container."""
        said = self._home / "eos" / "sessions" / f"session_{_SESSION}" / f"{self._identifier}.pid"
        try:
            return _read(said).split()[1].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        except IndexError:
            raise ModelError(f"ersilia serve {self._identifier} left no URL in {said}") from None

    def _variables(self, folder: ModelFolder | None, *, installs: bool = False) -> dict[str, str]:
        """Make the CLI's HOME and an empty TMPDIR, for files that it leaves behind; return its variables."""
        scratch = self.path / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        (self._home / "eos").mkdir(parents=True, exist_ok=True)
        (self._home / "eos" / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        variables = processes.clean_variables(self._home, installs=installs, own="" if folder else r"DOCKER_\w+")
        if not folder and (ours := processes.find_home()):
            # Docker would look for its configuration in HOME.
            variables.setdefault("DOCKER_CONFIG", str(ours / ".docker"))
        if folder and _wants_system_python(folder.path):
            variables["PATH"] = model_environment(folder, self._cache_dir).variables["PATH"]
        # By default, the CLI calls its server through the proxy, too.
        direct = variables.get("no_proxy", variables.get("NO_PROXY", ""))
        variables["no_proxy"] = variables["NO_PROXY"] = ",".join(filter(None, [direct, "127.0.0.1", "localhost"]))
        return {**variables, "ERSILIA_SESSION": _SESSION, "TMPDIR": str(scratch)}

    def _run(self, arguments: list[str], variables: dict[str, str], timeout: float) -> None:
        command = [str(self._program), *arguments]
        try:
            code = processes.run_guarded(
                command, env=variables, cwd=self.path, log=self._log, timeout=timeout, lock=self.guard_lock
            )
            if code:
                raise subprocess.CalledProcessError(code, command)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise self._failure(arguments[0], error) from None

    def _failure(self, verb: str, error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> ModelError:
        if isinstance(error, subprocess.TimeoutExpired):
            ended = f"timed out after {error.timeout:g} s"
        else:
            ended = f"exited {error.returncode}"
        message = f"ersilia {verb} {self._identifier} {ended}: {_error_message(self._log)} (full log: {self._log})"
        return processes.program_error(message, f"{ended} {processes.read_log(self._log)}")


def _read(path: Path) -> str:
    """Return the content of a file that the CLI or a model may have written; empty if it is missing or no such file."""
    try:
        return read_foreign(path, _MOST_BYTES).decode()
    except (FileNotFoundError, ForeignFileError, UnicodeDecodeError):
        return ""


def _mark(home: Path) -> Path:
    """Return the file that marks a successful fetch into this HOME; it has the source and tag of the model."""
    return home / "fetched"


def _slots(cache_dir: Path) -> Path:
    return cache_dir / "ersilia"


def _wants_system_python(folder: Path) -> bool:
    """Return whether the CLI runs a model with the Python on the PATH, so that we have to provide it.

    It does so if the model's mode is `system`, and in a container for a model that names no mode.
    """
    try:
        mode = json.loads(_read(folder / "config.json"))["default_mode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return _IN_CONTAINER.exists()
    return bool(mode == "system")


def _require_for_folder(folder: ModelFolder) -> None:
    """Raise InfrastructureError if something is missing that the CLI needs but does not name in its error."""
    if not shutil.which("conda"):
        raise InfrastructureError(
            f"conda is not on the PATH, and the ersilia CLI needs it to run {folder.model} from a folder: install it, "
            "or set PRECALC_MODEL_BACKEND=framework"
        )
    if os.geteuid() == 0 and not (folder.path / "Dockerfile").exists():
        raise InfrastructureError(
            f"{folder.path} has no Dockerfile, which the ersilia CLI needs to run a folder as root: run it as "
            "another user, or set PRECALC_MODEL_BACKEND=framework"
        )


def _error_message(log: Path) -> str:
    """Return the first line that the CLI marks with a cross, or else its last; later crosses say nothing new."""
    crossed = [line for line in processes.read_log(log).splitlines() if "✖" in line]
    return processes.printable(crossed[0].replace("✖", "").strip()) if crossed else processes.last_line(log)

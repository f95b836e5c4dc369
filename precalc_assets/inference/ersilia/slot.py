"""The place that a worker of ours gives to the ersilia CLI, and the CLI's commands in it.

The CLI keeps models, sessions and settings under HOME, and nothing but a HOME of its own keeps two of them apart
(`EOS_HOME` is overwritten). A slot is such a HOME, with a lock: a second worker on the same model takes the next slot,
and what was fetched in a slot is there for the next run.
"""

import json
import logging
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from precalc_assets.models import ERSILIA_VERSION, ModelFolder, digest_files, ersilia_program, model_environment
from precalc_assets.platform_errors import ModelError
from precalc_assets.processes import (
    HeldServer,
    clean_variables,
    find_home,
    hold,
    last_line,
    printable,
    run_guarded,
    wait_until_ended,
)

logger = logging.getLogger(__name__)

_FETCH_SECONDS = 4 * 3600.0
"""The largest images of the hub have some 10 GB, and a conda environment may be made beside the download."""

_SERVE_SECONDS = 600.0
"""Servers start in seconds, containers in minutes; the CLI itself waits 1,000 s for a server that has died."""

_SESSION = "precalc"
"""Names the session, which belongs to the CLI's parent process otherwise, and so to none that lasts."""

_IN_CONTAINER = Path("/.dockerenv")
"""By this file the CLI knows that it runs in a container (`ersilia/utils/system.py`)."""

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
"""What the CLI would download from GitHub into its HOME on its first import, as far as it reads it."""


@contextmanager
def taken_slot(model: str, cache_dir: Path) -> Iterator["Slot"]:
    """Take the first slot of this model that is free, and leave it with nothing running.

    Raises ModelError if the CLI cannot be installed.
    """
    program = ersilia_program(cache_dir)
    path, lock = _take_free(_slots(cache_dir), model)
    slot = Slot(model, path, program, cache_dir)
    try:
        slot.wait_until_quiet()
        yield slot
    finally:
        slot.close()
        lock.release()


def is_fetched(folder: ModelFolder, cache_dir: Path) -> bool:
    """Return whether a folder is a CLI's own copy, which it has from the hub."""
    return folder.path.is_relative_to(_slots(cache_dir))


class Slot:
    """A HOME for the ersilia CLI and one model, which nobody else uses meanwhile, and the server that runs in it."""

    def __init__(self, model: str, path: Path, program: Path, cache_dir: Path) -> None:
        self._program = program
        self._model = model
        self._identifier = model.partition("-v")[0]
        self._cache_dir = cache_dir
        self.path = path
        self._home = path / "home"
        self._log = path / "log.txt"
        self._before = path / "home-before"
        self._guard_lock = path / "guard.lock"
        self._server: HeldServer | None = None

    def wait_until_quiet(self) -> None:
        """Wait for the guard that a former holder has left, if that was killed: it is closing the server just now."""
        wait_until_ended(self._guard_lock)

    def fetch(
        self,
        folder: ModelFolder | None,
        *,
        max_age: float = math.inf,
        find_version: Callable[[], str] = lambda: "",
    ) -> Path:
        """Fetch a model from a folder, or as an image, unless that was done; return the CLI's copy of it.

        A copy that is older than `max_age` (in seconds) is fetched anew; if that fails, it is as good as it was.
        `find_version` is called before an image is fetched, and returns its tag; by default that is the latest.
        Raises ModelError with the CLI's words, or for what it needs and does not find.
        """
        source = f"{ERSILIA_VERSION} {digest_files(folder.path) if folder else 'hub'}"
        self._take_back()
        mark = _mark(self._home)
        has_copy = mark.exists() and mark.read_text(encoding="utf-8").split()[:2] == source.split()
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
                self._run(["fetch", self._identifier, *origin], self._variables(folder), _FETCH_SECONDS)
            except ModelError as error:
                self._take_back()
                if not has_copy:
                    raise
                logger.warning("%s; the copy of an earlier day is used", error)
            else:
                _mark(self._before).unlink(missing_ok=True)
                mark.write_text(f"{source} {version}".strip(), encoding="utf-8")
                shutil.rmtree(self._before, ignore_errors=True)
        return self._home / "eos" / "dest" / self._identifier

    @property
    def version(self) -> str:
        """The tag of the image that was fetched, if it was not the latest."""
        return " ".join(_mark(self._home).read_text(encoding="utf-8").split()[2:])

    def forget(self) -> None:
        """Take the copy for none, so that the next one who wants it fetches it anew."""
        _mark(self._home).unlink(missing_ok=True)

    def _take_back(self) -> None:
        """Put back the copy that an attempt to fetch another has set aside, if that failed or was killed."""
        if _mark(self._before).exists():
            shutil.rmtree(self._home, ignore_errors=True)
            self._before.rename(self._home)
        shutil.rmtree(self._before, ignore_errors=True)

    def serve(self, folder: ModelFolder | None) -> str:
        """Serve the model that was fetched, in place of what is served; return the server's URL.

        Raises ModelError with the CLI's words.
        """
        self.close()
        variables = self._variables(folder)
        shutil.rmtree(self._home / "eos" / "sessions", ignore_errors=True)
        try:
            self._server = hold(
                [str(self._program), "serve", self._identifier],
                close=[str(self._program), "close"],
                env=variables,
                cwd=self.path,
                log=self._log,
                timeout=_SERVE_SECONDS,
                lock=self._guard_lock,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise self._failure("serve", error) from None
        return self._url()

    def close(self) -> None:
        """Close the server, if there is one."""
        if self._server:
            self._server.close()
            self._server = None

    def _url(self) -> str:
        """Return where the CLI says that the server is: a line of process, URL and container."""
        said = self._home / "eos" / "sessions" / f"session_{_SESSION}" / f"{self._identifier}.pid"
        try:
            return said.read_text(encoding="utf-8").split()[1].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        except (OSError, IndexError):
            raise ModelError(f"ersilia serve {self._identifier} left no URL in {said}") from None

    def _variables(self, folder: ModelFolder | None) -> dict[str, str]:
        """Return the CLI's variables, after making its HOME and a folder for what it forgets in TMPDIR."""
        scratch = self.path / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        (self._home / "eos").mkdir(parents=True, exist_ok=True)
        (self._home / "eos" / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        variables = clean_variables(self._home) | ({} if folder else _docker_variables())
        if folder and _wants_system_python(folder.path):
            variables["PATH"] = model_environment(folder, self._cache_dir).variables["PATH"]
        # The CLI asks its server by the proxy, too, if it is not told.
        direct = variables.get("no_proxy", variables.get("NO_PROXY", ""))
        variables["no_proxy"] = variables["NO_PROXY"] = ",".join(filter(None, [direct, "127.0.0.1", "localhost"]))
        return {**variables, "ERSILIA_SESSION": _SESSION, "TMPDIR": str(scratch)}

    def _run(self, arguments: list[str], variables: dict[str, str], timeout: float) -> None:
        command = [str(self._program), *arguments]
        try:
            code = run_guarded(
                command, env=variables, cwd=self.path, log=self._log, timeout=timeout, lock=self._guard_lock
            )
            if code:
                raise subprocess.CalledProcessError(code, command)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise self._failure(arguments[0], error) from None

    def _failure(self, verb: str, error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> ModelError:
        if isinstance(error, subprocess.TimeoutExpired):
            ended = f"had not ended after {error.timeout:g} s"
        else:
            ended = f"exited {error.returncode}"
        return ModelError(
            f"ersilia {verb} {self._identifier} {ended}: {_last_words(self._log)} (all of it: {self._log})"
        )


def _mark(home: Path) -> Path:
    """Return the file that is there when a fetch into this HOME has ended well; it names what was fetched."""
    return home / "fetched"


def _slots(cache_dir: Path) -> Path:
    return cache_dir / "ersilia"


def _take_free(slots: Path, model: str) -> tuple[Path, FileLock]:
    number = 0
    while True:
        path = slots / f"{model}-{number}"
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / "lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            number += 1
        else:
            return path, lock


def _wants_system_python(folder: Path) -> bool:
    """Return whether the CLI runs a model in the Python on the PATH, which we then make for it.

    It does so where the model asks for it, and in a container for a model that names no mode.
    """
    try:
        mode = json.loads((folder / "config.json").read_bytes())["default_mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return _IN_CONTAINER.exists()
    return bool(mode == "system")


def _require_for_folder(folder: ModelFolder) -> None:
    """Raise ModelError if the CLI would fail for want of something that it does not name."""
    if not shutil.which("conda"):
        raise ModelError(
            f"conda is not on the PATH, and the ersilia CLI needs it to run {folder.model} from a folder: install it, "
            "or set PRECALC_MODEL_BACKEND=framework"
        )
    if os.geteuid() == 0 and not (folder.path / "Dockerfile").exists():
        raise ModelError(
            f"{folder.path} has no Dockerfile, which the ersilia CLI wants of a folder when root runs it: run it as "
            "another user, or set PRECALC_MODEL_BACKEND=framework"
        )


def _docker_variables() -> dict[str, str]:
    """Return where Docker is, and its configuration, which it would look for in the HOME that is not there."""
    ours = find_home()
    default = {"DOCKER_CONFIG": str(ours / ".docker")} if ours else {}
    return {**default, **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}}


def _last_words(log: Path) -> str:
    """Return the CLI's own error message, the first that it marks with a cross, or else its last line.

    Those that follow say what it does about that, in the same words for every error.
    """
    crossed = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if "✖" in line]
    return printable(crossed[0].replace("✖", "").strip()) if crossed else last_line(log)

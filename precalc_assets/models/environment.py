"""The environments of models and of command-line tools: each made once, by uv and rattler.

`recipe` parses a model's recipe and `conda` installs from conda's channels. The backends run the programs of an
environment.
"""

import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict
from uv import find_uv_bin

from precalc_assets.models.folder import ModelFolder
from precalc_assets.models.recipe import DEFAULT_CHANNEL, CondaInstall, PipInstall, Recipe, Step, read_recipe
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.processes import clean_variables, find_home, last_lines, run_guarded, wait_until_ended

logger = logging.getLogger(__name__)

ERSILIA_VERSION = "0.1.63"
"""The release whose commands, folders and answers `ersilia/` relies on. It runs on Python 3.10 and later."""

_INSTALL_SECONDS = 3600.0
"""Timeout of one command: gigabytes over a slow connection take half an hour."""

_SPARE_MEGABYTES = 300
"""Disk space needed beyond a model's environment: to unpack packages and to run it."""

_SEED = ("pip", "wheel", "setuptools<81")
"""Packages of every environment. Older models import `pkg_resources`, which setuptools 81 removed."""

_PLATFORM = f"{sys.platform}-{platform.machine()}"

_TOO_NEW = re.compile(r"`(\S+)` was filtered by `exclude-newer`")
"""Uv's message for a package without an upload before the cutoff, or without upload times."""

_UNSOLVED = "No solution found"
"""The start of uv's and our `conda`'s message that no packages match."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables for a model's programs, and a name that is equal for equal packages."""

    name: str
    variables: Mapping[str, str]


class _Contents(BaseModel):
    """What an environment consists of; `skipped` are the lines of the recipe that failed.

    `variables` are those that conda packages set when their environment is activated.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    platform: str
    python: str
    packages: tuple[str, ...]
    skipped: tuple[str, ...]
    variables: dict[str, str]

    @property
    def name(self) -> str:
        """The environment's name, equal if the recipe and the installed packages are equal."""
        made_of = self.model_dump_json(exclude={"variables"})
        return f"framework-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def model_environment(folder: ModelFolder, cache_dir: Path, *, skip_failed: bool = False) -> Environment:
    """Return the environment of a model; make it if there is none.

    Packages are those uploaded up to the end of the model's `Last Packaging Date`, so that the environment does not
    depend on the day on which it is made. With `skip_failed`, a failing line of the recipe is skipped with a warning.

    Raises ModelError with the installer's message, UsageError if there is no cache folder.
    """
    recipe = read_recipe(folder.path)
    packaged_on = folder.metadata.packaged_on
    key = hashlib.sha256(f"{recipe.digest} {packaged_on} {_PLATFORM}".encode()).hexdigest()[:12]
    path = _environments(cache_dir) / f"{folder.model}-{key}"

    def make(installer: "_Installer") -> str:
        _require_room(folder, path.parent)
        work = _Builder(folder, recipe, path, installer, cache_dir / "conda", _cutoff(packaged_on), skip_failed)
        return work.build().model_dump_json(indent=1)

    contents = _Contents.model_validate_json(_make_once(folder.model, path, make))
    for line in contents.skipped:
        logger.warning("the environment of %s lacks %r, which failed to install", folder.model, line)
    return Environment(contents.name, {**_variables(path), **contents.variables})


def remove_environments(model: str, cache_dir: Path) -> int:
    """Remove a model's environments and return the bytes freed, without files that uv's cache shares.

    Raises ModelError while one of them is being made.
    """
    found = re.compile(rf"{re.escape(model)}-[0-9a-f]{{12}}(-home|\.log)?")
    freed = 0
    for path in sorted(_environments(cache_dir).glob(f"{model}-*")):
        if not found.fullmatch(path.name):
            continue
        lock = FileLock(path.with_name(f"{path.name[: len(model) + 13]}.lock"))
        try:
            with lock.acquire(timeout=0):
                freed += disk_bytes(path)
                _remove(path) if path.is_dir() else path.unlink()
        except Timeout:
            raise ModelError(f"another process is making {path}; try again when it has ended") from None
    return freed


def ersilia_program(cache_dir: Path) -> Path:
    """Return the ersilia CLI; make its environment if there is none. Raises like `model_environment`."""
    return tool_program("ersilia", ERSILIA_VERSION, cache_dir)


def tool_program(name: str, version: str, cache_dir: Path) -> Path:
    """Return the program of the package `name` in its own environment, made if there is none.

    Raises like `model_environment`.
    """
    digest = hashlib.sha256(sys.version.encode()).hexdigest()[:12]
    environment = _environments(cache_dir) / f"{name}-{version}-{digest}"

    def make(installer: _Installer) -> str:
        variables = _installer_variables(environment)
        for command in (_uv_venv(sys.executable, environment), _uv_install(environment, f"{name}=={version}")):
            installer.require(command, variables)
        return ""

    _make_once(f"the {name} CLI", environment, make)
    return environment / "bin" / name


def _environments(cache_dir: Path) -> Path:
    if not cache_dir.is_absolute():  # the user has no home folder
        raise UsageError("there is no home folder for the models' environments; set PRECALC_CACHE_DIR")
    return cache_dir / "environments"


def _require_room(folder: ModelFolder, environments: Path) -> None:
    needed = _SPARE_MEGABYTES + (folder.metadata.environment_megabytes or 0)
    free = shutil.disk_usage(environments).free / 1e6
    if free < needed:
        raise ModelError(
            f"the environment of {folder.model} needs {needed:,.0f} MB, and the disk of {environments} has {free:,.0f} "
            "MB free; free some, or set PRECALC_CACHE_DIR to a folder on another disk"
        )


def _cutoff(packaged_on: date | None) -> datetime | None:
    """Return the end of the packaging date in UTC; later uploads are not installed."""
    return datetime.combine(packaged_on + timedelta(days=1), time(), UTC) if packaged_on else None


class _Installer:
    """Runs the commands that make an environment, one at a time; the log holds the latest one's output."""

    def __init__(self, what: str, environment: Path) -> None:
        self._what = what
        self._folder = environment.parent
        self.log = environment.with_name(f"{environment.name}.log")
        self.lock = environment.with_name(f"{environment.name}.guard.lock")

    def run(self, command: Sequence[str], variables: Mapping[str, str], folder: Path | None = None) -> str:
        """Run a command and return its failure with the last lines of its output, or an empty string."""
        try:
            code = run_guarded(
                command,
                env=variables,
                cwd=folder or self._folder,
                log=self.log,
                timeout=_INSTALL_SECONDS,
                lock=self.lock,
            )
        except subprocess.TimeoutExpired:
            ended = f"timed out after {_INSTALL_SECONDS:g} s"
        else:
            if not code:
                return ""
            ended = f"exited {code}"
        return f"{Path(command[0]).name} {ended}: {last_lines(self.log)} (full log: {self.log})"

    def require(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Run a command. Raises ModelError if it fails."""
        if failure := self.run(command, variables):
            raise self.error(failure)

    def error(self, failure: str) -> ModelError:
        """Return the error for an environment that could not be made."""
        return ModelError(f"the environment of {self._what} could not be made: {failure}")


def _make_once(what: str, environment: Path, make: Callable[[_Installer], str]) -> str:
    """Make an environment under a lock unless it exists, and return the text that `make` returned for it.

    The text is written last, to `ready`: only then does the environment exist. So processes share environments, and a
    killed process leaves none that looks ready, and no installer still running when the next one starts. If its
    Python was uninstalled, an environment is made again.
    """
    environment.parent.mkdir(parents=True, exist_ok=True)
    installer = _Installer(what, environment)
    mark, written = environment / "ready", environment / "ready.part"
    with _locked(what, environment.with_name(f"{environment.name}.lock")):
        if not mark.exists() or not (environment / "bin" / "python").exists():
            logger.info("making the environment of %s (once)", what)
            wait_until_ended(installer.lock)
            _remove(environment)
            written.write_text(make(installer), encoding="utf-8")
            written.rename(mark)
        return mark.read_text(encoding="utf-8")


@contextmanager
def _locked(what: str, path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that makes the environment of %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class _Builder:
    """Makes one model's environment: Python, conda's packages, the seed packages, and all other steps.

    Conda's packages come first, whatever the recipe's order: pip keeps installed packages, and rattler would not.
    """

    folder: ModelFolder
    recipe: Recipe
    path: Path
    installer: _Installer
    conda_cache: Path
    cutoff: datetime | None
    skip_failed: bool
    skipped: list[str] = field(default_factory=list)
    activated: dict[str, str] = field(default_factory=dict)

    def build(self) -> _Contents:
        """Make the environment and return its contents. Raises ModelError that names the failing line."""
        for warning in self.recipe.warnings:
            logger.warning("%s: %s", self.folder.model, warning)
        conda = [step for step in self.recipe.steps if isinstance(step, CondaInstall)]
        others = [step for step in self.recipe.steps if not isinstance(step, CondaInstall)]
        if self.recipe.steps and not self.cutoff:
            logger.warning(
                "%s has no Last Packaging Date: it gets today's packages, which may differ on another day",
                self.folder.model,
            )
        self._make_python(conda)
        for step in conda:
            self._run_step(step)
        self._activate()
        if failure := self._pip(_SEED, "pip and setuptools"):
            raise self.installer.error(failure)
        for other in others:
            self._run_step(other)
        return _Contents(
            recipe=self.recipe.digest,
            platform=_PLATFORM,
            python=self._python_version(),
            packages=self._list_packages(),
            skipped=tuple(self.skipped),
            variables=self.activated,
        )

    def _make_python(self, conda: Sequence[CondaInstall]) -> None:
        """Install the recipe's Python: conda's if the recipe has conda packages, else uv's, else conda's.

        If neither has that version, use the platform's own Python, with a warning.
        """
        python = self.recipe.python
        if conda:
            failure = self._conda([f"python={python}"], (DEFAULT_CHANNEL,))
            if not failure:
                return
            for line in conda:
                self._skip(line, failure)
        failure = self._venv(python)
        if failure and not conda:
            failure = self._conda([f"python={python}"], (DEFAULT_CHANNEL,)) and failure
        if failure:
            ours = sys.version.split()[0]
            logger.warning(
                "%s needs Python %s, which cannot be installed (%s); trying %s",
                self.folder.model,
                python,
                failure,
                ours,
            )
            if failure := self._venv(sys.executable):
                raise self.installer.error(failure)

    def _run_step(self, step: Step) -> None:
        """Run a step. Raises ModelError if it fails, unless failures are skipped."""
        if step.line in self.skipped:
            return
        logger.info("installing for %s: %s", self.folder.model, _shown(step))
        if isinstance(step, PipInstall):
            failure = self._pip(step.arguments, _shown(step))
        elif isinstance(step, CondaInstall):
            # As for conda, the default channel has the dependencies of other channels' packages.
            channels = tuple(dict.fromkeys((*step.channels, DEFAULT_CHANNEL)))
            failure = self._conda([*step.specs, f"python={self.recipe.python}"], channels)
        else:
            variables = {**_variables(self.path), **self.activated}
            failure = self.installer.run(["bash", "-euc", step.command], variables, self.path)
        if failure:
            self._skip(step, failure)

    def _skip(self, step: Step, failure: str) -> None:
        """Record a failed step. Raises ModelError unless failures are skipped."""
        if not self.skip_failed:
            model = self.folder.model
            raise self.installer.error(
                f"{_shown(step)} of its {self.recipe.source} failed: {failure}; if the model runs without it, as "
                f"the hub's packer assumes, run `precalc models install {model} --skip-failed`; otherwise use the "
                "ersilia backend (PRECALC_MODEL_BACKEND=ersilia)"
            )
        logger.warning("%s: skipping %s, which failed: %s", self.folder.model, _shown(step), failure)
        self.skipped.append(step.line)

    def _venv(self, python: str) -> str:
        _remove(self.path)
        return self.installer.run(_uv_venv(python, self.path), _installer_variables(self.path))

    def _pip(self, arguments: Sequence[str], shown: str) -> str:
        """Install by uv, and return the failure, or an empty string.

        A package without an upload before the cutoff, or without upload times, may be today's version; if that does
        not solve it, all packages may.
        """
        cutoff = self.cutoff
        exempt: list[str] = []
        while True:
            options = [f"--exclude-newer={cutoff:%Y-%m-%dT%H:%M:%SZ}"] if cutoff else []
            options += [f"--exclude-newer-package={name}=false" for name in exempt if cutoff]
            command = _uv_install(self.path, *options, *arguments)
            failure = self.installer.run(command, self._building(), self.folder.path)
            said = self.installer.log.read_text(encoding="utf-8", errors="replace") if failure else ""
            if not cutoff or _UNSOLVED not in said:
                break
            exempt += (found := sorted({*_TOO_NEW.findall(said)} - {*exempt}))
            cutoff = cutoff if found else None
        if not failure and self.cutoff and (exempt or not cutoff):
            self._warn_of_newer(", ".join(exempt) if cutoff else "all packages", shown)
        return failure

    def _conda(self, specs: Sequence[str], channels: Sequence[str]) -> str:
        """Install by rattler, and return the failure, or an empty string."""
        command = [sys.executable, "-m", "precalc_assets.models.conda", str(self.path), *specs]
        command += [f"--cache={self.conda_cache}", *(f"--channel={channel}" for channel in channels)]
        variables = _installer_variables(self.path)
        variables |= {name: value for name, value in os.environ.items() if name == "CONDA_CHANNEL_ALIAS"}
        cutoff = [f"--as-of={self.cutoff.isoformat()}"] if self.cutoff else []
        failure = self.installer.run([*command, *cutoff], variables)
        if cutoff and _UNSOLVED in failure:
            failure = self.installer.run(command, variables)
            if not failure:
                self._warn_of_newer("all packages", f"conda install {' '.join(specs)}")
        return failure

    def _warn_of_newer(self, packages: str, shown: str) -> None:
        logger.warning(
            "%s was packaged on %s, but %s of %s cannot be installed as of that date: today's versions are used, which "
            "may differ on another day",
            self.folder.model,
            self.folder.metadata.packaged_on,
            packages,
            shown,
        )

    def _activate(self) -> None:
        """Record the variables that conda's activation sets, such as paths of compilers and data."""
        if not (self.path / "conda-meta").is_dir():
            return
        before = {**_variables(self.path), "CONDA_PREFIX": str(self.path)}
        self.installer.require(["bash", "-c", _ACTIVATE], before)
        after = dict(line.split("=", 1) for line in (self.path / "activated").read_text().split("\0") if line)
        self.activated = {name: value for name, value in after.items() if value != _variables(self.path).get(name)}

    def _building(self) -> dict[str, str]:
        """Return the variables for uv, which may build packages with the environment's programs."""
        own = _variables(self.path)
        return {**_installer_variables(self.path), "PATH": own["PATH"], **self.activated}

    def _python_version(self) -> str:
        asked = "import platform; print(platform.python_version())"
        self.installer.require([str(self.path / "bin" / "python"), "-c", asked], _variables(self.path))
        return self.installer.log.read_text(encoding="utf-8").strip()

    def _list_packages(self) -> tuple[str, ...]:
        """Return packages with versions, as pip and conda name them; the model's folder reads `.`."""
        self.installer.require([find_uv_bin(), "pip", "freeze", "--quiet", *_at(self.path)], self._building())
        listed = self.installer.log.read_text(encoding="utf-8").replace(str(self.folder.path), ".")
        return (*listed.splitlines(), *sorted(path.stem for path in (self.path / "conda-meta").glob("*.json")))


_ACTIVATE = """\
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do [ -e "$script" ] && . "$script"; done
unset _ SHLVL PWD OLDPWD script
exec env -0 > "$CONDA_PREFIX/activated"
"""


def _shown(step: Step) -> str:
    return f"`{' '.join(step.line.split())}`"


def _variables(environment: Path) -> dict[str, str]:
    clean = clean_variables(environment.with_name(f"{environment.name}-home"))
    return {**clean, "PATH": f"{environment / 'bin'}{os.pathsep}{clean['PATH']}", "VIRTUAL_ENV": str(environment)}


def _installer_variables(environment: Path) -> dict[str, str]:
    """Return the variables for uv and rattler, which use the user's cache and configuration."""
    places = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    found = {name: os.environ[name] for name in places if name in os.environ}
    return {**clean_variables(find_home() or environment.with_name("uv-home")), **found}


def _at(environment: Path) -> tuple[str, str]:
    return "--python", str(environment / "bin" / "python")


def _uv_venv(python: str, environment: Path) -> list[str]:
    return [find_uv_bin(), "venv", "--quiet", "--python", python, str(environment)]


def _uv_install(environment: Path, *arguments: str) -> list[str]:
    """Return uv's command; like pip, it takes the best version of all indexes, not the first index's."""
    options = ("--quiet", "--compile-bytecode", "--index-strategy=unsafe-best-match")
    return [find_uv_bin(), "pip", "install", *options, *_at(environment), *arguments]


def _remove(environment: Path) -> None:
    """Remove an environment, its mark first, so that a kill leaves none that looks ready."""
    (environment / "ready").unlink(missing_ok=True)
    shutil.rmtree(environment, ignore_errors=True)


def disk_bytes(path: Path) -> int:
    """Return the bytes that removing a file or folder frees, without files that have other hard links."""
    found = [path.lstat(), *(entry.lstat() for entry in path.rglob("*"))]
    return sum(entry.st_blocks * 512 for entry in found if entry.st_nlink == 1)

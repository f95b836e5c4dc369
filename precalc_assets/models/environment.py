"""The environments of models and of command-line tools: each made once, by uv and rattler.

`recipe` parses a model's recipe and `conda` installs from conda's channels. The backends run the programs of an
environment.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from uv import find_uv_bin

from precalc_assets import processes
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.frozen_record import FrozenRecord
from precalc_assets.models.folder import MOST_BYTES, ModelFolder
from precalc_assets.models.recipe import DEFAULT_CHANNEL, CondaInstall, PipInstall, Recipe, Step, read_recipe
from precalc_assets.platform_errors import InfrastructureError, ModelError, UsageError

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


class _Contents(FrozenRecord):
    """What an environment consists of: packages, `skipped` lines of the recipe, and `variables` of its activation."""

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
        megabytes = _SPARE_MEGABYTES + (folder.metadata.environment_megabytes or 0)
        processes.require_room(path.parent, megabytes, f"the environment of {folder.model}", "set PRECALC_CACHE_DIR")
        # The end of the packaging date in UTC; later uploads are not installed.
        cutoff = datetime.combine(packaged_on + timedelta(days=1), time(), UTC) if packaged_on else None
        work = _Builder(folder, recipe, path, installer, cache_dir / "conda", cutoff, skip_failed)
        return work.build().model_dump_json(indent=1)

    try:
        contents = _Contents.model_validate_json(_make_once(folder.model, path, make))
    except (ValidationError, ForeignFileError):
        raise InfrastructureError(f"{path / 'ready'} is damaged; run `precalc models remove {folder.model}`") from None
    for line in contents.skipped:
        logger.warning("the environment of %s lacks %r, which failed to install", folder.model, line)
    return Environment(contents.name, {**_variables(path), **contents.variables})


def remove_environments(model: str, cache_dir: Path) -> int:
    """Remove a model's environments; return the bytes freed. Raises ModelError while one of them is being made."""
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
            raise InfrastructureError(f"another process is making {path}; try again when it has ended") from None
    return freed


def ersilia_program(cache_dir: Path) -> Path:
    """Return the ersilia CLI; make its environment if there is none. Raises like `model_environment`."""
    return tool_program("ersilia", ERSILIA_VERSION, cache_dir)


def tool_program(name: str, version: str, cache_dir: Path) -> Path:
    """Return a package's program in an environment of its own, made once. Raises like `model_environment`."""
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


class _Installer:
    """Runs the commands that make an environment, one at a time; the log holds the latest one's output."""

    def __init__(self, what: str, environment: Path) -> None:
        self._what = what
        self._folder = environment.parent
        self.log = environment.with_name(f"{environment.name}.log")
        self.lock = environment.with_name(f"{environment.name}.guard.lock")

    def run(self, command: Sequence[str], variables: Mapping[str, str], folder: Path | None = None) -> str:
        """Run a command and return its failure with the last lines of its output, or an empty string."""
        place = folder or self._folder
        try:
            code = processes.run_guarded(
                command, env=variables, cwd=place, log=self.log, timeout=_INSTALL_SECONDS, lock=self.lock
            )
        except subprocess.TimeoutExpired:
            ended = f"timed out after {_INSTALL_SECONDS:g} s"
        else:
            if not code:
                return ""
            ended = f"exited {code}"
        return f"{Path(command[0]).name} {ended}: {processes.last_lines(self.log)} (full log: {self.log})"

    def require(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Run a command. Raises ModelError if it fails."""
        if failure := self.run(command, variables):
            raise self.error(failure)

    def error(self, failure: str) -> ModelError:
        """Return the error for an environment that could not be made: the infrastructure's if a server failed."""
        return processes.program_error(f"the environment of {self._what} could not be made: {failure}", failure)


def _make_once(what: str, environment: Path, make: Callable[[_Installer], str]) -> bytes:
    """Make an environment under a lock unless it exists, and return the text that `make` returned for it.

    The text is written last, to `ready`: only then does the environment exist. So processes share environments, and a
    killed process leaves none that looks ready, and no installer still running when the next one starts. If its
    Python was uninstalled, an environment is made again.
    """
    environment.parent.mkdir(parents=True, exist_ok=True)
    installer = _Installer(what, environment)
    mark, written = environment / "ready", environment / "ready.part"
    lock = environment.with_name(f"{environment.name}.lock")
    with processes.only_holder(lock, installer.lock, f"makes the environment of {what}"):
        if not mark.exists() or not (environment / "bin" / "python").exists():
            logger.info("making the environment of %s (once)", what)
            _remove(environment)
            written.write_text(make(installer), encoding="utf-8")
            written.rename(mark)
        return read_foreign(mark, MOST_BYTES)


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
    other_python: str = ""
    skipped: list[str] = field(default_factory=list)
    activated: dict[str, str] = field(default_factory=dict)

    def build(self) -> _Contents:
        """Make the environment and return its contents. Raises ModelError that names the failing line."""
        for warning in self.recipe.warnings:
            logger.warning("%s: %s", self.folder.model, warning)
        conda = [step for step in self.recipe.steps if isinstance(step, CondaInstall)]
        others = [step for step in self.recipe.steps if not isinstance(step, CondaInstall)]
        if self.recipe.steps and not self.cutoff:
            undated = "%s has no Last Packaging Date: it gets today's packages, which may differ on another day"
            logger.warning(undated, self.folder.model)
        self._make_python(conda)
        for step in conda:
            self._run_step(step)
        self._activate()
        if failure := self._pip(_SEED, "pip and setuptools"):
            raise self.installer.error(failure)
        for other in others:
            self._run_step(other)
        asked = "import platform; print(platform.python_version())"
        self.installer.require([str(self.path / "bin" / "python"), "-c", asked], _variables(self.path))
        return _Contents(
            recipe=self.recipe.digest,
            platform=_PLATFORM,
            python=processes.read_log(self.installer.log).strip(),
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
            self.other_python = sys.version.split()[0]
            missing = "%s needs Python %s, which cannot be installed (%s); trying %s"
            logger.warning(missing, self.folder.model, python, failure, self.other_python)
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
            variables = {**_variables(self.path, installs=True), **self.activated}
            failure = self.installer.run(["bash", "-euc", step.command], variables, self.path)
        if failure:
            self._skip(step, failure)

    def _skip(self, step: Step, failure: str) -> None:
        """Record a failed step. Raises ModelError unless failures are skipped."""
        if not self.skip_failed:
            model, place = self.folder.model, self.recipe.source
            if self.other_python:
                place += f" in Python {self.other_python}, used because Python {self.recipe.python} is not on the PATH,"
            raise self.installer.error(
                f"{_shown(step)} of its {place} failed: {failure}; if the model runs without it, as the hub's packer "
                f"assumes, run `precalc models install {model} --skip-failed`; otherwise use the ersilia backend "
                "(PRECALC_MODEL_BACKEND=ersilia)"
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
            said = processes.read_log(self.installer.log) if failure else ""
            if not cutoff or _UNSOLVED not in said:
                break
            exempt += (found := sorted({*_TOO_NEW.findall(said)} - {*exempt}))
            cutoff = cutoff if found else None
        if not failure and self.cutoff and (exempt or not cutoff):
            self._warn_of_newer(", ".join(exempt) if cutoff else "all packages", shown)
        return failure

    def _conda(self, specs: Sequence[str], channels: Sequence[str]) -> str:
        def install(cutoff: datetime | None) -> str:
            as_of = cutoff and cutoff.isoformat()
            arguments = json.dumps([str(self.path), str(self.conda_cache), as_of, list(channels), list(specs)])
            command = [sys.executable, "-m", "precalc_assets.models.conda", arguments]
            return self.installer.run(command, _installer_variables(self.path))

        failure = install(self.cutoff)
        if self.cutoff and _UNSOLVED in failure:
            failure = install(None)
            if not failure:
                self._warn_of_newer("all packages", f"conda install {' '.join(specs)}")
        return failure

    def _warn_of_newer(self, packages: str, shown: str) -> None:
        newer = (
            "%s was packaged on %s, but %s of %s cannot be installed as of that date: today's versions are used, which "
            "may differ on another day"
        )
        logger.warning(newer, self.folder.model, self.folder.metadata.packaged_on, packages, shown)

    def _activate(self) -> None:
        """Record the variables that conda's activation sets, such as paths of compilers and data."""
        if not (self.path / "conda-meta").is_dir():
            return
        before = {**_variables(self.path), "CONDA_PREFIX": str(self.path)}
        self.installer.require(["bash", "-c", _ACTIVATE], before)
        try:
            said = read_foreign(self.path / "activated", MOST_BYTES).decode()
        except (ForeignFileError, FileNotFoundError, UnicodeDecodeError) as error:
            raise self.installer.error(f"conda's activation left no variables: {error}") from None
        after = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
        self.activated = {name: value for name, value in after.items() if value != _variables(self.path).get(name)}

    def _building(self) -> dict[str, str]:
        """Return the variables for uv, which may build packages with the environment's programs."""
        own = _variables(self.path)
        return {**_installer_variables(self.path), "PATH": own["PATH"], **self.activated}

    def _list_packages(self) -> tuple[str, ...]:
        """Return packages with versions, as pip and conda name them; the model's folder reads `.`."""
        self.installer.require([find_uv_bin(), "pip", "freeze", "--quiet", *_at(self.path)], self._building())
        listed = processes.read_log(self.installer.log).replace(str(self.folder.path), ".")
        return (*listed.splitlines(), *sorted(path.stem for path in (self.path / "conda-meta").glob("*.json")))


_ACTIVATE = """\
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do [ -e "$script" ] && . "$script"; done
unset _ SHLVL PWD OLDPWD script
exec env -0 > "$CONDA_PREFIX/activated"
"""


def _shown(step: Step) -> str:
    return f"`{' '.join(step.line.split())}`"


def _variables(environment: Path, *, installs: bool = False) -> dict[str, str]:
    clean = processes.clean_variables(environment.with_name(f"{environment.name}-home"), installs=installs)
    return {**clean, "PATH": f"{environment / 'bin'}{os.pathsep}{clean['PATH']}", "VIRTUAL_ENV": str(environment)}


def _installer_variables(environment: Path) -> dict[str, str]:
    """Return the variables for uv and rattler, which use the user's cache and configuration."""
    home = processes.find_home() or environment.with_name("uv-home")
    return processes.clean_variables(home, installs=True, own="XDG_(CACHE|CONFIG|DATA)_HOME|CONDA_CHANNEL_ALIAS")


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

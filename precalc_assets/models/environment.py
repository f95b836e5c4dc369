"""The environments that models run in, and the ersilia CLI, each made once by uv."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from uv import find_uv_bin

from precalc_assets.errors import ModelError, UsageError
from precalc_assets.models.folder import ModelFolder, read_fields
from precalc_assets.processes import clean_variables, find_home, printable, run_guarded, wait_until_ended

logger = logging.getLogger(__name__)

ERSILIA_VERSION = "0.1.63"
"""The release whose commands, folders and answers `ersilia/` knows. It runs on Python 3.10 and later, so on ours."""

_INSTALL_SECONDS = 3600.0
"""For one command: gigabytes over a slow line take half an hour; what takes longer waits for something."""


class InstallPlan(BaseModel):
    """A model's `install.yml`: a Python version and commands, lists such as ["pip", "rdkit", "2025.3.1"] or lines."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: str
    commands: tuple[str | tuple[str, ...], ...] = ()


def model_environment(folder: ModelFolder, cache_dir: Path) -> dict[str, str]:
    """Return the variables under which the model's programs run, after making its environment where there is none.

    An environment is named by a digest of `install.yml`. Raises ModelError with the installer's words, UsageError if
    there is no place for environments.
    """
    path = folder.path / "install.yml"
    plan = read_install_plan(path)
    digest = hashlib.sha256(path.read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = _environments(cache_dir) / f"{folder.model}-{digest}"
    variables = _variables(environment)

    def make(install: _Install) -> None:
        _make_venv(folder.model, plan.python, environment, install)
        for command in plan.commands:
            install(*_install_command(folder.model, command, environment, variables))

    _make_once(folder.model, environment, make)
    return variables


def ersilia_program(cache_dir: Path) -> Path:
    """Return the ersilia CLI, after making its environment where there is none. Raises errors as above."""
    return tool_program("ersilia", ERSILIA_VERSION, cache_dir)


def tool_program(name: str, version: str, cache_dir: Path) -> Path:
    """Return a program of the package of that name, in an environment of its own, which is made where there is none.

    Raises errors as above.
    """
    digest = hashlib.sha256(sys.version.encode()).hexdigest()[:12]
    environment = _environments(cache_dir) / f"{name}-{version}-{digest}"

    def make(install: _Install) -> None:
        variables = _uv_variables(environment)
        install([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(environment)], variables)
        install(_uv_install(environment, f"{name}=={version}"), variables)

    _make_once(f"the {name} CLI", environment, make)
    return environment / "bin" / name


def read_install_plan(path: Path) -> InstallPlan:
    """Read a model's `install.yml`. Raises ModelError if it is missing or says something else."""
    try:
        return InstallPlan.model_validate(read_fields(path))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: it has to name a Python version and what to install") from None
    except ValidationError as error:
        raise ModelError(f"{path} cannot be used: {' '.join(str(error).split())[:200]}") from None


def _environments(cache_dir: Path) -> Path:
    if not cache_dir.is_absolute():  # of a user without a home
        raise UsageError("there is no home folder to make the models' environments in; set PRECALC_CACHE_DIR")
    return cache_dir / "environments"


_Install = Callable[[list[str], Mapping[str, str]], None]
"""Runs one command of an installation under these variables, or raises ModelError with what it said."""


def _make_once(what: str, environment: Path, make: Callable[[_Install], None]) -> None:
    """Make an environment under a lock and mark it when it is whole, unless it is there.

    So processes share it, and a killed one leaves nothing that looks ready, and nothing that is still being installed
    when the next one begins. A Python that was uninstalled since takes the environments along that were made from it.
    """
    environment.parent.mkdir(parents=True, exist_ok=True)
    log, guard_lock = (environment.with_name(f"{environment.name}.{end}") for end in ("log", "guard.lock"))

    def install(command: list[str], variables: Mapping[str, str]) -> None:
        shown = f"{Path(command[0]).name} {' '.join(command[1:4])} …"
        try:
            code = run_guarded(
                command,
                env=variables,
                cwd=environment.parent,
                log=log,
                timeout=_INSTALL_SECONDS,
                lock=guard_lock,
            )
        except subprocess.TimeoutExpired:
            ended = f"had not ended after {_INSTALL_SECONDS:g} s"
        else:
            if not code:
                return
            ended = f"exited {code}"
        said = printable(" ".join(log.read_text(encoding="utf-8", errors="replace").split())[-300:])
        raise ModelError(f"the environment of {what} could not be made: {shown} {ended}: {said}")

    with _locked(what, environment.with_name(f"{environment.name}.lock")):
        if (environment / "ready").exists() and (environment / "bin" / "python").exists():
            return
        logger.info("making the environment of %s (once)", what)
        wait_until_ended(guard_lock)
        shutil.rmtree(environment, ignore_errors=True)
        make(install)
        (environment / "ready").touch()


@contextmanager
def _locked(what: str, path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process, which makes the environment of %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _variables(environment: Path) -> dict[str, str]:
    clean = clean_variables(environment.with_name(f"{environment.name}-home"))
    return {**clean, "PATH": f"{environment / 'bin'}{os.pathsep}{clean['PATH']}", "VIRTUAL_ENV": str(environment)}


def _uv_variables(environment: Path) -> dict[str, str]:
    """Return the variables for uv, which is ours: it finds its cache and its configuration at home, if there is one."""
    places = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    found = {name: os.environ[name] for name in places if name in os.environ}
    return {**clean_variables(find_home() or environment.with_name("uv-home")), **found}


def _make_venv(model: str, python: str, environment: Path, install: _Install) -> None:
    command = [find_uv_bin(), "venv", "--quiet", "--seed", "--python"]
    variables = _uv_variables(environment)
    try:
        install([*command, python, str(environment)], variables)
    except ModelError as error:
        logger.warning(
            "%s asks for Python %s, which cannot be had here (%s); trying %s",
            model,
            python,
            error,
            sys.version.split()[0],
        )
        install([*command, sys.executable, str(environment)], variables)


def _install_command(
    model: str, command: str | tuple[str, ...], environment: Path, variables: Mapping[str, str]
) -> tuple[list[str], Mapping[str, str]]:
    """Translate a command of `install.yml` into one that runs in the environment, with its variables."""
    if isinstance(command, str):
        return ["bash", "-euc", command], variables
    program, *arguments = command
    if program != "pip" or not arguments:
        raise ModelError(
            f"install.yml of {model} has {list(command)}; this runner knows pip commands and shell lines only"
        )
    package, *rest = arguments
    pinned = f"{package}=={rest.pop(0)}" if rest and rest[0][:1].isdigit() else package
    return _uv_install(environment, pinned, *rest), _uv_variables(environment)


def _uv_install(environment: Path, *arguments: str) -> list[str]:
    python = environment / "bin" / "python"
    return [find_uv_bin(), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *arguments]

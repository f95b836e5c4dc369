"""The environment that a model runs in, made once by uv from the model's `install.yml`."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from filelock import FileLock
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from uv import find_uv_bin

from precalc_assets.errors import ModelError
from precalc_assets.inference.model_folder import ModelFolder

logger = logging.getLogger(__name__)

_PRIVATE_PREFIXES = ("PRECALC_", "DAGSTER_", "AWS_", "GITHUB_", "GH_", "ACTIONS_", "PYTHON", "VIRTUAL_ENV")
"""Variables that are ours, or a secret of ours: a model is somebody else's program and gets none of them."""


class InstallPlan(BaseModel):
    """A model's `install.yml`: a Python version and commands, lists such as ["pip", "rdkit", "2025.3.1"] or lines."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: str = Field(coerce_numbers_to_str=True)
    commands: Annotated[tuple[str | tuple[str, ...], ...], BeforeValidator(lambda value: value or ())] = ()


def model_environment(folder: ModelFolder, cache_dir: Path) -> dict[str, str]:
    """Return the variables under which the model's programs run, after making its environment where there is none.

    An environment is named by a digest of `install.yml`, made under a lock and marked when it is whole, so that
    processes share it and a killed one leaves nothing that looks ready. Raises ModelError with the installer's words.
    """
    path = folder.path / "install.yml"
    plan = read_install_plan(path)
    digest = hashlib.sha256(path.read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = cache_dir / "environments" / f"{folder.model}-{digest}"
    variables = _variables(environment)
    environment.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{environment}.lock"):
        if not (environment / "ready").exists():
            logger.info("making the environment of %s (once)", folder.model)
            shutil.rmtree(environment, ignore_errors=True)
            _make_venv(folder.model, plan.python, environment)
            for command in plan.commands:
                _run(folder.model, _install_command(folder.model, command, environment), variables)
            (environment / "ready").touch()
    return variables


def read_install_plan(path: Path) -> InstallPlan:
    """Read a model's `install.yml`. Raises ModelError if it is missing or says something else."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return InstallPlan.model_validate(content)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: it has to name a Python version and what to install") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise ModelError(f"{path} cannot be used: {' '.join(str(error).split())[:200]}") from None


def _variables(environment: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)}
    path = f"{environment / 'bin'}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path, "VIRTUAL_ENV": str(environment)}


def _make_venv(model: str, python: str, environment: Path) -> None:
    command = [find_uv_bin(), "venv", "--quiet", "--seed", "--python"]
    try:
        _run(model, [*command, python, str(environment)], os.environ)
    except ModelError as error:
        logger.warning(
            "%s asks for Python %s, which cannot be had here (%s); trying %s",
            model,
            python,
            error,
            sys.version.split()[0],
        )
        _run(model, [*command, sys.executable, str(environment)], os.environ)


def _install_command(model: str, command: str | tuple[str, ...], environment: Path) -> list[str]:
    """Translate a command of `install.yml` into one that runs in the environment."""
    if isinstance(command, str):
        return ["bash", "-euc", command]
    program, *arguments = command
    if program != "pip" or not arguments:
        raise ModelError(
            f"install.yml of {model} has {list(command)}; this runner knows pip commands and shell lines only"
        )
    package, *rest = arguments
    pinned = f"{package}=={rest.pop(0)}" if rest and rest[0][:1].isdigit() else package
    python = environment / "bin" / "python"
    return [find_uv_bin(), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), pinned, *rest]


def _run(model: str, command: list[str], variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=dict(variables), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ModelError(
            f"the environment of {model} could not be made: {Path(command[0]).name} {' '.join(command[1:4])} … exited "
            f"{done.returncode}: {' '.join(lines)[-300:]}"
        )

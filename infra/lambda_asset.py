"""The folder that a Lambda of the read API is made of, built without Docker and the same on every machine.

`python -m infra.lambda_asset FOLDER` builds what is deployed. Packages are wheels of the lock, checked by its hashes;
our own modules are those that the handler imports. boto3 is not among them: Lambda's Python has it.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HANDLER = "precalc_assets.api.handler.handler"

_ROOT = Path(__file__).parents[1]
_LOCK = _ROOT / "requirements.lock"
_PACKAGES = ("aws-lambda-powertools", "pydantic", "zstandard")
_MODULES = ("precalc_assets.api.handler", "precalc_assets.tables.dynamodb")
"""What is carried with all that these import; a store's module is imported when a URL names it."""

_UNWANTED = (
    # What an installer notes for itself; it differs between machines.
    ".lock",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/uv_cache.json",
    # zstandard's second copy of zstd, for Pythons that are not CPython: a third of the asset.
    "zstandard/_cffi.*",
)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The Python that is to run the asset: its version, and its platform by uv's name, None for this machine's."""

    python: str
    platform: str | None


LAMBDA = Runtime("3.13", "aarch64-manylinux2014")
"""Lambda's python3.13 on arm64."""

THIS_PYTHON = Runtime(f"{sys.version_info.major}.{sys.version_info.minor}", None)
"""For emulators, which run a Lambda as a process beside themselves."""


def build_asset(folder: Path, runtime: Runtime = LAMBDA) -> Path:
    """Make a folder hold the asset and nothing else, and return it.

    The bytes depend on the lock, our modules and the runtime alone, so that a deployment without a change of them
    changes nothing.

    Raises RuntimeError with the installer's words when a package is missing for the runtime or is not the lock's.
    """
    folder = folder.absolute()  # The installer works from the checkout's folder.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _install(folder, runtime)
    for name in _imported_modules():
        path = Path(*name.split("."))
        source = _ROOT / path / "__init__.py"
        if not source.exists():
            source = (_ROOT / path).with_suffix(".py")
        target = folder / source.relative_to(_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder


def _install(folder: Path, runtime: Runtime) -> None:
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder)]
    command += ["--require-hashes", "--requirement", "-", "--constraint", str(_LOCK), "--only-binary", ":all:"]
    command += ["--no-compile-bytecode", "--link-mode", "copy", "--python-version", runtime.python]
    if runtime.platform:
        command += ["--python-platform", runtime.platform]
    done = subprocess.run(command, input=_requirements(), cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the packages of the Lambda cannot be installed: {done.stderr.strip()}")
    # Commands, whose first line names this machine's Python.
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for unwanted in [path for pattern in _UNWANTED for path in folder.glob(pattern)]:
        unwanted.unlink()


def _requirements() -> str:
    """Return the packages with the versions that the lock has."""
    pins = [line.split()[0] for line in _LOCK.read_text().splitlines() if "==" in line]
    return "\n".join(pin for pin in pins if pin.split("==")[0] in _PACKAGES)


def _imported_modules() -> list[str]:
    """Return our modules that are there once the handler and the stores are imported, in a process of their own."""
    code = f"import sys, {', '.join(_MODULES)}; print(*(m for m in sys.modules if m.split('.')[0] == 'precalc_assets'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True, env={})
    return sorted(done.stdout.split())


def main() -> None:
    """Build the asset into a folder."""
    parser = argparse.ArgumentParser(prog="python -m infra.lambda_asset", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="what is in it is removed")
    parser.add_argument("--this-python", action="store_true", help="for the Python that runs this, not for Lambda's")
    chosen = parser.parse_args()
    folder = build_asset(chosen.folder, THIS_PYTHON if chosen.this_python else LAMBDA)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, handler {HANDLER}")


if __name__ == "__main__":
    main()

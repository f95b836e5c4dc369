"""Builds the folders of the read API's Lambdas, without Docker and identical on every machine.

`python -m infra.lambda_asset FOLDER` builds the deployed assets, a folder per Lambda. Packages are wheels of the lock,
verified by its hashes; of our own modules, an asset has those that its handler imports. Lambda's Python has boto3.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LOCK = _ROOT / "requirements.lock"

_PACKAGES = {"precalc_assets": _ROOT, "precalc": _ROOT / "client"}
"""Our packages and their folders. Of the client, `precalc`, a handler imports errors and identifiers."""

_UNWANTED = (
    # The installer's notes, which differ between machines.
    ".lock",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/uv_cache.json",
    # zstandard's copy of zstd for Pythons other than CPython: a third of the asset.
    "zstandard/_cffi.*",
    # A page that the API does not show.
    "fastapi_offline/static/redoc*",
    # Arrow's S3 client, in whose place obstore is; its RPC; copies of its libraries under other names.
    "pyarrow/_s3fs.*",
    "pyarrow/libarrow_s3.*",
    "pyarrow/*flight*",
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*",
    # What compilers and tests read.
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/tests",
    "pyarrow/**/*.p[xy][dix]",
    "numpy/**/*.pyi",
    "numpy/**/include",
    "numpy/**/tests",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """The content of one Lambda.

    `handler` is the function that Lambda calls. Its module and `modules`, which it imports later, come with all their
    imports. `packages` come with their dependencies, `alone` without. `files` are read or run by path.
    """

    name: str
    handler: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


READER = Asset(
    name="reader",
    handler="precalc_assets.api.handler.handler",
    packages=("fastapi", "jinja2", "mangum", "zstandard"),
    # Swagger UI; its one dependency, FastAPI, is in `packages`.
    alone=("fastapi-offline",),
    modules=("precalc_assets.tables.dynamodb",),
    files=("precalc_assets/api/examples.json", "precalc_assets/api/templates"),
)
"""Answers all routes that read the tables."""

INCHIKEYS = Asset(
    name="inchikeys",
    handler="precalc_assets.api.inchikey_handler.handler",
    packages=("fastapi", "mangum", "python-calamine"),
    # Without NumPy and Pillow, which an InChIKey does not need.
    alone=("rdkit",),
    modules=("precalc_assets.api.row_process",),
    files=("client/precalc/molecules/smiles_keys.py", "precalc_assets/api/drawing_process.py"),
)
"""Answers `POST /inchikeys`, `POST /rows` and `POST /drawings`."""

SCREENS = Asset(
    name="screens",
    handler="precalc_assets.api.screen_handler.handler",
    packages=("fastapi", "mangum", "numpy", "obstore", "pyarrow", "zstandard"),
    modules=("precalc_assets.tables.dynamodb",),
)
"""Answers `GET /screens` and `POST /screens`."""

ASSETS = (READER, INCHIKEYS, SCREENS)


@dataclass(frozen=True, slots=True)
class Runtime:
    """The Python that runs the asset: its version, and uv's name of its platform (None: this machine's)."""

    python: str
    platform: str | None


LAMBDA = Runtime("3.13", "aarch64-manylinux_2_28")
"""Lambda's python3.13 on arm64, on Amazon Linux 2023 with glibc 2.34 (AWS Lambda Developer Guide, "Runtimes")."""

THIS_PYTHON = Runtime(f"{sys.version_info.major}.{sys.version_info.minor}", None)
"""For emulators, which run a Lambda as a local process."""


def build_asset(folder: Path, asset: Asset, runtime: Runtime = LAMBDA) -> Path:
    """Build the asset in a folder, whose previous content is removed, and return the folder.

    The bytes depend only on the lock, our modules and the runtime, so that a deployment without changes to them
    changes nothing.

    Raises RuntimeError with the installer's message if a package has no wheel for the runtime or differs from the lock.
    """
    folder = folder.absolute()  # The installer works from the checkout's folder.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _install(folder, asset.packages, runtime)
    if asset.alone:
        _install(folder, asset.alone, runtime, "--no-deps")
    if "rdkit" in asset.alone:
        _trim_rdkit(folder)
    # The first line of these commands names this machine's Python.
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for unwanted in [path for pattern in _UNWANTED for path in folder.glob(pattern)]:
        if unwanted.is_dir():
            shutil.rmtree(unwanted)
        else:
            unwanted.unlink(missing_ok=True)  # It may match two patterns.
    for source in [*map(_source, _imported_modules(asset)), *_files(asset)]:
        root = _PACKAGES["precalc"] if source.is_relative_to(_PACKAGES["precalc"]) else _ROOT
        target = folder / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder


def _install(folder: Path, packages: tuple[str, ...], runtime: Runtime, *options: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder), *options]
    command += ["--require-hashes", "--requirement", "-", "--constraint", str(_LOCK), "--only-binary", ":all:"]
    command += ["--no-compile-bytecode", "--link-mode", "copy", "--python-version", runtime.python]
    if runtime.platform:
        command += ["--python-platform", runtime.platform]
    pins = _pins(packages)
    done = subprocess.run(command, input=pins, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the packages of the Lambda cannot be installed: {done.stderr.strip()}")


def _pins(packages: tuple[str, ...]) -> str:
    """Return the packages with the lock's versions, of which some are for a range of Pythons."""
    pins = [line.removesuffix("\\").strip() for line in _LOCK.read_text().splitlines() if "==" in line]
    return "\n".join(pin for pin in pins if pin.split("==")[0] in packages)


def _imported_modules(asset: Asset) -> list[str]:
    """Return our modules that importing the handler and the modules loads, found in a new process."""
    names = (asset.handler.rpartition(".")[0], *asset.modules)
    code = f"import json, sys, {', '.join(names)}; print(json.dumps([m for m in sys.modules]))"
    return sorted(name for name in json.loads(_run(code)) if name.split(".")[0] in _PACKAGES)


def _source(module: str) -> Path:
    path = _PACKAGES[module.split(".")[0]].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _files(asset: Asset) -> list[Path]:
    named = [_ROOT / name for name in asset.files]
    return [path for name in named for path in ([name] if name.is_file() else sorted(name.iterdir()))]


def _trim_rdkit(folder: Path) -> None:
    """Reduce RDKit to the third that our scripts load: a Lambda starts only when its whole asset has arrived.

    The loaded modules are found by running the scripts with this machine's RDKit, of the same version. A shared
    library is kept if a kept file contains its name, which is unique since it holds a digest.
    """
    keys, drawings = (str(_ROOT / name) for name in INCHIKEYS.files)
    code = (
        f"import json, runpy, sys; runpy.run_path({keys!r})['identify'](['C', 'C1CC']);"
        f"runpy.run_path({drawings!r})['load_drawer']();"
        "specs = [m.__spec__ for n, m in sys.modules.items() if n.split('.')[0] == 'rdkit'];"
        "print(json.dumps([spec.origin for spec in specs if spec]))"
    )
    loaded = [Path(origin) for origin in json.loads(_run(code))]
    installed = next(path for path in loaded if path.parts[-2:] == ("rdkit", "__init__.py")).parents[1]
    wanted = {path.relative_to(installed) for path in loaded}
    libraries = {library.name.encode(): library for library in (folder / "rdkit.libs").iterdir()}
    unseen = [folder / name for name in wanted]
    while unseen:
        content = unseen.pop().read_bytes()
        named = [library for name, library in libraries.items() if name in content]
        new = {library.relative_to(folder) for library in named} - wanted
        wanted |= new
        unseen += [folder / name for name in new]
    for top in ("rdkit", "rdkit.libs", "rdkit-stubs"):
        for path in (folder / top).rglob("*"):
            if path.is_file() and path.relative_to(folder) not in wanted:
                path.unlink()
    for path in sorted(folder.glob("rdkit*/**/"), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, env={}).stdout


def main() -> None:
    """Build each asset into a folder of its name."""
    parser = argparse.ArgumentParser(prog="python -m infra.lambda_asset", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="target folder; its content is removed")
    parser.add_argument("--this-python", action="store_true", help="build for this Python, not for Lambda's")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.folder, ignore_errors=True)
    for asset in ASSETS:
        folder = build_asset(chosen.folder / asset.name, asset, THIS_PYTHON if chosen.this_python else LAMBDA)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}: {size / 1e6:.1f} MB, handler {asset.handler}")


if __name__ == "__main__":
    main()

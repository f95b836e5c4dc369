"""Fixtures for all tests: a small world with a library, models in the hub's layout, and the command line.

Its models use only the standard library, so that a call takes some 50 ms, and log their calls.
"""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import obstore
import pytest
from aws_emulator import aws, ministack, strict_ministack  # noqa: F401
from image_machine import image_machine  # noqa: F401
from obstore.store import ObjectStore
from warm_commands import run_command

from precalc_assets import storage
from precalc_assets.inference.framework_backend import FrameworkBackend
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import LibraryManifest, read_manifest
from precalc_assets.models.folder import find_model
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.loading import load_shards
from precalc_assets.predictions.validate import validate_shards
from precalc_assets.settings import Settings, load_settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store
from precalc_assets.tables import KeyValueStore, open_tables

# Shells make background processes ignore Ctrl-C. Tests need it to stop the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NO_HUB = "file:///nonexistent"
os.environ.setdefault("PRECALC_HUB_URL", NO_HUB)  # No test may reach the real hub.
os.environ.setdefault("PRECALC_HUB_REGISTRY", "/nonexistent/models.json")

# Each collection of garbage would look through all that the tests import.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# A busy machine is no fault of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

MODEL = "eos9abc"
N_SHARDS = 4
BATCH_SIZE = 5
MOLECULES = tuple("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl"))

COLUMNS = (("score", "float"), ("atoms", "integer"), ("label", "string"))
ANSWER = """return f'{len(smiles) / 3!r},{len(smiles)},"{smiles}"'"""
"""The default code of a model's answer to a molecule: a line of CSV for COLUMNS."""

_MAIN = """\
import csv, json, os, sys, time

HEADER = {header!r}

with open(sys.argv[1], newline="", encoding="utf-8") as file:
    given = [row["smiles"] for row in csv.DictReader(file)]
with open({log!r}, "a") as log:
    log.write(json.dumps(given) + "\\n")


def answer(smiles):
{answer}


def write(text):
    with open(sys.argv[2], "w", newline="", encoding="utf-8") as file:
        file.write(text)


{script}
"""
_SCRIPT = """write("\\n".join([HEADER, *map(answer, given)]) + "\\n")"""
_RUN = 'set -e\npython "$1/code/main.py" "$2" "$3"\n'
_INSTALL = 'python: "3.11"\ncommands: []\n'


class World:
    """One test's store, tables, models and settings. All tests share the environments of models."""

    def __init__(self, root: Path, cache_dir: Path) -> None:
        self.root = root
        self.models_dir = root / "models"
        self.calls_log = root / "calls.jsonl"
        self.cache_dir = cache_dir
        self.models_dir.mkdir(parents=True)
        self.store: ObjectStore = open_store(f"file://{root / 'store'}")

    def copy(self, other: "World") -> "World":
        """Fill this empty world with a copy of another one; its models log their calls here."""
        shutil.copytree(other.root, self.root, dirs_exist_ok=True)
        for code in self.models_dir.glob("*/model/framework/code/main.py"):
            code.write_text(code.read_text().replace(str(other.root), str(self.root)))
        return self

    @property
    def tables(self) -> KeyValueStore:
        return open_tables(f"sqlite:///{self.root / 'tables.db'}")

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PRECALC_", "DAGSTER_"))}
        return {
            **inherited,
            "PRECALC_STORE_URL": f"file://{self.root / 'store'}",
            "PRECALC_TABLES_URL": f"sqlite:///{self.root / 'tables.db'}",
            "PRECALC_MODELS_DIR": str(self.models_dir),
            "PRECALC_CACHE_DIR": str(self.cache_dir),
            "PRECALC_HUB_URL": NO_HUB,
            "PRECALC_HUB_REGISTRY": "/nonexistent/models.json",
            "PRECALC_N_SHARDS": str(N_SHARDS),
            "PRECALC_BATCH_SIZE": str(BATCH_SIZE),
            "PRECALC_PROCESSES": "1",
        }

    def write_model(
        self,
        *,
        model: str = MODEL,
        columns: Sequence[tuple[str, str]] = COLUMNS,
        answer: str = ANSWER,
        script: str = _SCRIPT,
        header: str | None = None,
        release: str = "v1.0.0",
        run: str | None = _RUN,
        install: str | None = _INSTALL,
    ) -> Path:
        """Write a model's folder, replacing the one of that name.

        `answer` is the body of a function from `smiles` to a line of CSV; `script` is the code that calls it.
        A file that is None is omitted.
        """
        folder = self.models_dir / model
        framework = folder / "model" / "framework"
        body = "\n".join(f"    {line}" for line in answer.splitlines())
        names = header if header is not None else ",".join(name for name, _ in columns)
        files: dict[Path, str | None] = {
            folder / "metadata.yml": f"Identifier: {model}\nTitle: A model for tests\nRelease: {release}\n"
            "License: MIT\n",
            folder / "install.yml": install,
            framework / "run.sh": run,
            framework / "code" / "main.py": _MAIN.format(
                header=names, log=str(self.calls_log), answer=body, script=script
            ),
            framework / "columns" / "run_columns.csv": "name,type,direction,description\n"
            + "".join(f"{name},{kind},,A column of a test\n" for name, kind in columns),
        }
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(content, encoding="utf-8")
        return folder

    def move_to_hub(self, model: str, tag: str) -> str:
        """Move a model's folder into a hub, as a git repository with this tag; return the hub's URL."""
        hub = self.root / "hub"
        hub.mkdir(exist_ok=True)
        repository = (self.models_dir / model).rename(hub / model)
        user = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        for words in (["init"], ["add", "--all"], [*user, "commit", "--message=First"], ["tag", tag]):
            subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True)
        return f"file://{hub}"

    def build_library(self, molecules: Sequence[str] = MOLECULES) -> LibraryManifest:
        source = self.root / "library.smi"
        source.write_text("\n".join(molecules) + "\n")
        return build_library(self.store, source, n_shards=N_SHARDS, processes=1)

    def backend(self, model: str = MODEL, *, batch_timeout: float = 60.0) -> FrameworkBackend:
        folder = find_model(model, [self.models_dir])
        settings = Settings(cache_dir=self.cache_dir, batch_size=BATCH_SIZE, batch_timeout=batch_timeout)
        return FrameworkBackend(folder, settings)

    def predict(
        self,
        shards: Sequence[str] | None = None,
        *,
        max_failure_rate: float = 0.5,
        backend: ModelBackend | None = None,
    ) -> list[ShardOutcome]:
        return list(
            predict_shards(
                self.store,
                read_manifest(self.store),
                MODEL,
                backend or self.backend(),
                shards or shard_keys(N_SHARDS),
                settings=Settings(batch_size=BATCH_SIZE, max_failure_rate=max_failure_rate),
            )
        )

    def validate(self, shards: Sequence[str] | None = None, *, max_failure_rate: float = 0.5) -> list[ShardOutcome]:
        library = read_manifest(self.store)
        chosen = shards or shard_keys(N_SHARDS)
        return list(validate_shards(self.store, library, MODEL, chosen, max_failure_rate=max_failure_rate))

    def load(self, shards: Sequence[str] | None = None) -> list[ShardOutcome]:
        return list(load_shards(self.store, self.tables, MODEL, shards or shard_keys(N_SHARDS)))

    def precalc(self, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command. `settings` are environment variables without their prefix."""
        variables = {**self.environment, **{f"PRECALC_{name.upper()}": value for name, value in settings.items()}}
        return run_command([*map(str, arguments)], variables=variables, folder=self.root)

    @staticmethod
    def command(*arguments: str | Path) -> list[str]:
        return [str(Path(sys.executable).parent / "precalc"), *map(str, arguments)]

    def calls(self) -> list[list[str]]:
        """Return the molecules of each of the model's calls."""
        if not self.calls_log.exists():
            return []
        return [json.loads(line) for line in self.calls_log.read_text().splitlines()]

    def library_shard(self, shard: str) -> Path:
        """Return the path of a shard's molecules."""
        return self.path(storage.library_shard(shard, read_manifest(self.store).shards[shard].digest))

    def path(self, name: str) -> Path:
        """Return the path of an object of the store."""
        return self.root / "store" / name

    def objects(self, prefix: str | None = None) -> dict[str, tuple[str | None, object]]:
        """Return the e-tag and the modification time of the store's objects, by name."""
        return {
            entry["path"]: (entry["e_tag"], entry["last_modified"])
            for chunk in obstore.list(self.store, prefix)
            for entry in chunk
        }


@pytest.fixture(scope="session")
def models_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of models' environments for all tests of a process. It contains the environment of these models."""
    cache = tmp_path_factory.mktemp("models-cache")
    first = World(tmp_path_factory.mktemp("first") / "world", cache)
    first.write_model()
    with first.backend():
        pass
    return cache


@pytest.fixture
def world(tmp_path: Path, models_cache: Path) -> World:
    """An empty world."""
    return World(tmp_path / "world", models_cache)


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Callable[[str], World]:
    """A function that makes worlds which outlive a test."""
    return lambda name: World(tmp_path_factory.mktemp(name) / "world", models_cache)


@pytest.fixture(scope="session")
def predicted_once(make_world: Callable[[str], World]) -> World:
    """A world in which a good model has answered every molecule. Tests take copies; a module may override it."""
    world = make_world("predicted")
    world.write_model()
    world.build_library()
    assert not [outcome.failure for outcome in world.predict() if outcome.failure]
    return world


@pytest.fixture
def predicted(world: World, predicted_once: World) -> World:
    """A world in which the model has answered every molecule."""
    return world.copy(predicted_once)


@pytest.fixture(scope="session")
def served_once(make_world: Callable[[str], World], predicted_once: World) -> World:
    """The same world, with the predictions in the table."""
    world = make_world("served").copy(predicted_once)
    assert not [outcome.failure for outcome in (*world.validate(), *world.load()) if outcome.failure]
    return world


@pytest.fixture
def served(world: World, served_once: World) -> World:
    """A world with the model's predictions in the table."""
    return world.copy(served_once)


@pytest.fixture
def new_world(tmp_path: Path, models_cache: Path) -> Callable[[str], World]:
    """A function that makes several worlds."""
    return lambda name: World(tmp_path / name, models_cache)


@pytest.fixture(autouse=True)
def _fresh_settings() -> None:
    """Clear the cache of settings, which are otherwise read once per process."""
    load_settings.cache_clear()

"""A killed run, and the same command again: the result is that of an undisturbed run."""

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from precalc_assets.predictions.shard_manifest import RawManifest
from precalc_assets.sharding import shard_keys
from precalc_assets.tables import REGISTRY, TableReader

pytestmark = pytest.mark.slow

MODEL = "eos9abc"
SHARDS = shard_keys(4)
SLOW_ANSWER = """time.sleep(0.02)\nreturn f'{len(smiles) / 3!r},{len(smiles)},"{smiles}"'"""


def contents(world) -> dict[str, object]:
    """Return everything that a run leaves, without times."""
    found: dict[str, object] = {}
    for name in world.objects():
        path = world.path(name)
        if name.endswith("manifest.json") and name.startswith("raw/"):
            found[name] = RawManifest.model_validate_json(path.read_bytes()).model_dump(
                exclude={"seconds", "seconds_before", "finished_at"}
            )
        elif not name.endswith("manifest.json"):
            found[name] = path.read_bytes()
    return found


def table(world) -> dict[str, object]:
    """Return each shard's rows and its directory without times."""
    reader = TableReader(world.tables, MODEL)
    seen: dict[str, object] = {}
    for shard, directory in reader.directories().items():
        keys = pq.read_table(world.library_shard(shard))["inchikey"].to_pylist()
        seen[shard] = (directory.generation, directory.rows, directory.n_pages, repr(reader.get(keys)))
    return seen


def pages(world) -> int:
    """Return the number of items in the tables' file, garbage included, without the models' cards."""
    with sqlite3.connect(world.root / "tables.db") as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        names = [name for name in names if name != f"table:{REGISTRY}"]
        return sum(database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names)


def start(world, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        world.command(*arguments),
        env=world.environment,
        cwd=world.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill the command's process group; return whether it was still running."""
    at_work = process.poll() is None
    if at_work:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at_work


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not true() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def undisturbed(new_world):
    world = new_world("undisturbed")
    world.write_model(answer=SLOW_ANSWER)
    world.build_library()
    for outcome in [*world.predict(), *world.validate(), *world.load()]:
        assert not outcome.failure
    return world


def test_killed_predict_continues_after_its_last_part(undisturbed, new_world) -> None:
    world = new_world("killed")
    world.write_model(answer=SLOW_ANSWER)
    world.build_library()
    folder: Path = world.path("raw")
    killed = 0
    for n_parts in (1, 4, 8):
        process = start(world, "predict", MODEL)
        wait_until(lambda n_parts=n_parts: len(list(folder.rglob("part-*"))) >= n_parts, process)
        killed += kill(process)
        parts = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.csv.gz")}
        assert parts
    assert killed >= 2
    assert world.precalc("predict", MODEL).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert world.precalc("load", MODEL).returncode == 0
    assert contents(world) == contents(undisturbed)
    assert table(world) == table(undisturbed)
    assert pages(world) == pages(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_predict_that_is_ended_leaves_no_process_of_the_model(world, number: signal.Signals) -> None:
    marker = world.root / "processes"
    log_and_hang = f"""with open({str(marker)!r}, 'a') as file:
    file.write(f'{{os.getpid()}} {{os.getppid()}}\\n')
time.sleep(60)"""
    world.write_model(script=log_and_hang, run='(setsid timeout 60 python "$1/code/main.py" "$2" "$3" &)\nsleep 60\n')
    world.build_library()
    process = start(world, "predict", MODEL)
    wait_until(lambda: marker.exists() and marker.read_text().endswith("\n"), process)
    os.kill(process.pid, number)
    assert process.wait(20) != 0
    pids = [int(pid) for pid in marker.read_text().split()]
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("command", [("library", "build"), ("predict", MODEL)], ids=" ".join)
def test_the_next_command_removes_what_a_killed_one_left(world, monkeypatch, command: tuple[str, ...]) -> None:
    temporary = world.root / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    world.write_model(answer=SLOW_ANSWER)
    molecules = world.root / "molecules.smi"
    molecules.write_text("\n".join("C" * n + end for n in range(1, 200) for end in ("", "O", "N", "Cl", "F")))
    if command == ("library", "build"):
        command = (*command, str(molecules))
    else:
        world.build_library()
    for _ in range(3):
        process = start(world, *command)
        wait_until(lambda: any(temporary.iterdir()), process)
        kill(process)
    time.sleep(1)
    done = world.precalc(*command)
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())


def test_load_killed_at_any_time_ends_as_an_undisturbed_one(undisturbed, new_world) -> None:
    world = new_world("killed")
    world.write_model(answer=SLOW_ANSWER)
    world.build_library()
    world.predict()
    chance = random.Random(7)
    started = time.monotonic()
    whole = start(undisturbed, "load", MODEL)
    whole.wait()
    seconds = time.monotonic() - started
    killed = 0
    for _ in range(8):
        process = start(world, "load", MODEL)
        time.sleep(seconds * chance.uniform(0.3, 1.0))
        killed += kill(process)
        if (world.root / "tables.db").exists():
            assert world.precalc("status", MODEL).returncode == 0
    assert killed >= 2
    assert world.precalc("load", MODEL).returncode == 0
    assert contents(world) == contents(undisturbed)
    assert table(world) == table(undisturbed)
    assert pages(world) == pages(undisturbed)

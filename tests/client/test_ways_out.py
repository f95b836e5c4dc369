"""What a message names as the way out helps: each is run."""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from precalc.molecules.smiles_workers import inchikey

MODEL = "eos9abc"


def failed(world, *arguments: str) -> str:
    """Run a command that fails, and return its one line."""
    done = world.precalc(*arguments)
    assert done.returncode != 0, done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


def run(world, *arguments: str) -> str:
    done = world.precalc(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_what_helps(world, line: str) -> None:
    """Run the commands that a message names, in its order."""
    commands = [shlex.split(command.replace("MODEL", MODEL)) for command in re.findall(r"`precalc ([^`]+)`", line)]
    assert commands, line
    for command in commands:
        run(world, *command)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-10],
        pytest.param(lambda content: content[:100] + b"!" + content[101:], marks=pytest.mark.slow),
        pytest.param(lambda content: b"", marks=pytest.mark.slow),
        pytest.param(lambda content: content + b"x", marks=pytest.mark.slow),
        pytest.param(lambda content: None, marks=pytest.mark.slow),
    ],
    ids=["cut short", "changed", "empty", "too long", "gone"],
)
def test_a_damaged_file_of_the_store_can_be_downloaded_after_what_is_named(served, damage) -> None:
    path = served.root / "store" / f"predictions/model={MODEL}/shard=01.parquet"
    whole = path.read_bytes()
    content = damage(whole)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    line = failed(served, "download", MODEL, "-o", "out")
    assert "shard=01.parquet" in line
    run_what_helps(served, line)
    run(served, "download", MODEL, "-o", "out")
    assert (served.root / "out" / "shard=01.parquet").read_bytes() == whole


def damage_database(path: Path) -> None:
    """Overwrite all pages but the first of a database, which is closed."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [size] = database.execute("PRAGMA page_size").fetchone()
    content = path.read_bytes()
    path.write_bytes(content[:size] + b"\x55" * (len(content) - size))


def test_a_malformed_database_is_written_anew_by_what_is_named(served) -> None:
    key = inchikey("CCO")
    before = run(served, "get", MODEL, key)
    damage_database(served.root / "tables.db")
    line = failed(served, "get", MODEL, key)
    assert "malformed" in line
    assert failed(served, "load", MODEL).endswith(line.partition("malformed")[2])
    for path in served.root.glob("tables.db*"):
        path.rename(path.with_name(f"damaged-{path.name}"))
    run_what_helps(served, line)
    assert run(served, "get", MODEL, key) == before


def test_a_damaged_file_of_computed_molecules_is_deleted_and_made_again(served) -> None:
    served.write_model(answer="raise SystemExit(1)")
    wanted = ["get", MODEL, *("C" * n + "O" for n in range(30, 33)), "-o", "out.csv", "--compute-missing"]
    damaged = served.root / ".out.csv.computed"
    damaged.write_bytes(b"SQLite format 3\0" + b"\x55" * 8_000)
    line = failed(served, *wanted)
    assert re.search(r"\.out\.csv\.computed cannot be used: .*; delete it, since it is damaged", line)
    damaged.unlink()
    served.write_model()
    run(served, *wanted)


def test_a_folder_that_cannot_be_written_into_is_named(served) -> None:
    for arguments in (
        ["get", MODEL, "CCO", "-o", "/sys/out.csv"],
        ["download", MODEL, "-o", "/sys/out"],
        ["get", MODEL, "CCO", "-o", "/sys/kernel/out.csv", "--compute-missing"],
    ):
        assert re.search(r"/sys/\S*out.* cannot be written.*you may write into", failed(served, *arguments))

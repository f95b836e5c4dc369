"""`precalc verify`: what it finds, what it says, its exit codes, and what heals the table."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from table_doubles import damage
from warm_commands import start_command

MODEL = "eos9abc"
PARQUET = f"predictions/model={MODEL}/shard=02.parquet"
TRY_LOAD = "run `precalc load` for its model, which writes it from the raw predictions"


@pytest.fixture(scope="module")
def made_once(make_world, served_once):
    """A world whose model and library are loaded."""
    world = make_world("verified").copy(served_once)
    assert world.precalc("library", "build", world.root / "library.smi").returncode == 0
    return world


@pytest.fixture
def loaded(made_once, world):
    """A copy of that world."""
    return world.copy(made_once)


def lose_record(world) -> None:
    with closing(world.tables) as tables:
        tables.delete_many(MODEL, ["02"])


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def hurt_page(world, table: str, how: str) -> None:
    with closing(world.tables) as tables:
        damage(tables, table, "02", how)


FAULTS = {
    "lost page": (lambda world: hurt_page(world, MODEL, "lost"), "of 1 pages 1 are lost, such as 02/"),
    "flipped page": (lambda world: hurt_page(world, MODEL, "flipped"), "of 1 pages 1 are damaged, such as 02/"),
    "other values": (lambda world: hurt_page(world, MODEL, "changed"), "of 1 pages 1 are different, such as 02/"),
    "missing shard": (lose_record, "it is not loaded"),
}
"""What may happen to a table, and what the command says of it."""


@pytest.mark.parametrize("table", [MODEL, "library"])
def test_a_healthy_table_passes(loaded, table: str) -> None:
    done = loaded.precalc("verify", table)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(f"verify {table}: 4 shards, rows 60, seconds")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_table_is_named_and_healed(loaded, fault: str) -> None:
    harm, found = FAULTS[fault]
    harm(loaded)
    before = loaded.precalc("verify", MODEL)
    assert before.returncode == 1
    *_, error, rest = before.stderr.splitlines()
    assert error.startswith(f"error: shards 02: shard 02 of {MODEL}: {found}")
    assert error.endswith(f"; run `precalc verify {MODEL} --repair`")
    assert rest == "the other shards are equal to their files"

    repaired = loaded.precalc("verify", MODEL, "--repair")
    assert repaired.returncode == 0
    warning, summary = repaired.stderr.splitlines()
    assert warning.startswith(f"warning: verify {MODEL}, shards 02: {found}")
    assert warning.endswith("; written anew")
    assert summary.startswith(f"verify {MODEL}: 4 shards, rows 60")
    assert len(loaded.precalc("verify", MODEL).stderr.splitlines()) == 1


def test_a_fault_of_the_library_is_named_and_healed(loaded) -> None:
    hurt_page(loaded, "library", "flipped")
    before = loaded.precalc("verify", "library")
    assert before.returncode == 1
    assert "1 are damaged" in before.stderr
    assert "run `precalc verify library --repair`" in before.stderr
    assert [loaded.precalc("verify", "library", *flag).returncode for flag in (["--repair"], [])] == [0, 0]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda path: flip_byte(path, 100), f"{PARQUET} is damaged (could not verify page integrity"),
        (lambda path: flip_byte(path, -100), f"{PARQUET} is damaged or not one of ours"),
        (Path.unlink, f"{PARQUET} does not exist"),
    ],
    ids=["page", "footer", "lost"],
)
def test_a_fault_of_a_file_is_healed_by_load(loaded, harm, found: str) -> None:
    harm(loaded.path(PARQUET))
    for flags in ([], ["--repair"]):
        refused = loaded.precalc("verify", MODEL, *flags)
        assert refused.returncode == 1
        *_, error, rest = refused.stderr.splitlines()
        assert error.startswith(f"error: shards 02: {found}")
        assert error.endswith(TRY_LOAD)
        assert rest == "the other shards are equal to their files"
    assert loaded.precalc("load", MODEL).returncode == 0
    assert loaded.precalc("verify", MODEL).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["eos0zzz"], 1, "error: there is no table 'eos0zzz'; run `precalc load eos0zzz` first"),
        ([MODEL, "--shards", "07"], 2, "error: shards '07': there is no shard 7; shards run from 00 to 03"),
        (["Not a model"], 2, "Not a model"),
    ],
)
def test_what_cannot_be_verified_is_named(loaded, arguments: list[str], code: int, said: str) -> None:
    refused = loaded.precalc("verify", *arguments)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (code, 1)
    assert said in refused.stderr


def test_a_terminal_shows_progress_in_shards(loaded, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    output = tmp_path / "output"
    output.touch()
    variables = loaded.environment | {"TERM": "xterm", "COLUMNS": "120"}
    started = start_command(
        ["verify", MODEL], variables=variables, folder=loaded.root, output=output, errors=Path(os.ttyname(theirs))
    )
    started.join()
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert started.exitcode == 0
    assert f"verify {MODEL}" in shown
    assert "4/4" in shown
    assert "shards" in shown

"""`precalc predict` with broken models: one error with the model's name and advice, and no partial output."""

import csv
import subprocess

import psutil
import pytest

from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.sharding import shard_keys

pytestmark = pytest.mark.slow

MODEL = "eos9abc"
SHARDS = shard_keys(4)
ANSWERED = """return f'{len(smiles) / 3!r},{len(smiles)},"{smiles}"'"""
MOLECULES = ["C" * n + end for n in range(1, 9) for end in ("", "O", "N", "Cl")]
HANG = "time.sleep(60)"


def assert_plain_failure(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """Assert one error line with these words; other lines may report kept shards and installations."""
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0]
    assert len(done.stderr.splitlines()) <= 4, done.stderr
    assert done.stdout == ""


def assert_nothing_written(world) -> None:
    assert not [name for name in world.objects() if not name.startswith("library")]
    assert not (world.root / "tables.db").exists()


def one_bad(answer: str) -> str:
    return f"if smiles == 'CCCO':\n    {answer}\n{ANSWERED}"


BROKEN = {
    "no run.sh": ({"run": None}, ["run.sh is missing", MODEL]),
    "exits 1": ({"run": "echo some words >&2; echo no GPU here >&2; exit 1\n"}, [MODEL, "exited 1", "no GPU here"]),
    "prints too few rows": (
        {"script": 'write("\\n".join([HEADER, *map(answer, given[1:])]) + "\\n")'},
        [MODEL, "rows for", "molecules"],
    ),
    "prints too many rows": (
        {"script": 'write("\\n".join([HEADER, *map(answer, given + given[:1])]) + "\\n")'},
        [MODEL, "wrote 2 rows for 1 molecules"],
    ),
    "prints text for numbers": ({"answer": "return 'high,,'"}, [MODEL, "score is 'high', not a finite number"]),
    "prints a column that is not declared": (
        {"header": "score,atoms,label,extra", "answer": "return '1,1,x,1'"},
        [MODEL, "'extra'", "run_columns.csv"],
    ),
    "lacks a declared column": (
        {"header": "score,atoms", "answer": "return '1,1'"},
        [MODEL, "'label'", "run_columns.csv"],
    ),
    "prints a column twice": ({"header": "score,atoms,atoms", "answer": "return '1,1,1'"}, [MODEL, "'atoms' twice"]),
    "writes no file": ({"script": "pass"}, [MODEL, "wrote no output file"]),
    "writes an empty file": ({"script": "write('')"}, [MODEL, "cannot be read", "empty"]),
    "writes a PNG": (
        {"script": "open(sys.argv[2], 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(range(256)) * 9)"},
        [MODEL, "cannot be read"],
    ),
    "writes one endless word": ({"script": "write('x' * 300_000)"}, [MODEL, "lacks the column 'score'"]),
    "has a wide header": ({"script": "write('score,atoms,label,' + 'x' * 300_000)"}, [MODEL, "that is not in"]),
    "cannot be installed": (
        {"install": 'python: "3.11"\ncommands:\n  - ["pip", "/does/not/exist"]\n'},
        [MODEL, "environment", "/does/not/exist"],
    ),
    "has an install line that fails": (
        {"install": 'python: "3.11"\ncommands:\n  - "echo no compiler >&2; exit 3"\n'},
        [MODEL, "environment", "no compiler"],
    ),
    "has no install.yml": ({"install": None}, [MODEL, "neither Dockerfile nor install.yml"]),
    "has an unknown installer": (
        {"install": 'python: "3.11"\ncommands:\n  - conda env create\n'},
        [MODEL, "install.yml", "conda env"],
    ),
}


FAST = {
    "no run.sh",
    "exits 1",
    "prints too few rows",
    "prints text for numbers",
    "prints a column that is not declared",
    "writes a PNG",
    "cannot be installed",
}
"""Faults in the fast tests; the others take the same code paths and run in the slow ones."""


@pytest.mark.parametrize(
    ("model", "words"),
    [pytest.param(*case, id=name, marks=[] if name in FAST else pytest.mark.slow) for name, case in BROKEN.items()],
)
def test_a_broken_model_is_an_error_and_leaves_nothing(world, model: dict[str, str], words: list[str]) -> None:
    world.write_model(**model)
    world.build_library(MOLECULES)
    assert_plain_failure(world.precalc("predict", MODEL), *words)
    assert_nothing_written(world)


def test_hanging_model_times_out_and_leaves_no_process(world) -> None:
    marker = world.root / "processes"
    world.write_model(script=f"open({str(marker)!r}, 'a').write(str(os.getpid()) + chr(10))\n{HANG}")
    world.build_library(MOLECULES[:14])
    done = world.precalc("predict", MODEL, batch_size="14", batch_timeout="0.7")
    assert_plain_failure(done, MODEL, "no answer within", "PRECALC_BATCH_TIMEOUT")
    assert_nothing_written(world)
    started = [psutil.Process(int(pid)) for pid in marker.read_text().split() if psutil.pid_exists(int(pid))]
    alive = [process for process in started if process.status() != psutil.STATUS_ZOMBIE]
    assert not [process for process in alive if str(world.root) in " ".join(process.cmdline())]


QUARANTINED = {
    "exits for it": ("sys.exit('bad valence')", "run.sh exited 1: bad valence"),
    "prints text for its number": ("return 'high,,'", "score is 'high', not a finite number"),
    "prints too few cells for it": ("return '1'", "the model printed a row with fewer cells than columns"),
    "prints an open quote for it": ("return '1,1,\"x'", "the model printed an unclosed quote"),
}


@pytest.mark.parametrize(("answer", "reason"), QUARANTINED.values(), ids=QUARANTINED)
def test_bad_molecule_is_quarantined_and_the_others_get_answers(world, answer: str, reason: str) -> None:
    world.write_model(answer=one_bad(answer))
    world.build_library(MOLECULES)
    done = world.precalc("predict", MODEL, max_failure_rate="0.5")
    assert (done.returncode, done.stdout) == (0, "")
    assert "rows 32, quarantined 1" in done.stderr
    assert_only_quarantined(world, reason)


def test_bad_cell_is_emptied_and_said_with_an_example(world) -> None:
    world.write_model(answer=one_bad("return 'inf,4,x'"))
    world.build_library(MOLECULES)
    done = world.precalc("predict", MODEL)
    assert (done.returncode, done.stdout) == (0, "")
    assert "rows 32, quarantined 0, " in done.stderr
    said = "1 cells are not of their column's type and are emptied: 1 in score, such as 'inf' of CCCO"
    assert f"warning: predict {MODEL}: {said}\n" in done.stderr
    assert said in " ".join(world.precalc("status", MODEL).stdout.split())


def test_molecule_that_hangs_the_model_is_quarantined(world) -> None:
    world.write_model(answer=one_bad(HANG))
    world.build_library(["CO", "CCO", "CCCO"])
    done = world.precalc("predict", MODEL, max_failure_rate="1", batch_timeout="5")
    assert done.returncode == 0, done.stderr
    assert "rows 3, quarantined 1" in done.stderr
    assert_only_quarantined(world, "no answer within")


def test_molecule_that_the_model_drops_is_quarantined(world) -> None:
    world.write_model(script='write("\\n".join([HEADER, *(answer(s) for s in given if s != "CCCO")]) + "\\n")')
    world.build_library(MOLECULES)
    done = world.precalc("predict", MODEL, max_failure_rate="0.5")
    assert (done.returncode, done.stdout) == (0, "")
    assert_only_quarantined(world, "run.sh wrote 0 rows for 1 molecules")


def assert_only_quarantined(world, reason: str) -> None:
    listed = []
    for shard in SHARDS:
        assert require_manifest(world.store, MODEL, shard).rows == read_manifest(world.store).shards[shard].rows
        with world.path(f"quarantine/model={MODEL}/shard={shard}.csv").open(newline="") as file:
            listed += list(csv.DictReader(file))
    assert [row["input"] for row in listed] == ["CCCO"]
    assert listed[0]["reason"].startswith(reason)


def test_failed_shard_stops_no_other_and_is_retried(world) -> None:
    world.build_library()
    refused = read_shard(world.store, read_manifest(world.store), "02")["smiles"].to_pylist()
    flag = world.root / "mended"
    refusal = f"if smiles in {refused!r} and not os.path.exists({str(flag)!r}):\n    sys.exit('not today')\n{ANSWERED}"
    world.write_model(answer=refusal)
    done = world.precalc("predict", MODEL, batch_size="100")
    assert_plain_failure(done_without_summary(done), "shards 02:", f"{len(refused)} of {len(refused)} molecules")
    assert "3 shards" in done.stderr
    listed = world.path(f"quarantine/model={MODEL}/shard=02.csv").read_text()
    assert listed.count("not today") == len(refused)
    flag.touch()
    assert world.precalc("predict", MODEL, batch_size="100").returncode == 0
    assert require_manifest(world.store, MODEL, "02").quarantined == 0


def done_without_summary(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    lines = [line for line in done.stderr.splitlines() if not line.startswith(f"predict {MODEL}: ")]
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "\n".join(lines))


@pytest.mark.parametrize("folders", ["models", "./models"])
def test_settings_may_name_relative_folders(world, folders: str) -> None:
    world.write_model()
    world.build_library(MOLECULES)
    done = world.precalc("predict", MODEL, "--shards", "00", models_dir=folders, cache_dir="cache")
    assert done.returncode == 0, done.stderr
    assert (world.root / "cache" / "environments").is_dir()


def test_a_broken_sample_is_an_error_and_leaves_a_report_alone(world) -> None:
    world.write_model(run="exit 1\n")
    world.build_library(MOLECULES)
    done = world.precalc("predict", MODEL, "--sample", "5")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {MODEL} not_all_null: {MODEL} answers no molecule")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "exited 1" in done.stderr
    assert "failed" in done.stdout
    assert [name for name in world.objects() if not name.startswith("library")] == [f"samples/model={MODEL}.json"]


def test_escape_codes_of_a_model_are_spelled_out(world) -> None:
    world.build_library(MOLECULES)
    world.write_model(release='"v1.0.0\\e[2J"')
    for command in (["models"], ["models", "check", MODEL], ["predict", MODEL, "--sample", "3"]):
        done = world.precalc(*command)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "\x1b" not in said
        assert r"v1.0.0\u001b[2J" in said or command == ["models"]
    world.write_model(run="printf 'no GPU\\033[2J\\n' >&2; exit 1\n")
    done = world.precalc("predict", MODEL)
    assert "\x1b" not in done.stderr

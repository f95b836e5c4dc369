"""`precalc get` on the command line: formats, pipes, several models, continuing, and --compute-missing."""

import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from precalc.cli.get import Options, get
from precalc.smiles_workers import inchikey
from precalc_assets.library import read_manifest
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions import load_library_shards

MODEL = "eos9abc"
HEADER = ["key", "input", "score", "atoms", "label"]


def answer(smiles: str) -> list[str]:
    return [repr(len(smiles) / 3), str(len(smiles)), smiles]


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def piped(world, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        world.command("get", *arguments),
        input=content,
        env=world.environment,
        cwd=world.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "content",
    [
        "CCO ethanol\nCO methanol\n",
        pytest.param("CCO\nCO\n", marks=pytest.mark.slow),
        pytest.param("name\tsmiles\na\tCCO\nb\tCO\n", marks=pytest.mark.slow),
    ],
)
def test_molecules_are_read_from_a_pipe(served, content: str) -> None:
    done = piped(served, content, MODEL)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        HEADER,
        [inchikey("CCO"), "CCO", *answer("CCO")],
        [inchikey("CO"), "CO", *answer("CO")],
    ]


def test_an_empty_pipe_and_a_column_of_inchikeys_by_name(served) -> None:
    done = piped(served, "", MODEL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard input is empty" in done.stderr
    done = piped(served, f"name,InChIKey\na,{inchikey('CCO')}\nb,\n", MODEL, "-i", "-")
    assert rows(done.stdout)[1:] == [[inchikey("CCO"), inchikey("CCO"), *answer("CCO")], ["", "", "", "", ""]]


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_error(served) -> None:
    command = " ".join([*served.command("get", MODEL, "CCO"), "| true; exit ${PIPESTATUS[0]}"])
    done = subprocess.run(
        ["bash", "-c", command], env=served.environment, cwd=served.root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_files_are_of_the_format_that_their_name_says(served) -> None:
    library = read_manifest(served.store)
    list(load_library_shards(served.store, served.tables, library, library.shards))
    for name in ("out.jsonl", "out.parquet"):
        done = served.precalc("get", MODEL, "CCO", "CCCCCCCCCCCCCCCCCO", "-o", name, "--include-smiles")
        assert done.returncode == 0, done.stderr
    expected = [
        {"key": inchikey("CCO"), "input": "CCO", "smiles": "CCO", "score": 1.0, "atoms": 3, "label": "CCO"},
        {"key": inchikey("C" * 17 + "O"), "input": "C" * 17 + "O", "smiles": None, **dict.fromkeys(HEADER[2:])},
    ]
    assert pq.read_table(served.root / "out.parquet").to_pylist() == expected
    assert [json.loads(line) for line in (served.root / "out.jsonl").read_text().splitlines()] == expected


def test_several_models_fill_a_folder_and_are_not_read_again(served) -> None:
    (served.root / "molecules.csv").write_text("smiles\nCCO\nnone\nCCCCCCCCCCCCCCCCCO\n")
    done = served.precalc("get", "--all-models", "-i", "molecules.csv", "-o", "out", "--missing", "lost")
    assert done.returncode == 0, done.stderr
    assert [row[1:] for row in rows((served.root / "out" / f"{MODEL}.csv").read_text())[1:2]] == [
        ["CCO", *answer("CCO")]
    ]
    assert (served.root / "lost" / f"{MODEL}.csv").read_text() == "smiles\nCCCCCCCCCCCCCCCCCO\n"
    manifest = json.loads((served.root / "out" / "_manifest.json").read_text())["files"][f"{MODEL}.csv"]
    assert manifest["releases"] == ["v1.0.0"]
    assert manifest["library_digest"] == read_manifest(served.store).digest
    assert (manifest["found"], manifest["missing"], manifest["unreadable"]) == (1, 1, 1)
    again = served.precalc("get", "--all-models", "-i", "molecules.csv", "-o", "out", "--missing", "lost")
    assert again.stderr == f"out/{MODEL}.csv is already complete\n"


@pytest.mark.slow
def test_unreadable_model_does_not_stop_the_others(served) -> None:
    served.write_model(model="eos9abb")
    for verb in ("predict", "load"):
        done = served.precalc(verb, "eos9abb")
        assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(served.root / "tables.db")) as tables, tables:
        tables.execute("""UPDATE "table:eos9abb" SET value = substr(value, 1, 9) WHERE key LIKE '%/%/%'""")
    done = served.precalc("get", "eos9zzz", "eos9abb", MODEL, "CCO", "none", "-o", "out")
    assert done.returncode == 2
    (served.root / "molecules.csv").write_text("smiles\nCCO\nnone\n")
    done = served.precalc("get", "eos9zzz", "eos9abb", MODEL, "-i", "molecules.csv", "-o", "out")
    assert done.returncode == 1
    assert done.stderr.count("'none': SMILES Parse Error") == 1
    assert done.stderr.splitlines()[-1] == (
        "error: not read: eos9zzz, eos9abb; the others are in out, run the same command to retry"
    )
    assert rows((served.root / "out" / f"{MODEL}.csv").read_text())[1][1:] == ["CCO", *answer("CCO")]


def test_describe_shows_what_the_tables_have_of_a_model(served) -> None:
    done = served.precalc("describe", MODEL)
    assert (done.returncode, done.stderr) == (0, "")
    digest = read_manifest(served.store).digest
    for words in (
        f"{MODEL}, not published",
        "4/4",
        "60",
        "A column of a test",
        f"{MODEL} v1.0.0, library {digest}",
    ):
        assert words in done.stdout
    done = served.precalc("describe", "eos9zzz")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_the_file_of_molecules_is_not_written_over(served) -> None:
    wanted = served.root / "molecules.csv"
    wanted.write_text("smiles\nCCO\n")
    for options in (["-o", "./molecules.csv"], ["--missing", str(wanted)]):
        done = served.precalc("get", MODEL, "-i", "molecules.csv", *options)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "is the input file" in done.stderr
    assert wanted.read_text() == "smiles\nCCO\n"


def test_all_of_no_models_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRECALC_TABLES_URL", f"sqlite:///{tmp_path / 'tables.db'}")
    with pytest.raises(PrecalcError, match=r"sqlite:.* has no models yet"):
        get(["CCO"], Options(output=Path("out"), all_models=True))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([MODEL, "CCO", "eos9abd"], Options()), "name models before molecules"),
        (([MODEL, str(Path(__file__))], Options()), f"-i {Path(__file__)}"),
        (([MODEL, "eos9abd", "CCO"], Options()), "folder"),
        (([MODEL, "CCO"], Options(all_models=True)), "--all-models"),
        (([MODEL, "CCO"], Options(missing=Path("a.csv"), compute_missing=True)), "--compute-missing"),
        (([MODEL, "CCO"], Options(format="parquet")), "-o"),
        (([MODEL, "CCO"], Options(output=Path("a.csv"), missing=Path("a.csv"))), "twice"),
        (([MODEL, "CCO"], Options(api="nonsense")), "https://"),
        (([MODEL, "CCO"], Options(output=Path("none/a.csv"))), "folder"),
        (([MODEL, "CCO"], Options(output=Path("a.xls"), api="http://127.0.0.1")), "xls"),
        (([], Options()), "is not a model id"),
    ],
    ids=str,
)
def test_contradictory_options_are_a_usage_error(
    arguments: tuple[list[str], Options], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=word) as error:
        get(*arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_partial_file_of_another_release_is_not_continued(served) -> None:
    (served.root / ".out.csv.partial").write_bytes(b"key,input\nold,old\n")
    journal = {"plan": {"model": MODEL, "release": ["v0.9.0"]}, "sizes": [18], "state": {"rows": 1, "found": 1}}
    (served.root / ".out.csv.journal").write_text(json.dumps(journal))
    done = served.precalc("get", MODEL, "CCO", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert "out.csv: an earlier command left a part that differs in" in done.stderr
    assert "release" in done.stderr
    assert rows((served.root / "out.csv").read_text())[1:] == [[inchikey("CCO"), "CCO", *answer("CCO")]]
    assert not [path.name for path in served.root.glob(".out*")]


NEW = "CCCCCCCCCCCCCCCCCO"
BAD = "CCCCCCCCCCCCCCCCCN"
FAILS_ON_BAD = f"""if smiles == {BAD!r}:
    raise SystemExit("cannot answer that")
return f'{{len(smiles) / 3!r}},{{len(smiles)}},"{{smiles}}"'"""


@pytest.fixture
def choosy(served):
    """The same world with a model that now fails on one molecule."""
    served.write_model(answer=FAILS_ON_BAD)
    wanted = ["CCO", NEW, "no molecule", BAD, "CO", NEW, "OC" + NEW[2:], inchikey("c1ccncc1")]
    (served.root / "molecules.csv").write_text("smiles\n" + "\n".join(wanted) + "\n")
    return served


COMPUTED = [
    [*HEADER[:2], "source", *HEADER[2:]],
    [inchikey("CCO"), "CCO", "precalculated", *answer("CCO")],
    [inchikey(NEW), NEW, "computed", *answer(NEW)],
    ["", "no molecule", "", "", "", ""],
    [inchikey(BAD), BAD, "failed", "", "", ""],
    [inchikey("CO"), "CO", "precalculated", *answer("CO")],
    [inchikey(NEW), NEW, "computed", *answer(NEW)],
    [inchikey("OC" + NEW[2:]), "OC" + NEW[2:], "computed", *answer("OC" + NEW[2:])],
    [inchikey("c1ccncc1"), inchikey("c1ccncc1"), "failed", "", "", ""],
]


def test_missing_molecules_are_computed_once_and_in_order(choosy) -> None:
    before = choosy.objects(), choosy.tables.list_tables()
    earlier = len(choosy.calls())
    done = choosy.precalc("get", MODEL, "-i", "molecules.csv", "-o", "out.csv", "--compute-missing")
    assert done.returncode == 0, done.stderr
    assert rows((choosy.root / "out.csv").read_text()) == COMPUTED
    assert "2 precalculated, 3 computed by v1.0.0, 2 failed, 1 neither" in done.stderr
    assert "cannot answer that" in done.stderr
    assert "its SMILES is not in the reference library" in done.stderr
    assert "WARNING" not in done.stderr
    given = [smiles for call in choosy.calls()[earlier:] for smiles in call]
    assert set(given) == {NEW, BAD, "OC" + NEW[2:]}
    assert (choosy.objects(), choosy.tables.list_tables()) == before
    assert not [path.name for path in choosy.root.glob(".out*")]


@pytest.mark.slow
def test_the_manifest_of_a_folder_says_what_was_computed_by_what(choosy) -> None:
    done = choosy.precalc("get", "--all-models", "-i", "molecules.csv", "-o", "out", "--compute-missing")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((choosy.root / "out" / "_manifest.json").read_text())["files"][f"{MODEL}.csv"]
    words = ("found", "computed", "failed", "unreadable", "computed_by_release")
    assert [manifest[word] for word in words] == [2, 3, 2, 1, "v1.0.0"]


@pytest.mark.slow
def test_computing_by_another_release_warns(choosy) -> None:
    choosy.write_model(release="v2.0.0", columns=[("atoms", "integer"), ("new", "string")], answer="return '7,x'")
    done = choosy.precalc("get", MODEL, NEW, "CCO", "--compute-missing")
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    for word in ("v1.0.0", "v2.0.0", "2 columns"):
        assert word in warning
    assert rows(done.stdout)[1:] == [
        [inchikey(NEW), NEW, "computed", "", "7", ""],
        [inchikey("CCO"), "CCO", "precalculated", *answer("CCO")],
    ]


@pytest.mark.slow
def test_model_that_cannot_run_computes_nothing_and_says_why(choosy) -> None:
    choosy.write_model(columns=[("other", "float")])
    done = choosy.precalc("get", MODEL, NEW, "--compute-missing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "computes other columns than the table" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_and_the_messages_are_whole(served) -> None:
    (served.root / "many.csv").write_text("smiles\n" + "CCO\nCO\nCCCCCCCCCCCCCCCCCO\n" * 500)
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        served.command("get", MODEL, "-i", "many.csv", "-o", "out.csv", "--compute-missing"),
        env={**served.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
        cwd=served.root,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        while chunk := _read(controller):
            shown += chunk
    assert process.returncode == 0
    text = shown.decode()
    assert f"get {MODEL}" in text
    assert "1500/1500" in text
    assert "1 molecule not precalculated" in text
    assert "1,000 precalculated, 500 computed by v1.0.0" in text
    assert len((served.root / "out.csv").read_text().splitlines()) == 1_501


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65_536)
    except OSError:  # the terminal's other end is closed
        return b""

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
from spreadsheet import write_workbook

from precalc.cli.get import Options, get
from precalc.formats import LEADING
from precalc.molecules.smiles_workers import inchikey
from precalc.partial_files import PartialFiles
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.predictions.loading import load_library_shards

MODEL = "eos9abc"
NEW = "CCCCCCCCCCCCCCCCCO"
BAD = "CCCCCCCCCCCCCCCCCN"
HEADER = [*LEADING, "score", "atoms", "label"]


def answer(smiles: str) -> list[str]:
    return [repr(len(smiles) / 3), str(len(smiles)), smiles]


def found(text: str) -> list[str]:
    """Return the row of a SMILES in a world whose library has no table, so that only the InChIKeys are compared."""
    return [inchikey(text), text, "found", "", "key", "", *answer(text)]


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
    done = piped(served, content, MODEL, "--only-predictions")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        HEADER,
        found("CCO"),
        found("CO"),
    ]


def test_an_empty_pipe_and_a_column_of_inchikeys_by_name(served) -> None:
    done = piped(served, "", MODEL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard input is empty" in done.stderr
    done = piped(served, f"name,InChIKey\na,{inchikey('CCO')}\nb,\n", MODEL, "-i", "-", "--only-predictions")
    assert rows(done.stdout)[1:] == [
        [inchikey("CCO"), inchikey("CCO"), *found("CCO")[2:]],
        ["", "", "unreadable", "no atoms: the row holds no SMILES", "", "", "", "", ""],
    ]


def test_names_alone_are_said_not_to_be_molecules(served) -> None:
    said = "no row is a molecule: SMILES, InChIs and InChIKeys are read; names and registry numbers are not"
    assert said in piped(served, "name\naspirin\n", MODEL).stderr.splitlines()
    assert said not in piped(served, "aspirin\nCCO\n", MODEL).stderr.splitlines()


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
        done = served.precalc("get", MODEL, "CCO", NEW, "-o", name, "--include-smiles")
        assert done.returncode == 0, done.stderr
    expected = [
        dict(zip(HEADER, [inchikey("CCO"), "CCO", "found", None, "same", "CCO", 1.0, 3, "CCO"], strict=True)),
        dict.fromkeys(HEADER) | {"inchikey": inchikey(NEW), "input": NEW, "status": "not_in_library"},
    ]
    assert pq.read_table(served.root / "out.parquet").to_pylist() == expected
    assert [json.loads(line) for line in (served.root / "out.jsonl").read_text().splitlines()] == expected


def test_chosen_columns_are_read_in_their_order(served) -> None:
    done = served.precalc("get", MODEL, "CCO", "CCN", "--columns", "label,score")
    assert rows(done.stdout)[0] == [*LEADING, "label", "score"]
    values = [line[len(LEADING) :] for line in rows(done.stdout)[1:]]
    assert values == [[answer(s)[2], answer(s)[0]] for s in ("CCO", "CCN")]
    done = served.precalc("get", MODEL, "CCO", "--columns", "labels")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no column 'labels'; the nearest name is 'label'" in done.stderr


OWN = 'id,SMILES,Score\n1, CCO ,"a, ""b"""\n2,none,\n,,\n3,CCN,=1+1\n'


def test_own_columns_come_first_as_they_were_written(served) -> None:
    (served.root / "own.csv").write_text(OWN)
    done = served.precalc("get", MODEL, "-i", "own.csv", "-o", "out.csv", "--compute-missing")
    assert done.returncode == 0, done.stderr
    written = rows((served.root / "out.csv").read_text())
    assert [row[:3] for row in written] == rows(OWN)
    ours = [HEADER[0], *HEADER[2:]]
    assert written[0][3:] == ["precalc_score" if name == "score" else name for name in ours]
    assert [row[3:5] for row in written[1:]] == [
        [inchikey("CCO"), "found"],
        ["", "unreadable"],
        ["", "unreadable"],
        [inchikey("CCN"), "found"],
    ]
    assert [row[-3:] for row in written[1:]] == [answer("CCO"), [""] * 3, [""] * 3, answer("CCN")]


def test_own_columns_are_in_every_format(served) -> None:
    write_workbook(served.root / "own.xlsx", {"S": [["name", "name", "smiles"], ["a", "b", "CCO"], ["", "", "CCN"]]})
    for name in ("out.parquet", "out.jsonl"):
        done = served.precalc("get", MODEL, "-i", "own.xlsx", "-o", name, "--input-column", "3")
        assert done.returncode == 0, done.stderr
    table = pq.read_table(served.root / "out.parquet").to_pylist()
    assert table == [json.loads(line) for line in (served.root / "out.jsonl").read_text().splitlines()]
    names = list(table[0])
    assert names == ["name", "name_2", "smiles", HEADER[0], *HEADER[2:]]
    assert [list(row.values())[:4] for row in table] == [
        ["a", "b", "CCO", inchikey("CCO")],
        ["", "", "CCN", inchikey("CCN")],
    ]


def test_several_models_fill_a_folder_and_are_not_read_again(served) -> None:
    (served.root / "molecules.csv").write_text("smiles\nCCO\nnone\nCCCCCCCCCCCCCCCCCO\n")
    done = served.precalc("get", "--all-models", "-i", "molecules.csv", "-o", "out", "--missing", "lost")
    assert done.returncode == 0, done.stderr
    assert rows((served.root / "out" / f"{MODEL}.csv").read_text())[1] == ["CCO", found("CCO")[0], *found("CCO")[2:]]
    assert (served.root / "lost" / f"{MODEL}.csv").read_text() == "smiles\nCCCCCCCCCCCCCCCCCO\n"
    manifest = json.loads((served.root / "out" / "_manifest.json").read_text())["files"][f"{MODEL}.csv"]
    assert manifest["releases"] == ["v1.0.0"]
    assert manifest["library_digest"] == read_manifest(served.store).digest
    assert manifest["statuses"] == {"found": 1, "not_in_library": 1, "unreadable": 1}
    again = served.precalc("get", "--all-models", "-i", "molecules.csv", "-o", "out", "--missing", "lost")
    assert again.stderr == f"out/{MODEL}.csv is already complete\n"


def test_joined_models_are_one_file_or_stream(served) -> None:
    done = served.precalc("get", MODEL, "CCO", NEW, "--join", "-o", "joined.csv", "--missing", "lost.csv")
    assert done.returncode == 0, done.stderr
    text = (served.root / "joined.csv").read_text()
    header = [*LEADING, *(f"{MODEL}.{name}" for name in ("status", *HEADER[len(LEADING) :]))]
    assert rows(text)[:2] == [header, [*found("CCO")[: len(LEADING)], "found", *answer("CCO")]]
    assert (served.root / "lost.csv").read_text() == f"smiles\n{NEW}\n"
    assert served.precalc("get", "--all-models", "CCO", NEW, "--join").stdout == text


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
    done = served.precalc("get", "eos9zzz", "eos9abb", MODEL, "-i", "molecules.csv", "-o", "out", "--only-predictions")
    assert done.returncode == 1
    assert done.stderr.count("'none': SMILES Parse Error") == 1
    assert done.stderr.splitlines()[-1] == (
        "error: not read: eos9zzz, eos9abb; the others are in out, run the same command to retry"
    )
    assert rows((served.root / "out" / f"{MODEL}.csv").read_text())[1] == found("CCO")


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
    done = served.precalc("describe", MODEL, "atoms")
    assert (done.returncode, done.stdout.splitlines()[1].split()) == (0, ["type", "integer"])
    assert "has no column 'atom'; the nearest name is 'atoms'" in served.precalc("describe", MODEL, "atom").stderr


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
        (([MODEL, "eos9abd", "CCO"], Options()), "folder with -o, or add --join"),
        (([MODEL, "eos9abd", "CCO"], Options(output=Path("both.csv"))), "both.csv is a file.* --join"),
        (([MODEL, "eos9abd", "CCO"], Options(join=True, compute_missing=True)), "leave out --join"),
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
    with PartialFiles(served.root / "out.csv", [], {"model": MODEL, "release": ["v0.9.0"]}) as files:
        files.append([b"inchikey,input\nold,old\n"], {"rows": 1, "statuses": {"found": 1}})
    done = served.precalc("get", MODEL, "CCO", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert "out.csv: what an earlier command left differs in" in done.stderr
    assert "release" in done.stderr
    assert rows((served.root / "out.csv").read_text())[1:] == [found("CCO")]
    assert not [path.name for path in served.root.glob(".out*")]


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


def computed(text: str) -> list[str]:
    return [inchikey(text), text, "computed", "", "same", "", *answer(text)]


FAILED = ["run.sh exited 1: cannot answer that", "", "", "", "", ""]
UNNAMED = ["it was given by InChIKey, and its SMILES is not in the reference library", "", "", "", "", ""]
COMPUTED = [
    HEADER,
    found("CCO"),
    computed(NEW),
    ["", "no molecule", "unreadable", "text after the SMILES", "", "", "", "", ""],
    [inchikey(BAD), BAD, "model_failed", *FAILED],
    found("CO"),
    computed(NEW),
    computed("OC" + NEW[2:]),
    [inchikey("c1ccncc1"), inchikey("c1ccncc1"), "model_failed", *UNNAMED],
]


def test_missing_molecules_are_computed_once_and_in_order(choosy) -> None:
    before = choosy.objects(), choosy.tables.list_tables()
    earlier = len(choosy.calls())
    done = choosy.precalc(
        "get", MODEL, "-i", "molecules.csv", "-o", "out.csv", "--compute-missing", "--only-predictions"
    )
    assert done.returncode == 0, done.stderr
    assert rows((choosy.root / "out.csv").read_text()) == COMPUTED
    assert "2 found, 3 computed, 2 model_failed, 1 unreadable; computed by v1.0.0" in done.stderr
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
    assert manifest["statuses"] == {"found": 2, "not_in_library": 5, "unreadable": 1}
    words = ("computed", "failed", "computed_by_release")
    assert [manifest[word] for word in words] == [3, 2, "v1.0.0"]


@pytest.mark.slow
def test_computing_by_another_release_warns(choosy) -> None:
    choosy.write_model(release="v2.0.0", columns=[("atoms", "integer"), ("new", "string")], answer="return '7,x'")
    done = choosy.precalc("get", MODEL, NEW, "CCO", "--compute-missing")
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    for word in ("v1.0.0", "v2.0.0", "2 columns"):
        assert word in warning
    assert rows(done.stdout)[1:] == [
        [inchikey(NEW), NEW, "computed", "", "same", "", "", "7", ""],
        found("CCO"),
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
    assert "1,000 found, 500 computed; computed by v1.0.0" in text
    assert len((served.root / "out.csv").read_text().splitlines()) == 1_501


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65_536)
    except OSError:  # the terminal's other end is closed
        return b""

"""The same questions through every door, and by a plain full scan.

The doors are Python, the command, HTTP by POST and by GET, the page, the SQL for Athena run by DuckDB, and Athena.
"""

import csv
import html
import io
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import obstore
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem
from served_model import URL, remote

from precalc.client import Client
from precalc.errors import PrecalcError, UsageError
from precalc.expressions import make_question
from precalc_assets.cards.glue_tables import drop_glue_table, publish_glue_table
from precalc_assets.cards.model_card import find_card
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.platform_errors import ShardError
from precalc_assets.screening.athena import open_athena
from precalc_assets.screening.plan import Entries, make_plan
from precalc_assets.screening.query import read_question
from precalc_assets.screening.sql import quoted, write_sql
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store, predictions

A, B = "eos9abc", "eos8xyz"
Row = dict[str, Any]


ANSWER = """\
kind = "high" if "N" in smiles else "it is, low"
return "," if smiles.endswith("CCl") else f'{len(smiles) % 7 / 3!r},"{kind}"'"""


@pytest.fixture(scope="module")
def served(make_world):
    """Two models over a library, one of which fails on some molecules."""
    world = make_world("screens")
    world.write_model(model=A)
    world.write_model(model=B, columns=(("the score", "float"), ("kind", "string")), answer=ANSWER)
    world.build_library()
    for model in (A, B):
        for step in ("predict", "load"):
            done = world.precalc(step, model, max_failure_rate="0.5")
            assert done.returncode == 0, done.stderr
    return world


@pytest.fixture
def doors(served):
    """What answers a question, by its name."""
    store_url = f"file://{served.root / 'store'}"
    api = remote(served.tables, store_url=store_url)
    local = LocalSource(served.tables, "tables", store_url)
    yield local, api
    api.close()


@pytest.fixture(scope="module")
def duck(served):
    """DuckDB with a view of each model's files."""
    with duckdb.connect() as connection:
        for model in (A, B):
            files = [str(served.path(predictions(model, shard))) for shard in shard_keys(4)]
            relation = f"read_parquet({files}, hive_partitioning=false)"
            connection.execute(f"CREATE VIEW {quoted(model)} AS SELECT * FROM {relation}")
        yield connection


QUESTIONS: list[tuple[dict[str, Any], Callable[[Row], bool], Callable[[Row], Any]]] = [
    ({"where": f"{A}.atoms >= 7"}, lambda r: r[f"{A}.atoms"] >= 7, lambda r: r["inchikey"]),
    ({"where": f"{A}.atoms = 3 or {A}.atoms = 5"}, lambda r: r[f"{A}.atoms"] in (3, 5), lambda r: r["inchikey"]),
    (
        {"where": f"{A}.atoms between 2 and 9", "order": f"{A}.score desc", "limit": 7},
        lambda r: 2 <= r[f"{A}.atoms"] <= 9,
        lambda r: (-r[f"{A}.score"], r["inchikey"]),
    ),
    ({"where": f"{B}.\"the score\" is null"}, lambda r: r[f"{B}.the score"] is None, lambda r: r["inchikey"]),
    ({"where": f"{B}.kind = 'high'"}, lambda r: r[f"{B}.kind"] == "high", lambda r: r["inchikey"]),
    ({"where": f"{B}.kind in ('it is, low')"}, lambda r: r[f"{B}.kind"] == "it is, low", lambda r: r["inchikey"]),
    ({"select": f"{A}.score", "limit": 5}, lambda _: True, lambda r: r["inchikey"]),
    ({"where": f"{A}.score > 1e9"}, lambda _: False, lambda r: r["inchikey"]),
    (
        {"where": f"{A}.atoms < 9 and {B}.\"the score\" > 0.5", "order": f"{B}.\"the score\", {A}.atoms desc"},
        lambda r: r[f"{A}.atoms"] < 9 and (r[f"{B}.the score"] or 0) > 0.5,
        lambda r: (r[f"{B}.the score"], -r[f"{A}.atoms"], r["inchikey"]),
    ),
    (
        {"where": f"({A}.atoms < 3 or {B}.kind = 'high') and {A}.score >= 1", "select": f"{B}.kind", "limit": 10_000},
        lambda r: (r[f"{A}.atoms"] < 3 or r[f"{B}.kind"] == "high") and r[f"{A}.score"] >= 1,
        lambda r: r["inchikey"],
    ),
]  # fmt: skip


def all_rows(world) -> list[Row]:
    frames = []
    for model in (A, B):
        files = [pl.read_parquet(world.path(predictions(model, shard))) for shard in ("00", "01", "02", "03")]
        frame = pl.concat(files)
        frames.append(frame.rename({name: f"{model}.{name}" for name in frame.columns[2:]}))
    return frames[0].join(frames[1].drop("smiles"), on="inchikey").to_dicts()


@pytest.mark.parametrize(("question", "meets", "place"), QUESTIONS)
def test_all_doors_answer_what_a_full_scan_does(served, doors, duck, question, meets, place):
    expected = sorted(filter(meets, all_rows(served)), key=place)
    local, api = (source.screen(make_question(**question)) for source in doors)
    names = [column.name for column in local.columns]
    rows = [tuple(row[name] for name in names) for row in expected[: question.get("limit", 100)]]
    assert repr(list(local.rows)) == repr(rows)
    assert local.matched == len(expected)
    assert api == local

    entries = Entries(served.tables)
    statements = write_sql(make_plan(read_question(make_question(**question)), entries.find, entries.names), quoted)
    assert duck.execute(statements.count).fetchone() == (local.screened, local.matched)
    assert repr(duck.execute(statements.rows).fetchall()) == repr(rows)

    frame = Client(source=doors[0]).screen(**question)
    assert frame.attrs["matched"] == len(expected)
    assert frame.astype(object).where(frame.notna(), None).to_numpy().tolist() == [list(row) for row in rows]

    text = httpx.Client(transport=doors[1].transport).get(
        f"{URL}/screens", params=question, headers={"accept": "text/csv"}
    )
    options = [word for name, value in question.items() for word in (f"--{name}", str(value))]
    printed = served.precalc("screen", *options)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == text.text
    header, *lines = csv.reader(io.StringIO(text.text, newline=""))
    assert header == names
    assert lines == [["" if value is None else str(value) for value in row] for row in rows]
    assert f"{len(expected):,} of {local.screened:,} molecules match" in printed.stderr

    page = httpx.Client(transport=doors[1].transport).get(f"{URL}/screen", params=question).text
    assert f"<b>{len(expected):,}</b> of {local.screened:,} molecules match" in page
    assert re.findall('<th scope="row" title="([A-Z-]+)"', page) == [row[0] for row in rows[:100]]
    if rows:
        assert local.id in page
        command = html.unescape(re.search(r"precalc screen[^<]*", page)[0]).replace("\\\n", "")
        command = shlex.split(command.partition(" -o ")[0])
        assert served.precalc(*command[1:]).stdout.splitlines()[1:] == text.text.splitlines()[1:]


def test_options_of_a_screen_are_in_its_url(served, doors):
    def get(**params: str) -> dict[str, Any]:
        return httpx.Client(transport=doors[1].transport).get(f"{URL}/screens", params=params).json()

    select = f"{A}.atoms, {B}.kind"
    mixed = doors[0].screen(make_question(select=select, allow_mixed=True))
    assert get(select=select, allow_mixed="true")["id"] == mixed.id != get(select=select)["id"]
    question = {"where": f"{A}.score > 1", "distributions": f"{A}.score"}
    (found,) = get(**question, library_bars="true")["distributions"]
    library = find_card(served.tables, A).distributions[0]
    assert (found["edges"], len(found["counts"])) == (list(library.edges), len(library.counts))
    assert get(**question)["distributions"][0]["edges"] != found["edges"]


def test_a_count_prints_no_molecules(served):
    done = served.precalc("screen", "--where", f"{A}.atoms >= 7", "--limit", "0")
    assert (done.returncode, done.stdout) == (0, "")
    assert " of 60 molecules match; eos9abc v1.0.0, library " in done.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".sdf"])
def test_a_file_holds_the_molecules(served, doors, tmp_path: Path, suffix: str):
    path = tmp_path / f"hits{suffix}"
    question = {"where": f"{A}.atoms >= 7", "order": f"{B}.\"the score\" desc", "limit": "5"}  # fmt: skip
    done = served.precalc("screen", *[w for n, v in question.items() for w in (f"--{n}", v)], "-o", path)
    assert done.returncode == 0, done.stderr
    answer = doors[0].screen(make_question(question["where"], order=question["order"], limit=5))
    keys = [row[0] for row in answer.rows]
    if suffix == ".csv":
        assert [row["inchikey"] for row in csv.DictReader(path.open(newline=""))] == keys
    elif suffix == ".parquet":
        table = pq.read_table(path)
        assert [tuple(row.values()) for row in table.to_pylist()] == list(answer.rows)
        assert answer.id in table.schema.metadata[b"precalc"].decode()
    else:
        molecules = list(Chem.SDMolSupplier(str(path)))
        assert [Chem.MolToInchiKey(molecule) for molecule in molecules] == keys
        assert molecules[0].GetProp(f"{A}.atoms") == str(answer.rows[0][-1])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"where": f"{A}.atom > 1"}, "has no column 'atom'; the nearest name is 'atoms'"),
        ({"where": "eos9abd.atoms > 1"}, "eos9abd has no predictions; the nearest is eos9abc"),
        ({"where": f"{B}.kind > 1"}, "can only be equal"),
        ({"select": f"{A}.atoms", "limit": 10_001}, "less than or equal to 10000"),
        ({"where": " or ".join([f"{A}.atoms > 1"] * 101)}, "at most 100 items"),
        ({"where": " and ".join([f"({A}.atoms > 1 or {A}.atoms < 9)"] * 51)}, "102 conditions; up to 100"),
        ({"select": ", ".join(f"{A}.c{at}" for at in range(100)), "order": f"{A}.atoms"}, "101 columns; up to 100"),
    ],
)
def test_every_door_refuses_alike(served, doors, question, words):
    for source in doors:
        with pytest.raises(PrecalcError, match=words):
            source.screen(make_question(**question))
    answer = httpx.Client(transport=doors[1].transport).get(f"{URL}/screens", params=question)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_screen"
    options = [word for name, value in question.items() for word in (f"--{name}", str(value))]
    done = served.precalc("screen", *options)
    assert done.returncode in (1, 2)
    assert words in done.stderr


def test_parquet_is_not_printed_on_a_terminal_or_into_a_pipe(served):
    done = served.precalc("screen", "--select", f"{A}.atoms", "--format", "parquet")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name a file with -o" in done.stderr


def test_a_mistake_in_an_expression_is_shown_at_its_place(served, doors):
    done = served.precalc("screen", "--where", f"{A}.atoms > and")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].index("^") - 2 == len(f"{A}.atoms > ")
    answer = httpx.Client(transport=doors[1].transport).get(f"{URL}/screens", params={"where": f"{A}.atoms > and"})
    assert answer.json()["error"]["message"].startswith("character 17: a number is expected")


def test_a_file_that_is_gone_is_not_the_readers_fault(served, tmp_path: Path):
    shutil.copytree(served.root / "store", tmp_path / "store")
    (tmp_path / "store" / predictions(A, "02")).unlink()
    api = remote(served.tables, store_url=f"file://{tmp_path / 'store'}")
    answer = httpx.Client(transport=api.transport).get(f"{URL}/screens", params={"select": f"{A}.atoms"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    api.close()


WORDS = f"""{A}.atoms {B}.kind eos7zzz.x and or in is null between ( ) , > <= = 1 -.5 1e308 'high' ' " ;""".split()
EXPRESSIONS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=9).map(" ".join)


@given(
    where=st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=9).map(" ".join), limit=st.text(max_size=4)
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_over_http_is_our_own_error(doors, where, limit):
    params = {"where": where, "select": f"{A}.atoms", "limit": limit}
    answer = httpx.Client(transport=doors[1].transport).get(f"{URL}/screens", params=params)
    assert answer.status_code in (200, 400), answer.text


@pytest.fixture
def in_glue(served, aws):
    """The settings of an installation on S3 with a Glue database, in which both models are published."""
    settings = Settings(store_url=f"s3://{aws.make_bucket()}/platform", glue_database="precalc")
    store = open_store(settings.store_url)
    for model in (A, B):
        for shard in shard_keys(4):
            obstore.put(store, predictions(model, shard), served.path(predictions(model, shard)).read_bytes())
    results = {"ResultConfiguration": {"OutputLocation": f"s3://{aws.make_bucket()}/"}}
    glue, athena = aws.client("glue"), aws.client("athena")
    glue.create_database(DatabaseInput={"Name": "precalc"})
    athena.create_work_group(Name="precalc", Configuration=results)
    for model in (A, B):
        publish_glue_table(settings, find_card(served.tables, model))
    yield settings
    athena.delete_work_group(WorkGroup="precalc")
    glue.delete_database(Name="precalc")


@pytest.mark.slow
def test_athena_answers_what_the_engine_does(served, doors, in_glue):
    athena = open_athena(open_store(in_glue.store_url), served.tables, in_glue.glue_database)
    for question, *_ in QUESTIONS:
        asked = make_question(**question)
        assert repr(athena.answer(read_question(asked))) == repr(doors[0].screen(asked))
    where = ("--where", f"{A}.atoms >= 7 and {B}.kind = 'high'")
    places = {"store_url": in_glue.store_url, "glue_database": in_glue.glue_database}
    by_athena = served.precalc("screen", *where, "--engine", "athena", **places)
    assert by_athena.returncode == 0, by_athena.stderr
    assert (by_athena.stdout, by_athena.stderr) == (lambda d: (d.stdout, d.stderr))(served.precalc("screen", *where))


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["changed", "gone", "not loaded"])
def test_athena_is_not_asked_of_other_files(served, in_glue, harm):
    store = open_store(in_glue.store_url)
    if harm == "gone":
        obstore.delete(store, predictions(A, "02"))
    else:
        obstore.put(store, predictions(A, "02" if harm == "changed" else "04"), b"other")
    athena = open_athena(store, served.tables, in_glue.glue_database)
    name = predictions(A, "04" if harm == "not loaded" else "02")
    with pytest.raises(ShardError, match=f"^{name} is not what the table of {A} was loaded from"):
        athena.answer(read_question(make_question(f"{A}.atoms > 1")))


@pytest.mark.slow
def test_query_that_fails_says_why(served, in_glue):
    drop_glue_table(in_glue, A)
    drop_glue_table(in_glue, A)
    athena = open_athena(open_store(in_glue.store_url), served.tables, in_glue.glue_database)
    with pytest.raises(PrecalcError, match=r"^Athena's query .* ended as FAILED: .*; `precalc load MODEL` publishes"):
        athena.answer(read_question(make_question(f"{A}.atoms > 1")))
    elsewhere = open_athena(open_store(in_glue.store_url), served.tables, "nowhere")
    with pytest.raises(PrecalcError, match=r"^Athena, workgroup nowhere: InvalidRequestException: "):
        elsewhere.answer(read_question(make_question(f"{A}.atoms > 1")))


def test_athena_needs_a_database_and_no_api(served, doors):
    asked = make_question(f"{A}.atoms > 1")
    with pytest.raises(UsageError, match="needs PRECALC_GLUE_DATABASE"):
        doors[0].screen(asked, engine="athena")
    with pytest.raises(UsageError, match="answers by its own engine; leave --engine out"):
        doors[1].screen(asked, engine="athena")
    athena = open_athena(doors[0]._store, served.tables, "precalc")
    with pytest.raises(UsageError, match="Athena counts no distributions"):
        athena.answer(read_question(make_question(f"{A}.atoms > 1", distributions=[f"{A}.score"])))

"""Screens over real Parquet files, against a full scan in plain Python."""

import math
import random
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import HTTPStore

from precalc_assets.cards.distributions import describe_numbers
from precalc_assets.columns import Column
from precalc_assets.platform_errors import MissingTableError, ShardError, UsageError
from precalc_assets.predictions.parquet import PredictionsWriter, Provenance, StoredFile
from precalc_assets.screening.engine import ScreeningEngine
from precalc_assets.screening.query import Condition, Query
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import open_store, predictions

N_SHARDS = 3
COLUMNS = {
    "eos1aaa": (
        Column("weight", "float", "", ""),
        Column("atoms", "integer", "", ""),
        Column("kind", "string", "", ""),
    ),
    "eos2bbb": (Column("the score", "float", "", ""),),
}
FLOATS = (None, -0.0, 0.0, 0.1, 0.30000000000000004, -1.5, 2.0, 2.0, 1e300, -1e-300)
INTEGERS = (None, 0, 1, 2, 2, -7, 2**53 + 1, 2**53, 2**63 - 1, -(2**63))
TEXTS = (None, "", "high", "low", "it's", '"', "high; drop table")
VALUES = {"float": FLOATS, "integer": INTEGERS, "string": TEXTS}

Row = dict[str, float | int | str | None]


def keys(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    letters = ["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=25)) for _ in range(n)]
    return [f"{text[:14]}-{text[14:24]}-{text[24]}" for text in letters]


class Files:
    """Two models of one library, and a third of another, in a store; and all their rows."""

    def __init__(self, root: Path, rows: int = 40) -> None:
        self.root = root
        self.store = open_store(root.as_uri())
        self.entries: dict[str, SimpleNamespace] = {}
        self.rows: dict[str, list[Row]] = {}
        molecules = {shard: keys(rows, at) for at, shard in enumerate(shard_keys(N_SHARDS))}
        for model, columns in COLUMNS.items():
            self.add(model, columns, molecules)
        self.add("eos3ccc", COLUMNS["eos2bbb"], {s: [*found[::2], *keys(5, 99)] for s, found in molecules.items()})

    def add(self, model: str, columns: tuple[Column, ...], molecules: dict[str, list[str]]) -> None:
        rng = random.Random(model)
        self.rows[model] = []
        directories = {}
        for shard, found in molecules.items():
            rows = [
                {"inchikey": key, "smiles": f"C{key}"}
                | {column.name: rng.choice(VALUES[column.type]) for column in columns}
                for key in found
            ]
            self.rows[model] += rows
            directories[shard] = self.write(model, shard, columns, rows)
        self.entries[model] = SimpleNamespace(
            model=model,
            reader=SimpleNamespace(columns=columns, n_shards=N_SHARDS),
            directories=directories,
            library_digest="the digest",
            card=None,
        )

    def write(self, model: str, shard: str, columns: tuple[Column, ...], rows: list[Row]) -> SimpleNamespace:
        path = self.root / predictions(model, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        molecules = "".join(str(row["inchikey"]) for row in rows)
        provenance = Provenance(
            model=model,
            release="v1.0.0",
            shard=shard,
            n_shards=N_SHARDS,
            shard_digest=str(hash(molecules)),
            raw_digest=f"raw {model} {shard}",
            quarantined=0,
            columns=columns,
        )
        writer = PredictionsWriter(path, provenance, len(rows))
        kinds = {"float": pl.Float64, "integer": pl.Int64, "string": pl.String}
        schema = {"inchikey": pl.String, "smiles": pl.String} | {c.name: kinds[c.type] for c in columns}
        writer.write(pl.DataFrame(rows, schema=schema))
        writer.close()
        return SimpleNamespace(
            file_sha256=f"{model} {shard}",
            file_bytes=path.stat().st_size,
            built_from=provenance.raw_digest,
            shard_digest=provenance.shard_digest,
            rows=len(rows),
            release="v1.0.0",
        )

    def engine(self, kept_bytes: int = 1 << 20) -> ScreeningEngine:
        return ScreeningEngine(self.store, self.entries.get, lambda: list(self.entries), kept_bytes=kept_bytes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


def full_scan(files: Files, query: Query) -> tuple[int, list[tuple[object, ...]]]:
    """Answer a query in plain Python: the number of matches, and the rows."""
    tables = [{row["inchikey"]: row for row in files.rows[model]} for model in query.models]
    joined = []
    for key, first in tables[0].items():
        if all(key in table for table in tables):
            row = {"inchikey": key, "smiles": first["smiles"]}
            for model, table in zip(query.models, tables, strict=True):
                row |= {f"{model}.{name}": value for name, value in table[key].items()}
            joined.append(row)

    def meets(row: Row, entry: Condition) -> bool:
        value, wanted = row[entry.column], entry.value
        if entry.op == "is_null" or value is None:
            return entry.op == "is_null" and value is None
        return {
            "eq": lambda: value == wanted,
            "gt": lambda: value > wanted,
            "ge": lambda: value >= wanted,
            "lt": lambda: value < wanted,
            "le": lambda: value <= wanted,
            "between": lambda: wanted[0] <= value <= wanted[1],
            "in": lambda: value in wanted,
        }[entry.op]()

    matched = [
        row
        for row in joined
        if all(any(meets(row, one) for one in getattr(entry, "any", (entry,))) for entry in query.where)
    ]
    matched.sort(key=lambda row: row["inchikey"])
    for order in reversed(query.order):
        present = [row for row in matched if row[order.column] is not None]
        present.sort(key=lambda row: row[order.column], reverse=order.descending)
        matched = present + [row for row in matched if row[order.column] is None]
    shown = ("inchikey", "smiles", *query.selected)
    return len(matched), [tuple(row[name] for name in shown) for row in matched[: query.limit]]


def columns_of(*models: str) -> list[tuple[str, str]]:
    entries = {model: COLUMNS.get(model, COLUMNS["eos2bbb"]) for model in models}
    return [(f"{model}.{column.name}", column.type) for model, columns in entries.items() for column in columns]


NUMBERS = st.one_of(
    st.sampled_from([v for v in (*FLOATS, *INTEGERS) if v is not None]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1).filter(lambda n: float(n) == n),
)


@st.composite
def conditions(draw, columns: list[tuple[str, str]]) -> dict[str, object]:
    name, kind = draw(st.sampled_from(columns))
    values = st.sampled_from([v for v in TEXTS if v is not None]) if kind == "string" else NUMBERS
    if kind == "float":
        values = values.filter(lambda n: float(n) == n)
    texts, all_ops = ("eq", "in", "is_null"), ("eq", "gt", "ge", "lt", "le", "between", "in", "is_null")
    op = draw(st.sampled_from(texts if kind == "string" else all_ops))
    if op == "is_null":
        return {"column": name, "op": op}
    if op == "between":
        return {"column": name, "op": op, "value": sorted([draw(values), draw(values)])}
    return {"column": name, "op": op, "value": draw(st.lists(values, min_size=1, max_size=4) if op == "in" else values)}


@st.composite
def queries(draw, *models: str) -> Query:
    columns = columns_of(*models)
    one = conditions(columns)
    entries = st.one_of(one, st.lists(one, min_size=1, max_size=3).map(lambda found: {"any": found}))
    order = st.fixed_dictionaries({"column": st.sampled_from(columns).map(lambda c: c[0]), "descending": st.booleans()})
    return Query.model_validate(
        {
            "where": draw(st.lists(entries, max_size=3)),
            "order": draw(st.lists(order, max_size=3)),
            "select": [f"{model}.{columns_of(model)[0][0].partition('.')[2]}" for model in models],
            "limit": draw(st.integers(0, 200)),
            "allow_mixed": "eos3ccc" in models,
        }
    )


def same(answer: object, expected: object) -> bool:
    return repr(answer) == repr(expected)  # 2 is not 2.0, and -0.0 is not 0.0


@pytest.mark.parametrize("models", [("eos1aaa",), ("eos1aaa", "eos2bbb"), ("eos3ccc", "eos1aaa", "eos2bbb")])
@given(data=st.data())
@settings(max_examples=60)
def test_a_screen_answers_what_a_full_scan_does(files: Files, models: tuple[str, ...], data: st.DataObject):
    query = data.draw(queries(*models))
    answer = files.engine(kept_bytes=data.draw(st.sampled_from([0, 1_000, 1 << 20]))).answer(query)
    matched, rows = full_scan(files, query)
    assert answer.matched == matched
    assert same(list(answer.rows), rows)


def test_an_answer_says_what_was_screened(files: Files):
    answer = files.engine().answer(
        Query(select=("eos1aaa.atoms",), where=(Condition(column="eos2bbb.the score", op="gt", value=0),))
    )
    assert [(column.name, column.type) for column in answer.columns] == [
        ("inchikey", "string"),
        ("smiles", "string"),
        ("eos1aaa.atoms", "integer"),
    ]
    assert answer.screened == 3 * 40
    assert [(one.model, one.releases, one.shards, one.n_shards, one.molecules) for one in answer.models] == [
        ("eos1aaa", ("v1.0.0",), 3, 3, 120),
        ("eos2bbb", ("v1.0.0",), 3, 3, 120),
    ]


def test_distributions_are_of_the_molecules_that_match(files: Files):
    query = Query(
        where=(Condition(column="eos1aaa.atoms", op="eq", value=2),),
        limit=0,
        distributions=("eos1aaa.kind", "eos1aaa.atoms"),
    )
    answer = files.engine().answer(query)
    kinds = [row["kind"] for row in files.rows["eos1aaa"] if row["atoms"] == 2]
    texts, atoms = answer.distributions
    assert (texts.molecules, texts.nulls) == (len(kinds), kinds.count(None))
    assert dict(zip(texts.values, texts.counts, strict=True)) == {k: kinds.count(k) for k in set(kinds) - {None}}
    assert (atoms.values, atoms.counts) == ((2,), (len(kinds),))
    assert answer.rows == ()


def test_matching_molecules_are_counted_in_the_librarys_bars(tmp_path: Path):
    files = Files(tmp_path)
    rows = files.rows["eos1aaa"]
    weights = np.array([row["weight"] for row in rows if row["weight"] is not None])
    library = describe_numbers("weight", weights, len(rows), len(rows) - len(weights))
    files.entries["eos1aaa"].card = SimpleNamespace(distributions=(library,))
    where = (Condition(column="eos1aaa.weight", op="ge", value=0),)
    query = Query(where=where, limit=0, distributions=("eos1aaa.weight", "eos1aaa.atoms"), library_bars=True)
    found, own = files.engine().answer(query).distributions
    positive = [weight for weight in weights if weight >= 0]
    assert (found.column, found.edges, found.molecules) == ("eos1aaa.weight", library.edges, len(positive))
    assert sum(found.counts) == len(positive)
    assert all(count <= of for count, of in zip(found.counts, library.counts, strict=True))
    assert own.percentiles
    everything = files.engine().answer(query.model_copy(update={"where": ()})).distributions[0]
    assert (everything.counts, everything.nulls) == (library.counts, library.nulls)


def test_the_id_is_of_the_question_and_the_files(files: Files, tmp_path: Path):
    ask = lambda limit, world=files: world.engine().answer(Query(select=("eos1aaa.atoms",), limit=limit)).id  # noqa: E731
    assert ask(5) == ask(5) != ask(6)
    other = Files(tmp_path)
    other.entries["eos1aaa"].directories["00"].file_sha256 = "loaded again"
    assert ask(5, other) != ask(5)


def condition(column: str, op: str, value: object = None) -> Callable[[], Query]:
    return lambda: Query.model_validate({"where": [{"column": column, "op": op, "value": value}]})


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        (condition("eos1aab.weight", "gt", 1), MissingTableError, "eos1aab has no predictions; the nearest is eos1aaa"),
        (condition("eos1aaa.wieght", "gt", 1), UsageError, "has no column 'wieght'; the nearest name is 'weight'"),
        (condition("weight", "gt", 1), UsageError, "write the model, a dot and the name"),
        (condition("../x.weight", "gt", 1), UsageError, "is not a model id"),
        (condition("eos1aaa.weight", "gt", "1"), UsageError, "has numbers, not texts: '1'"),
        (condition("eos1aaa.kind", "eq", 1), UsageError, "has texts; write the value in quotes: 1"),
        (condition("eos1aaa.kind", "gt", "a"), UsageError, "can only be equal"),
        (condition("eos1aaa.weight", "between", [2, 1]), UsageError, "the lower end comes first"),
        (condition("eos1aaa.weight", "between", 2), UsageError, "between takes two values"),
        (condition("eos1aaa.weight", "between", [2]), UsageError, "between takes two values"),
        (condition("eos1aaa.weight", "gt", [2]), UsageError, "gt takes one value"),
        (condition("eos1aaa.weight", "gt"), UsageError, "gt takes one value"),
        (condition("eos1aaa.weight", "in", []), UsageError, "in takes a list of values"),
        (condition("eos1aaa.weight", "is_null", 1), UsageError, "is_null takes no value"),
        (lambda: Query(), UsageError, "names no column"),
        (lambda: Query(select=("eos1aaa.atoms", "eos3ccc.the score")), UsageError, "for different libraries"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(files: Files, query, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        files.engine().answer(query())


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": -1},
        {"limit": 10**9},
        {"limit": True},
        {"where": [{"column": "eos1aaa.weight", "op": "gt", "value": math.nan}]},
        {"where": [{"column": "eos1aaa.weight", "op": "gt", "value": math.inf}]},
        {"where": [{"column": "eos1aaa.weight", "op": "like", "value": "%"}]},
        {"where": [{"column": "eos1aaa.weight", "op": "gt", "value": True}]},
        {"where": [{"column": "eos1aaa.weight", "op": "gt", "value": 10**400}]},
        {"where": [{"any": []}]},
        {"where": [{"any": [{"any": []}]}]},
        {"where": [{"column": "eos1aaa.weight", "op": "gt", "value": 1}] * 10_000},
        {"sql": "select 1"},
    ],
)
def test_data_of_another_form_is_refused(fields):
    with pytest.raises(ValueError, match="validation error"):
        Query.model_validate(fields)


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"), [(remove, "is gone from the store"), (flip, "cannot be read"), (cut, "is damaged")]
)
def test_a_file_that_was_harmed_is_named(tmp_path: Path, damage, words):
    files = Files(tmp_path)
    name = predictions("eos1aaa", "01")
    damage(tmp_path / name)
    with pytest.raises(ShardError, match=f"{name}.* {words}|{name} {words}"):
        files.engine().answer(Query(select=("eos1aaa.kind", "eos1aaa.weight", "eos1aaa.atoms")))


def test_a_file_that_its_table_was_not_loaded_from_is_named(tmp_path: Path):
    files = Files(tmp_path)
    files.entries["eos1aaa"].directories["01"].built_from = "other raw predictions"
    with pytest.raises(ShardError, match="is not the file that its table was loaded from"):
        files.engine().answer(Query(select=("eos1aaa.kind",)))


def test_a_shard_of_a_release_without_the_column_has_nulls(tmp_path: Path):
    files = Files(tmp_path)
    entry = files.entries["eos2bbb"]
    rows = [row for row in files.rows["eos2bbb"] if row["inchikey"] in set(keys(40, 1))]
    old = (Column("the score", "string", "", ""),)
    entry.directories["01"] = files.write("eos2bbb", "01", old, [row | {"the score": "high"} for row in rows])
    answer = files.engine().answer(
        Query.model_validate({"where": [{"column": "eos2bbb.the score", "op": "is_null"}], "limit": 0})
    )
    others = [row for row in files.rows["eos2bbb"] if row["inchikey"] not in set(keys(40, 1))]
    assert answer.matched == 40 + sum(row["the score"] is None for row in others)


def test_a_model_half_loaded_is_screened_as_far_as_it_is(tmp_path: Path):
    files = Files(tmp_path)
    del files.entries["eos2bbb"].directories["02"]
    answer = files.engine().answer(Query(select=("eos1aaa.atoms", "eos2bbb.the score"), limit=200))
    assert [(one.shards, one.n_shards) for one in answer.models] == [(2, 3), (2, 3)]
    assert answer.screened == len(answer.rows) == 80
    del files.entries["eos1aaa"].directories["00"], files.entries["eos1aaa"].directories["01"]
    assert files.engine().answer(Query(select=("eos1aaa.atoms", "eos2bbb.the score"))).rows == ()


def test_a_store_that_does_not_answer_is_named(tmp_path: Path):
    files = Files(tmp_path)
    retries = {"max_retries": 0, "backoff": {}, "retry_timeout": timedelta(seconds=1)}
    store = HTTPStore("http://127.0.0.1:9", client_options={"allow_http": True}, retry_config=retries)
    engine = ScreeningEngine(store, files.entries.get, list)
    with pytest.raises(ShardError, match=r"^predictions/model=eos1aaa/shard=0.\.parquet cannot be read: "):
        engine.answer(Query(select=("eos1aaa.weight",)))


def test_a_file_that_is_replaced_while_it_is_read_is_named(tmp_path: Path):
    files = Files(tmp_path)
    name = predictions("eos1aaa", "01")
    opened = StoredFile(files.store, name)
    opened.read(10)
    (tmp_path / name).write_bytes(bytes(opened.size))
    with pytest.raises(OSError, match=f"{name} was replaced while it was read"):
        opened.read(10)


@pytest.mark.parametrize("limit", [0, 1, 200])
def test_columns_that_are_kept_answer_alike(files: Files, limit: int):
    engine, query = files.engine(), Query(select=("eos1aaa.kind", "eos2bbb.the score"), limit=limit)
    assert same(engine.answer(query), engine.answer(query))
    assert same(engine.answer(query), files.engine(kept_bytes=0).answer(query))


def test_mixed_libraries_of_other_numbers_of_shards_lose_no_molecule(tmp_path: Path):
    files = Files(tmp_path)
    rows = [str(row["inchikey"]) for row in files.rows["eos1aaa"]]
    files.add("eos4ddd", COLUMNS["eos2bbb"], {"00": rows[1::2], "01": rows[::2]})
    files.entries["eos4ddd"].reader.n_shards = 2
    query = Query(select=("eos1aaa.atoms", "eos4ddd.the score"), limit=200, allow_mixed=True)
    answer = files.engine().answer(query)
    assert [(one.shards, one.n_shards) for one in answer.models] == [(3, 3), (2, 2)]
    assert same(list(answer.rows), full_scan(files, query)[1])
    assert answer.screened == 120


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does for a missing object to a role that may not list the bucket."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


def test_a_file_that_may_be_gone_is_named(tmp_path: Path):
    files = Files(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        store = HTTPStore(f"http://127.0.0.1:{server.server_port}", client_options={"allow_http": True})
        engine = ScreeningEngine(store, files.entries.get, list)
        with pytest.raises(ShardError, match=r"shard=0.\.parquet is gone, or the role may not read it; load its shard"):
            engine.answer(Query(select=("eos1aaa.weight",)))
        server.shutdown()


def test_an_entry_is_used_until_its_files_are_others(files: Files):
    read: list[str] = []
    entries = {"eos1aaa": files.entries["eos1aaa"]}

    def forget() -> None:
        read.append("again")
        entries["eos1aaa"] = files.entries["eos1aaa"]

    engine = ScreeningEngine(files.store, entries.get, list, forget)
    query = Query(where=(Condition(column="eos1aaa.atoms", op="gt", value=0),))
    expected = engine.answer(query)
    directories = {
        shard: SimpleNamespace(**vars(d) | {"built_from": "before", "file_sha256": f"before {shard}"})
        for shard, d in files.entries["eos1aaa"].directories.items()
    }
    entries["eos1aaa"] = SimpleNamespace(**vars(files.entries["eos1aaa"]) | {"directories": directories})
    assert engine.answer(query) == expected
    assert read == ["again"]

"""A model reads the same from its tables and through the API."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from made_up import COLUMNS, MODEL, N_SHARDS, inchikeys, serve
from served_model import KEYS, ROWS, UNKNOWN, URL, load_smiles, refused, remote

from precalc.errors import ApiError, ChangedError
from precalc.formats import LEADING, CsvFormat, JsonLinesFormat
from precalc.getting import Request, get_to_file
from precalc.molecules.molecule_input import read_list
from precalc.molecules.smiles_workers import inchikey
from precalc.source import Row, Source, Value
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.platform_errors import PrecalcError, UsageError
from precalc_assets.sharding import shard_of
from precalc_assets.tables import LIBRARY, TableReader


def tuples(rows: Sequence[Row | None]) -> list[tuple[Value, ...] | None]:
    """Return rows as tuples: a source may hand them out as lists."""
    return [None if row is None else tuple(row) for row in rows]


def test_values_are_those_of_the_table_in_the_order_given(source: Source) -> None:
    wanted = [KEYS[7], UNKNOWN, *KEYS, KEYS[7]]
    answer = source.open(MODEL).read(wanted)
    assert repr(tuples(answer.rows)) == repr([ROWS.get(key) for key in wanted])
    assert answer.statuses == ["found" if key in ROWS else "not_in_library" for key in wanted]
    assert source.open(MODEL).read([]).rows == []


def test_some_columns_are_read_in_the_order_asked(source: Source) -> None:
    model = source.open(MODEL, ["label", "score", "label"])
    assert [column.name for column in model.info.columns] == ["label", "score"]
    expected = [None if row is None else (row[2], row[0]) for row in map(ROWS.get, [UNKNOWN, *KEYS])]
    assert repr(tuples(model.read([UNKNOWN, *KEYS]).rows)) == repr(expected)
    with pytest.raises(UsageError, match="has no column 'scores'; the nearest name is 'score'"):
        source.open(MODEL, ["scores"])


def test_a_model_tells_what_it_is(source: Source) -> None:
    info = source.open(MODEL).info
    assert (info.model, info.releases, info.molecules) == (MODEL, ("v1.0.0",), len(KEYS))
    assert [asdict(column) for column in info.columns] == [asdict(column) for column in COLUMNS]
    assert (info.shards, info.n_shards, info.title) == (N_SHARDS, N_SHARDS, None)
    assert len(info.library_digest) == 64
    assert info.deterministic is None
    assert [summary.model for summary in source.models()] == [MODEL]


def test_tables_and_api_describe_a_model_alike(tables) -> None:
    local, api = LocalSource(tables, "x"), remote(tables)
    assert replace(local.open(MODEL).info, source=URL) == api.open(MODEL).info
    assert local.models() == api.models()
    api.close()


def test_smiles_come_from_the_library_as_far_as_it_has_them(source: Source, tables) -> None:
    model = source.open(MODEL)
    load_smiles(tables, {KEYS[0]: "CCO", UNKNOWN: "C"})
    wanted = [KEYS[1], KEYS[0], UNKNOWN]
    answer = model.read(wanted, smiles=wanted)
    assert [answer.smiles[key] for key in wanted] == [None, "CCO", "C"]
    assert repr(tuples(answer.rows)) == repr([ROWS[KEYS[1]], ROWS[KEYS[0]], None])
    assert model.smiles([UNKNOWN, KEYS[1]]) == ["C", None]


def test_status_follows_from_both_tables(source: Source, tables) -> None:
    tables.drop_table(MODEL)
    loaded, others = ([key for key in KEYS if (shard_of(key, N_SHARDS) < "02") is early] for early in (True, False))
    new = next(key for key in inchikeys() if key not in ROWS and shard_of(key, N_SHARDS) == "00")
    free = [key for key, _ in zip(inchikeys(), range(200), strict=False) if key not in {*ROWS, new}]
    unknown = [next(key for key in free if shard_of(key, N_SHARDS) == shard) for shard in ("00", "03")]
    serve(tables, ROWS | {loaded[1]: (None,) * 3}, shards=["00", "01"])
    wanted = [loaded[0], loaded[1], others[0], new, *unknown]
    # Without a library, a molecule of a shard that is not loaded may come.
    statuses = source.open(MODEL).read(wanted).statuses
    assert statuses[:3] == ["found", "model_failed", "not_predicted_yet"]
    assert statuses[3:] == ["not_in_library", "not_in_library", "not_predicted_yet"]
    load_smiles(tables, dict.fromkeys([*KEYS, new], "C"))
    statuses = _anew(source, tables, source.open(MODEL)).read(wanted).statuses
    assert statuses == ["found", "model_failed", *["not_predicted_yet"] * 2, *["not_in_library"] * 2]


FORMS = {
    "[NH3+]CC(=O)[O-]": ("other_form", "NCC(=O)O"),
    "OC(=O)CN": ("same", None),
    "Oc1ccccn1": ("other_form", "O=c1cccc[nH]1"),
    "[nH]1ccccc1=O": ("same", None),
    "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12": ("same", None),
    "OCC": ("same", None),
    "DHMQDGOQFOQNFH-UHFFFAOYSA-N": ("key", None),
    "InChI=1S/C5H5NO/c7-5-3-1-2-4-6-5/h1-4H,(H,6,7)": ("key", None),
    "CCC": (None, None),
}
"""Inputs, whether a prediction is for them, and the form that it is for if that is another one."""

LIBRARY_SMILES = ["NCC(=O)O", "O=c1cccc[nH]1", "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12", "C(O)C"]
"""The last one is written as another version of RDKit might."""


@pytest.fixture
def forms(tables) -> None:
    """Serve predictions and SMILES of real molecules."""
    tables.drop_table(MODEL)
    keys = {inchikey(smiles): smiles for smiles in LIBRARY_SMILES}
    serve(tables, dict.fromkeys(keys, (1.0, 1, "x")))
    load_smiles(tables, keys)


@pytest.mark.usefixtures("forms")
def test_answer_says_whether_it_is_for_the_form_asked(source: Source, tmp_path) -> None:
    request = Request(source.open(MODEL), read_list(FORMS), JsonLinesFormat)
    counts = get_to_file(request, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["input"]: (row["match"], row["library_smiles"]) for row in rows} == FORMS
    assert counts.other_forms == 2
    get_to_file(replace(request, smiles=True), tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["match"] for row in rows] == [match for match, _ in FORMS.values()]
    assert [row["library_smiles"] in LIBRARY_SMILES for row in rows] == [*[True] * 8, False]


@pytest.mark.usefixtures("forms")
def test_library_is_read_for_smiles_and_missing_molecules_alone(source: Source, monkeypatch) -> None:
    read: list[str] = []
    plain = TableReader.read

    def read_and_note(reader, inchikeys, *columns, **options):
        if reader._model == LIBRARY:
            read.extend(inchikeys)
        return plain(reader, inchikeys, *columns, **options)

    monkeypatch.setattr(TableReader, "read", read_and_note)
    model = source.open(MODEL)
    keys = [inchikey(smiles) for smiles in LIBRARY_SMILES]
    model.read(keys)
    assert read == []
    model.read([*keys, UNKNOWN])
    assert read == [UNKNOWN]
    model.read(keys[:2], smiles=keys[:2])
    assert sorted(read[1:]) == sorted(keys[:2])


def test_unknown_models_and_bad_ids_are_errors_that_help(source: Source) -> None:
    with pytest.raises(PrecalcError, match=r"eos9zzz.*(run `precalc load|GET /models lists)"):
        source.open("eos9zzz")
    with pytest.raises(UsageError, match="is not a model id"):
        source.open("../eos3b5e")


def test_rows_of_another_release_are_refused(source: Source, tables) -> None:
    model = source.open(MODEL)
    serve(tables, ROWS, release="v2.0.0")
    # Readers see a load after a minute at the latest; a new source at once.
    with pytest.raises(ChangedError, match=r"v1\.0\.0.* now is .*v2\.0\.0.*start again"):
        _anew(source, tables, model).read(list(KEYS))


def _anew(source: Source, tables, model):
    """Return what was opened before the load, as it is when what is cached is too old."""
    if isinstance(source.name, str) and source.name.startswith("http"):
        model._api = remote(tables)
    else:
        model._reader._shards.clear()
    return model


def test_file_has_a_line_for_each_molecule_and_all_are_counted(source: Source, tmp_path) -> None:
    wanted = [KEYS[3], "not a molecule", UNKNOWN, KEYS[3], KEYS[5]]
    request = Request(source.open(MODEL), read_list(wanted), JsonLinesFormat)
    counts = get_to_file(request, tmp_path / "out.jsonl", tmp_path / "lost.csv")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["inchikey"] for row in rows] == [KEYS[3], None, UNKNOWN, KEYS[3], KEYS[5]]
    assert [row["input"] for row in rows] == wanted
    expected = [ROWS[KEYS[3]], (None,) * 3, (None,) * 3, ROWS[KEYS[3]], ROWS[KEYS[5]]]
    assert repr([tuple(row.values())[len(LEADING) :] for row in rows]) == repr(expected)
    assert [row["status"] for row in rows] == ["found", "unreadable", "not_in_library", "found", "found"]
    assert counts.statuses == {"found": 3, "unreadable": 1, "not_in_library": 1}
    assert (counts.rows, counts.unnamed, counts.other_forms) == (5, 1, 0)
    assert (tmp_path / "lost.csv").read_text() == "smiles\n"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("tables")) == [
        "lost.csv",
        "out.jsonl",
    ]


def test_missing_inchikey_is_listed_if_its_smiles_is_known(source: Source, tables, tmp_path) -> None:
    load_smiles(tables, {UNKNOWN: "CCO"})
    request = Request(source.open(MODEL), read_list([UNKNOWN, "C", "OCC"]), CsvFormat)
    counts = get_to_file(request, tmp_path / "out.csv", tmp_path / "lost.csv")
    assert (counts.statuses, counts.unnamed) == ({"not_predicted_yet": 1, "not_in_library": 2}, 0)
    assert (tmp_path / "lost.csv").read_text() == "smiles\nCCO\nC\nCCO\n"


class _StopsError(Exception):
    pass


def test_interrupted_file_continues_and_reads_nothing_twice(source: Source, tmp_path) -> None:
    model = source.open(MODEL)
    model.batch_size = 7
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    request = Request(model, read_list(KEYS), CsvFormat)
    get_to_file(request, whole)
    read: list[str] = []
    plain, limit = model.read, 0

    def read_some(inchikeys, **options):
        if len(read) >= limit:
            raise _StopsError
        read.extend(inchikeys)
        return plain(inchikeys, **options)

    model.parallel = 1
    model.read = read_some
    for limit in range(14, len(KEYS), 14):  # noqa: B007 - `read_some` looks at it
        with pytest.raises(_StopsError):
            get_to_file(request, parts)
        assert not parts.exists()
    limit = len(KEYS)
    get_to_file(request, parts)
    assert read == list(KEYS)
    assert parts.read_bytes() == whole.read_bytes()


def test_api_with_smaller_limits_gets_smaller_requests(tables) -> None:
    source = remote(tables, [None, refused(413), refused(413)])
    model = source.open(MODEL)
    assert repr(tuples(model.read(KEYS).rows)) == repr([ROWS[key] for key in KEYS])
    assert len(source.transport.requests) == 1 + 2 + 3
    source.close()


def test_an_api_that_always_answers_too_much_is_an_error(tables) -> None:
    source = remote(tables, [None, *[refused(413)] * 9])
    with pytest.raises(ApiError, match="413"):
        source.open(MODEL).read(KEYS[:2])
    source.close()

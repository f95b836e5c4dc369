"""A model reads the same from its tables and through the API."""

import json
from dataclasses import asdict, replace

import pytest
from made_up import COLUMNS, MODEL, N_SHARDS, serve
from served_model import KEYS, ROWS, UNKNOWN, URL, load_smiles, refused, remote

from precalc.errors import ApiError, ChangedError
from precalc.formats import CsvFormat, JsonLinesFormat
from precalc.getting import Request, get_to_file
from precalc.molecule_input import read_list
from precalc.source import Source
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.platform_errors import PrecalcError, UsageError


def test_values_are_those_of_the_table_in_the_order_given(source: Source) -> None:
    wanted = [KEYS[7], UNKNOWN, *KEYS, KEYS[7]]
    answer = source.open(MODEL).read(wanted)
    assert repr(answer.rows) == repr([ROWS.get(key) for key in wanted])
    assert answer.smiles is None
    assert source.open(MODEL).read([]).rows == []


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
    answer = model.read([KEYS[1], KEYS[0], UNKNOWN], smiles=True)
    assert answer.smiles == [None, "CCO", "C"]
    assert repr(answer.rows) == repr([ROWS[KEYS[1]], ROWS[KEYS[0]], None])
    assert model.smiles([UNKNOWN, KEYS[1]]) == ["C", None]


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
    assert [row["key"] for row in rows] == [KEYS[3], None, UNKNOWN, KEYS[3], KEYS[5]]
    assert [row["input"] for row in rows] == wanted
    expected = [ROWS[KEYS[3]], (None,) * 3, (None,) * 3, ROWS[KEYS[3]], ROWS[KEYS[5]]]
    assert repr([tuple(row.values())[2:] for row in rows]) == repr(expected)
    assert (counts.rows, counts.found, counts.missing, counts.unnamed, counts.unreadable) == (5, 3, 1, 1, 1)
    assert (tmp_path / "lost.csv").read_text() == "smiles\n"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("tables")) == [
        "lost.csv",
        "out.jsonl",
    ]


def test_missing_inchikey_is_listed_if_its_smiles_is_known(source: Source, tables, tmp_path) -> None:
    load_smiles(tables, {UNKNOWN: "CCO"})
    request = Request(source.open(MODEL), read_list([UNKNOWN, "C"]), CsvFormat)
    counts = get_to_file(request, tmp_path / "out.csv", tmp_path / "lost.csv")
    assert (counts.missing, counts.unnamed) == (2, 0)
    assert (tmp_path / "lost.csv").read_text() == "smiles\nCCO\nC\n"


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

    def read_some(inchikeys, *, smiles=False):
        if len(read) >= limit:
            raise _StopsError
        read.extend(inchikeys)
        return plain(inchikeys, smiles=smiles)

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
    assert repr(model.read(KEYS).rows) == repr([ROWS[key] for key in KEYS])
    assert len(source.transport.requests) == 1 + 2 + 3
    source.close()


def test_an_api_that_always_answers_too_much_is_an_error(tables) -> None:
    source = remote(tables, [None, *[refused(413)] * 9])
    with pytest.raises(ApiError, match="413"):
        source.open(MODEL).read(KEYS[:2])
    source.close()

"""Predictions in Python: typed data frames in the order of the request, with their provenance."""

import doctest
from pathlib import Path

import pandas as pd
import pytest
from made_up import COLUMNS, MODEL, serve
from served_model import KEYS, ROWS, UNKNOWN, load_smiles

from precalc import Client, csv_cells, extras
from precalc import client as client_module
from precalc.formats import LEADING
from precalc.source import Source
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.tables import open_tables


@pytest.fixture
def client(source: Source) -> Client:
    return Client(source=source)


def test_rows_come_in_the_order_asked_typed_and_exact(client: Client) -> None:
    wanted = [KEYS[3], UNKNOWN, "no molecule", *KEYS, KEYS[3]]
    frame = client.get(MODEL, wanted)
    assert list(frame.columns) == [*LEADING, "score", "count", "label"]
    assert [str(kind) for kind in frame.dtypes] == [*["string"] * len(LEADING), "float64", "Int64", "string"]
    assert list(frame["input"]) == wanted
    assert frame["inchikey"].isna().tolist() == [text == "no molecule" for text in wanted]
    for at, key in enumerate(wanted):
        values = [None if pd.isna(value) else value for value in frame.iloc[at, len(LEADING) :]]
        assert repr(
            [None if v is None else kind(v) for v, kind in zip(values, (float, int, str), strict=True)]
        ) == repr(list(ROWS.get(key, (None,) * 3)))


def test_a_frame_has_the_columns_that_are_asked_for(client: Client) -> None:
    frame, whole = (client.get(MODEL, KEYS, columns=names) for names in (["label", "count"], None))
    assert list(frame.columns) == [*LEADING, "label", "count"]
    pd.testing.assert_frame_equal(frame, whole[frame.columns])


def test_frame_of_a_file_begins_with_the_files_columns(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(f"name,InChI Key,score\na,{KEYS[3]},x\nb,none,\n")
    frame = client.get(MODEL, path)
    ours = ["inchikey", *LEADING[2:], "precalc_score", "count", "label"]
    assert list(frame.columns) == ["name", "InChI Key", "score", *ours]
    assert frame.iloc[:, :3].to_numpy().tolist() == [["a", KEYS[3], "x"], ["b", "none", ""]]
    assert list(frame["status"]) == ["found", "unreadable"]


def test_frame_has_its_provenance_and_marks_missing_rows(client: Client) -> None:
    frame = client.get(MODEL, [KEYS[3], UNKNOWN, "no molecule", UNKNOWN])
    attrs = frame.attrs
    assert (attrs["model"], attrs["releases"], attrs["deterministic"]) == (MODEL, ["v1.0.0"], None)
    assert len(attrs["library_digest"]) == 64
    assert list(frame["status"]) == ["found", "not_in_library", "unreadable", "not_in_library"]
    assert list(frame["reason"].fillna("")) == ["", "", "text after the SMILES", ""]
    assert list(frame["inchikey"].isna()) == [False, False, True, False]


def test_provenance_stays_true_when_frames_are_cut_and_joined(client: Client) -> None:
    frame = client.get(MODEL, [KEYS[3], UNKNOWN])
    missing = frame[frame["status"] != "found"]
    again = pd.concat([missing, client.get(MODEL, [KEYS[4]])])
    assert missing.attrs == frame.attrs == again.attrs
    assert list(again["status"]) == ["not_in_library", "found"]


def test_empty_cells_of_pandas_are_unreadable_rows(client: Client) -> None:
    frame = client.get(MODEL, pd.Series([KEYS[3], float("nan"), None, pd.NA, KEYS[4]]))
    assert list(frame["status"]) == ["found", *["unreadable"] * 3, "found"]
    with pytest.raises(PrecalcError, match="molecules are texts"):
        client.get(MODEL, [KEYS[3], 7])


def test_no_molecules_and_one_make_frames_of_the_same_form(client: Client) -> None:
    none, one = client.get(MODEL, []), client.get(MODEL, KEYS[0])
    assert (len(none), len(one)) == (0, 1)
    assert list(none.dtypes) == list(one.dtypes)


def test_smiles_come_with_the_rows_if_asked_for(client: Client, tables) -> None:
    load_smiles(tables, {KEYS[0]: "CCO"})
    frame = client.get(MODEL, KEYS[:2], smiles=True)
    assert frame["library_smiles"].fillna("none").tolist() == ["CCO", "none"]


def test_models_and_their_columns_are_frames(client: Client) -> None:
    assert list(client.models().index) == [MODEL]
    assert client.columns(MODEL)["type"].to_dict() == {column.name: column.type for column in COLUMNS}


def test_unknown_model_is_an_error_that_names_it(client: Client) -> None:
    with pytest.raises(PrecalcError, match="eos9zzz"):
        client.get("eos9zzz", ["CCO"])


@pytest.mark.parametrize("module", [csv_cells, extras, client_module])
def test_examples_run(module, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ethanol.db'}"
    serve(open_tables(url), {"LFQSCWFLJHTTHZ-UHFFFAOYSA-N": (0.5, 1, "a")})
    load_smiles(open_tables(url), {"LFQSCWFLJHTTHZ-UHFFFAOYSA-N": "CCO"})
    monkeypatch.setenv("PRECALC_TABLES_URL", url)
    ran = doctest.testmod(module)
    assert (ran.failed, ran.attempted > 0) == (0, True)

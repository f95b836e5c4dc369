"""Predictions in Python: typed data frames in the order asked, with where they come from."""

import doctest

import pandas as pd
import pytest
from made_up import COLUMNS, MODEL, serve
from served_model import KEYS, ROWS, UNKNOWN, load_smiles

from precalc_assets import csv_cells
from precalc_assets.client import Precalc, frames
from precalc_assets.client.source import Source
from precalc_assets.errors import PrecalcError
from precalc_assets.tables import open_tables


@pytest.fixture
def precalc(source: Source) -> Precalc:
    return Precalc(source=source)


def test_rows_come_in_the_order_asked_typed_and_exact(precalc: Precalc) -> None:
    asked = [KEYS[3], UNKNOWN, "no molecule", *KEYS, KEYS[3]]
    frame = precalc.get(MODEL, asked)
    assert list(frame.columns) == ["key", "input", "score", "count", "label"]
    assert [str(kind) for kind in frame.dtypes] == ["string", "string", "float64", "Int64", "string"]
    assert list(frame["input"]) == asked
    assert frame["key"].isna().tolist() == [text == "no molecule" for text in asked]
    for at, key in enumerate(asked):
        values = [None if pd.isna(value) else value for value in frame.iloc[at, 2:]]
        assert repr(
            [None if v is None else kind(v) for v, kind in zip(values, (float, int, str), strict=True)]
        ) == repr(list(ROWS.get(key, (None,) * 3)))


def test_a_frame_tells_where_it_is_from_and_what_is_missing(precalc: Precalc) -> None:
    frame = precalc.get(MODEL, [KEYS[3], UNKNOWN, "no molecule", UNKNOWN])
    told = frame.attrs
    assert (told["model"], told["releases"], told["deterministic"]) == (MODEL, ["v1.0.0"], None)
    assert len(told["library_digest"]) == 64
    assert (told["found"], told["missing"], told["unreadable"]) == (1, [1, 3], [2])
    assert list(frame.iloc[told["missing"]]["input"]) == [UNKNOWN] * 2


def test_empty_cells_of_pandas_are_rows_that_are_no_molecule_and_other_things_are_an_error(precalc: Precalc) -> None:
    frame = precalc.get(MODEL, pd.Series([KEYS[3], float("nan"), None, pd.NA, KEYS[4]]))
    assert (frame.attrs["found"], frame.attrs["unreadable"]) == (2, [1, 2, 3])
    with pytest.raises(PrecalcError, match="molecules are texts"):
        precalc.get(MODEL, [KEYS[3], 7])


def test_no_molecules_and_one_make_frames_of_the_same_form(precalc: Precalc) -> None:
    none, one = precalc.get(MODEL, []), precalc.get(MODEL, KEYS[0])
    assert (len(none), len(one)) == (0, 1)
    assert list(none.dtypes) == list(one.dtypes)


def test_smiles_come_with_the_rows_if_asked_for(precalc: Precalc, tables) -> None:
    load_smiles(tables, {KEYS[0]: "CCO"})
    frame = precalc.get(MODEL, KEYS[:2], smiles=True)
    assert list(frame.columns)[:3] == ["key", "input", "smiles"]
    assert frame["smiles"].fillna("none").tolist() == ["CCO", "none"]


def test_models_and_their_columns_are_frames(precalc: Precalc) -> None:
    assert list(precalc.models().index) == [MODEL]
    assert precalc.columns(MODEL)["type"].to_dict() == {column.name: column.type for column in COLUMNS}


def test_a_model_of_which_nothing_is_served_is_an_error_of_ours(precalc: Precalc) -> None:
    with pytest.raises(PrecalcError, match="eos9zzz"):
        precalc.get("eos9zzz", ["CCO"])


@pytest.mark.usefixtures("fresh_settings")
@pytest.mark.parametrize("module", [csv_cells, frames])
def test_examples_run(module, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ethanol.db'}"
    serve(open_tables(url), {"LFQSCWFLJHTTHZ-UHFFFAOYSA-N": (0.5, 1, "a")})
    monkeypatch.setenv("PRECALC_TABLES_URL", url)
    ran = doctest.testmod(module)
    assert (ran.failed, ran.attempted > 0) == (0, True)

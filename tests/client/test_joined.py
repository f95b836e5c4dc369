"""Several models in one wide table: each model's cells and statuses are those that it has by itself."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from made_up import COLUMNS, MODEL, serve
from served_model import KEYS, ROWS, UNKNOWN, load_smiles

from precalc import Client
from precalc.errors import ChangedError, UsageError
from precalc.formats import LEADING, CsvFormat, JsonLinesFormat, ParquetFormat
from precalc.getting import Request, get_to_file
from precalc.joining import open_joined
from precalc.molecules.molecule_input import read_list
from precalc.source import Source
from precalc_assets.tables import KeyValueStore

OTHER = "eos9abd"
WANTED = [KEYS[3], UNKNOWN, "no molecule", KEYS[0], KEYS[1], KEYS[3]]


@pytest.fixture(autouse=True)
def other_model(tables: KeyValueStore) -> None:
    """A second model, which has not predicted one molecule that the first has, and failed on another."""
    rows = {key: row for key, row in ROWS.items() if key != KEYS[0]} | {KEYS[1]: (None,) * len(COLUMNS)}
    serve(tables, rows, model=OTHER, release="v2.0.0")
    load_smiles(tables, dict.fromkeys(KEYS, "CCO"))


def test_each_model_has_the_cells_that_it_has_alone(source: Source) -> None:
    client = Client(source=source)
    joined = client.get([MODEL, OTHER], WANTED)
    names = [f"{model}.{name}" for model in (MODEL, OTHER) for name in ("status", *(c.name for c in COLUMNS))]
    assert list(joined.columns) == [*LEADING, *names]
    for model in (MODEL, OTHER):
        alone = client.get(model, WANTED).drop(columns=["inchikey", "input", "reason", "match", "library_smiles"])
        part = joined[[name for name in names if name.startswith(model)]].rename(columns=lambda name: name[8:])
        pd.testing.assert_frame_equal(part, alone)
    assert list(joined["status"]) == [
        "found",
        "not_in_library",
        "unreadable",
        "not_predicted_yet",
        "model_failed",
        "found",
    ]
    assert list(joined["match"].fillna("")) == ["key", "", "", "key", "key", "key"]
    assert [each["releases"] for each in joined.attrs["models"]] == [["v1.0.0"], ["v2.0.0"]]


def test_chosen_columns_are_named_with_their_model(source: Source) -> None:
    joined = open_joined(source.open, [OTHER, MODEL, OTHER], [f"{MODEL}.label", f"{OTHER}.count", f"{MODEL}.score"])
    names = [f"{OTHER}.status", f"{OTHER}.count", f"{MODEL}.status", f"{MODEL}.label", f"{MODEL}.score"]
    assert [column.name for column in joined.info.columns] == names
    for columns, words in (
        (["label"], f"write the model first: {MODEL}.label"),
        ([f"{MODEL}.label"], f"no column of {OTHER} is named"),
        ([f"{MODEL}.labels", f"{OTHER}.label"], "the nearest name is 'label'"),
    ):
        with pytest.raises(UsageError, match=words):
            open_joined(source.open, [MODEL, OTHER], columns)


@pytest.mark.parametrize("kind", [CsvFormat, JsonLinesFormat, ParquetFormat])
def test_every_format_has_the_same_joined_cells(source: Source, kind, tmp_path: Path) -> None:
    path = tmp_path / "both"
    counts = get_to_file(Request(open_joined(source.open, [MODEL, OTHER]), read_list(WANTED), kind), path)
    assert counts.statuses["found"] == 2
    if kind is CsvFormat:
        found = [dict(row) for row in csv.DictReader(path.read_text().splitlines(keepends=True))]
    else:
        frame = pd.read_json(path, lines=True) if kind is JsonLinesFormat else pd.read_parquet(path)
        found = frame.to_dict("records")
    statuses = [(row[f"{MODEL}.status"], row[f"{OTHER}.status"]) for row in found]
    assert statuses == [
        ("found", "found"),
        ("not_in_library",) * 2,
        ("unreadable",) * 2,
        ("found", "not_predicted_yet"),
        ("found", "model_failed"),
        ("found", "found"),
    ]


def test_a_load_of_either_model_ends_the_reading(source: Source, tables: KeyValueStore) -> None:
    joined = open_joined(source.open, [MODEL, OTHER])
    serve(tables, ROWS, model=OTHER, release="v3.0.0")
    with pytest.raises(ChangedError, match=OTHER):
        joined.read(KEYS)

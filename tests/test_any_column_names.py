"""A model's columns may have any names: files, frames and the API have its values and the platform's own columns."""

import csv
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path

import obstore
import pandas as pd
import pyarrow.parquet as pq
import pytest
from gateway_events import event

from precalc import Client
from precalc.formats import LEADING, SUFFIXES, find_format
from precalc.getting import Request, get_to_file
from precalc.molecules.molecule_input import read_list
from precalc.molecules.smiles_workers import inchikey
from precalc_assets.api.application import make_app
from precalc_assets.api.gateway import answer_event
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.client.missing_predictions import compute_missing
from precalc_assets.inference.canary import run_canary
from precalc_assets.library.library_manifest import read_manifest
from precalc_assets.predictions.loading import load_library_shards
from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
SHARDS = shard_keys(4)
MOLECULES = ["C" * n for n in range(1, 9)]
BAD = "CCCO"
NEW = "CCCCCCCCCN"

NAMES = {
    "inchikey": "inchikey_predicted",
    "smiles": "smiles_predicted",
    "key": "key_predicted",
    "input": "input_predicted",
    "quarantine": "quarantine_predicted",
    "status": "status_predicted",
    "Match": "Match_predicted",
    "inchikey_predicted": "inchikey_predicted_predicted",
    "Mol Weight (g/mol)": "Mol Weight (g/mol)",
    "a,b": "a,b",
    'say "x"': 'say "x"',
}
"""The names that a model declares, and the platform's names for them."""

SHOWN = list(NAMES.values())
KINDS = ["integer", "float", *["string"] * (len(NAMES) - 2)]
ANSWER = f"""
if smiles == {BAD!r}:
    return "1,2"
return ",".join([str(len(smiles)), f"{{len(smiles)}}.5", *(f'"{{smiles}},{{i}}"' for i in range(2, {len(NAMES)}))])
"""


def values(smiles: str) -> list[object]:
    return [len(smiles), len(smiles) + 0.5, *(f"{smiles},{i}" for i in range(2, len(NAMES)))]


def rows(text: str) -> list[dict[str, str]]:
    """Parse CSV, and assert that its header has no duplicates."""
    header, *lines = csv.reader(io.StringIO(text))
    assert len({name.lower() for name in header}) == len(header)
    return [dict(zip(header, line, strict=True)) for line in lines]


def cells(row: Iterable[object]) -> list[str]:
    return [str(cell) for cell in row]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture(scope="module")
def predicted_once(make_world):
    """A world that serves the predictions of such a model, which answers one molecule with too short a row."""
    world = make_world("names")
    folder = world.write_model(columns=list(zip(map(quoted, NAMES), KINDS, strict=True)), answer=ANSWER.strip())
    assert (folder / "model" / "framework" / "columns" / "run_columns.csv").read_text().count("\n") == len(NAMES) + 1
    library = world.build_library([*MOLECULES, BAD])
    loaded = load_library_shards(world.store, world.tables, library, SHARDS)
    for outcome in [*world.predict(), *world.validate(), *world.load(), *loaded]:
        assert not outcome.failure
    return world


def test_parts_and_quarantine_have_both(predicted) -> None:
    found: dict[str, dict[str, str]] = {}
    quarantined = []
    for shard in SHARDS:
        for part in require_manifest(predicted.store, MODEL, shard).parts:
            content = gzip.decompress(bytes(obstore.get(predicted.store, part.name).bytes())).decode()
            found |= {row["input"]: row for row in rows(content)}
        quarantined += rows(predicted.path(f"quarantine/model={MODEL}/shard={shard}.csv").read_text())
    reason = "the model printed a row with fewer cells than columns"
    assert quarantined == [{"inchikey": inchikey(BAD), "input": BAD, "reason": reason}]
    assert found.keys() == {*MOLECULES, BAD}
    for smiles in MOLECULES:
        assert (found[smiles]["key"], found[smiles]["quarantine"]) == (inchikey(smiles), "")
        assert [found[smiles][name] for name in SHOWN] == cells(values(smiles))


def test_the_same_run_reuses_its_parts(predicted) -> None:
    calls = len(predicted.calls())
    for shard in SHARDS:
        predicted.path(f"raw/model={MODEL}/shard={shard}/manifest.json").unlink()
    assert not [outcome.failure for outcome in predicted.predict() if outcome.failure]
    assert len(predicted.calls()) == calls


def test_parquet_has_both(predicted) -> None:
    paths = [predicted.path(f"predictions/model={MODEL}/shard={shard}.parquet") for shard in SHARDS]
    frame = pd.concat(map(pd.read_parquet, paths))
    assert list(frame.columns) == ["inchikey", "smiles", *SHOWN]
    by_smiles = frame.set_index("smiles")
    for smiles in MOLECULES:
        assert by_smiles.loc[smiles, "inchikey"] == inchikey(smiles)
        assert list(by_smiles.loc[smiles, SHOWN]) == values(smiles)


def test_the_sample_has_both(predicted) -> None:
    chosen = Settings(models_dir=str(predicted.models_dir), cache_dir=predicted.cache_dir)
    report = run_canary(predicted.store, read_manifest(predicted.store), MODEL, 6, settings=chosen)
    assert [column.name for column in report.columns] == SHOWN
    table = pq.read_table(predicted.path(f"samples/model={MODEL}.parquet"))
    assert table.column_names == ["inchikey", "smiles", *SHOWN]
    for row in table.to_pylist():
        if row["smiles"] != BAD:
            assert list(row.values()) == [inchikey(row["smiles"]), row["smiles"], *values(row["smiles"])]


def test_the_api_answers_with_both(predicted) -> None:
    app = make_app(predicted.tables)

    def ask(method: str, url: str, body: object = None, **headers: str) -> str:
        text = None if body is None else json.dumps(body)
        asked = event(method, url, text, {"content_type": "application/json"} | headers)
        response = answer_event(lambda: app, asked, None)
        assert response["statusCode"] == 200, response
        return response["body"]

    key = inchikey("CC")
    model = json.loads(ask("GET", f"/models/{MODEL}"))
    assert [column["name"] for column in model["columns"]] == SHOWN
    one = json.loads(ask("GET", f"/models/{MODEL}/predictions/{key}?include=smiles"))
    assert (one["inchikey"], one["smiles"]) == (key, "CC")
    assert one["predictions"] == dict(zip(SHOWN, values("CC"), strict=True))
    many = json.loads(ask("POST", f"/models/{MODEL}/predictions", {"inchikeys": [key]}))
    assert many["predictions"] == [values("CC")]
    (line,) = rows(ask("POST", f"/models/{MODEL}/predictions?include=smiles", {"inchikeys": [key]}, accept="text/csv"))
    assert list(line) == ["inchikey", "status", "smiles", *SHOWN]
    assert list(line.values()) == [key, "found", "CC", *cells(values("CC"))]
    all_models = json.loads(ask("GET", f"/molecules/{key}?include=smiles"))
    assert all_models["models"][0]["predictions"] == one["predictions"]
    legacy = json.loads(ask("POST", "/predictions", {"modelId": MODEL, "inputKeyArray": [key]}))
    assert legacy["output"] == [{"smiles": "CC", "value": values("CC")}]


def read_file(path: Path) -> list[dict[str, object]]:
    """Return the rows of a file that `precalc get` wrote, as text if it is CSV."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line, object_pairs_hook=unique) for line in path.read_text().splitlines()]
    content = path.read_bytes()
    return rows((gzip.decompress(content) if path.suffix == ".gz" else content).decode())  # type: ignore[return-value]


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_readers_have_both(predicted, tmp_path: Path, suffix: str) -> None:
    source = LocalSource(predicted.tables, "here")
    path, computed = tmp_path / f"out{suffix}", tmp_path / f"computed{suffix}"
    request = Request(source.open(MODEL), read_list(["OCC", "CC", NEW]), find_format(None, path), smiles=True)
    get_to_file(request, path)
    compute_missing(request, computed, settings=Settings(batch_size=5), open_it=predicted.backend)
    found, both = read_file(path), read_file(computed)
    assert list(found[1]) == [*LEADING, *SHOWN]
    assert [found[1][name] for name in LEADING if name != "reason"] == [inchikey("CC"), "CC", "found", "same", "CC"]
    assert [str(found[1][name]) for name in SHOWN] == cells(values("CC"))
    assert list(both[2]) == [*LEADING, *SHOWN]
    assert [row["status"] for row in both] == ["computed", "found", "computed"]
    assert [str(both[2][name]) for name in SHOWN] == cells(values(NEW))


def test_frames_have_both(predicted) -> None:
    with Client(source=LocalSource(predicted.tables, "here")) as client:
        frame = client.get(MODEL, ["CC"], smiles=True)
    assert list(frame.columns) == [*LEADING, *SHOWN]
    assert list(frame.iloc[0].fillna("")) == [inchikey("CC"), "CC", "found", "", "same", "CC", *values("CC")]

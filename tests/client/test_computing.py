"""Missing molecules are computed once, typed as they would be served, and not lost by an interruption."""

import json
import math
from collections.abc import Sequence

import pytest
from made_up import COLUMNS, MODEL, serve
from served_model import KEYS, ROWS

from precalc.formats import JsonLinesFormat
from precalc.getting import Request
from precalc.molecules.molecule_input import read_list
from precalc.molecules.smiles_workers import inchikey
from precalc.source import Source
from precalc_assets.client.missing_predictions import compute_missing
from precalc_assets.columns import Column, public_name
from precalc_assets.platform_errors import ModelError
from precalc_assets.settings import Settings

NEW = ["C" * n for n in range(1, 12)]
BAD = "CCCC"


class Model:
    """A model that prints lengths in the forms that models print them in, and may be interrupted."""

    columns = COLUMNS
    release = "v1.0.0"

    def __init__(self, calls_until_interrupted: float = math.inf) -> None:
        self.inputs: list[str] = []
        self.entered = 0
        self._left = calls_until_interrupted

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        if self._left <= 0:
            raise KeyboardInterrupt
        self._left -= 1
        self.inputs += smiles
        return [
            b",," if text == BAD else f'{len(text)},{2**62 + len(text)},"{text}, ""x"""'.encode() for text in smiles
        ]


def printed(text: str) -> list[object]:
    return [float(len(text)), 2**62 + len(text), f'{text}, "x"']


def run(source: Source, wanted: Sequence[str], path, model: Model):
    request = Request(source.open(MODEL), read_list(wanted), JsonLinesFormat)
    return compute_missing(request, path, settings=Settings(batch_size=2), open_it=lambda: model)


def rows(path) -> list[list[object]]:
    return [list(json.loads(line).values()) for line in path.read_text().splitlines()]


WANTED = [KEYS[0], *NEW, "no molecule", KEYS[1], NEW[0]]


def expected() -> list[list[object]]:
    known = {key: [key, key, "found", None, "key", None, *ROWS[key]] for key in KEYS[:2]}
    new = {text: [inchikey(text), text, "computed", None, "same", None, *printed(text)] for text in NEW}
    new[BAD] = [inchikey(BAD), BAD, "model_failed", "the model printed no value", None, None, None, None, None]
    nothing = [None, "no molecule", "unreadable", "text after the SMILES", None, None, None, None, None]
    return [known.get(text) or new.get(text) or nothing for text in WANTED]


def test_each_molecule_is_computed_once_and_typed_as_served(source, tmp_path) -> None:
    model = Model()
    counts, outcome = run(source, WANTED, tmp_path / "out.jsonl", model)
    assert repr(rows(tmp_path / "out.jsonl")) == repr(expected())
    assert model.inputs.count(NEW[0]) == 1
    assert (counts.statuses["found"], outcome.computed, outcome.failed, outcome.release) == (2, 11, 1, "v1.0.0")
    assert outcome.reasons == [f"{BAD!r}: the model printed no value"]
    assert not list(tmp_path.glob(".out*"))


def test_interrupted_computation_continues_after_its_last_batch(source, tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    models = [Model(2), Model(2), Model()]
    for model in models[:2]:
        with pytest.raises(KeyboardInterrupt):
            run(source, WANTED, path, model)
        assert not path.exists()
    run(source, WANTED, path, models[2])
    wanted = [text for model in models for text in model.inputs]
    assert sorted(set(wanted) - {BAD}) == sorted({*NEW} - {BAD})
    assert all(wanted.count(text) == 1 for text in NEW[:3])
    assert repr(rows(path)) == repr(expected())


def test_another_release_computes_everything_again(source, tmp_path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(source, WANTED, path, Model(2))
    newer = Model()
    newer.release = "v2.0.0"
    run(source, WANTED, path, newer)
    assert set(newer.inputs) == set(NEW)


def test_model_is_not_started_if_no_molecule_is_missing(source, tmp_path) -> None:
    model = Model()
    _, outcome = run(source, [KEYS[0], "no molecule"], tmp_path / "out.jsonl", model)
    assert (model.entered, outcome.release) == (0, "")
    assert [row[2] for row in rows(tmp_path / "out.jsonl")] == ["found", "unreadable"]


def test_columns_that_another_release_lacks_stay_empty(source, tables, tmp_path, caplog) -> None:
    model = Model()
    model.release, model.columns = "v2.0.0", (COLUMNS[2], COLUMNS[0])
    model.predict = lambda smiles, deadline=0: [b"x,7"] * len(smiles)
    run(source, [NEW[0]], tmp_path / "out.jsonl", model)
    assert rows(tmp_path / "out.jsonl") == [[inchikey(NEW[0]), NEW[0], "computed", None, "same", None, 7.0, None, "x"]]
    assert "WARNING" in caplog.text
    assert "v1.0.0" in caplog.text
    assert "v2.0.0" in caplog.text
    model.columns = ()
    with pytest.raises(ModelError, match="other columns"):
        run(source, [NEW[0]], tmp_path / "other.jsonl", model)


def test_a_model_with_a_column_status_has_both(source, tables, tmp_path) -> None:
    columns = (COLUMNS[0], Column(public_name("status"), "string", "", ""))
    serve(tables, {KEYS[0]: (1.0, "x")}, model="eos9src", columns=columns)
    request = Request(source.open("eos9src"), read_list([KEYS[0]]), JsonLinesFormat)
    compute_missing(request, tmp_path / "out.jsonl", settings=Settings(batch_size=2), open_it=Model)
    [row] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (row["status"], row["status_predicted"]) == ("found", "x")

"""Mistakes that are easily made are errors at once, and say what to do."""

import time

import pandas as pd
import pytest
from fake_api import ANSWERS, DESCRIPTION, KEY, MODEL, PREDICTIONS, fake_api, refusing_api

from precalc import ApiError, Client, PrecalcError


@pytest.fixture
def client() -> Client:
    return Client(source=fake_api())


def test_predictions_are_read_from_the_fake_api(client: Client) -> None:
    frame = client.get(MODEL, [KEY], smiles=True)
    assert frame.fillna("").to_dict("records") == [
        {"inchikey": KEY, "input": KEY, "status": "found", "reason": "", "match": "key", "library_smiles": "CCO"}
        | {"weight": 46.07}
    ]


@pytest.mark.parametrize(
    ("model", "molecules", "words"),
    [
        (MODEL, pd.DataFrame({"smiles": ["CCO"]}), r"not DataFrame; .*frame\['smiles'\]"),
        (MODEL, {"smiles": "CCO"}, "not dict"),
        (MODEL, 7, "not int"),
        (MODEL, ["eos4e40", "eos5axz"], "'eos4e40' is a model, not a molecule"),
        (7, [KEY], "a model id is a text such as 'eos3b5e', not int"),
        ([MODEL, None], [KEY], "not NoneType"),
    ],
)
def test_wrong_kinds_of_arguments_are_type_errors(client: Client, model, molecules, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        client.get(model, molecules)


def test_other_objects_among_molecules_are_an_error(client: Client) -> None:
    with pytest.raises(PrecalcError, match="molecules are texts"):
        client.get(MODEL, [KEY, 7])


def test_closed_client_says_that_it_is_closed() -> None:
    with Client(source=fake_api()) as client:
        client.models()
    for use in (
        client.models,
        lambda: client.get(MODEL, [KEY]),
        lambda: client.columns(MODEL),
        lambda: client.files(MODEL),
        lambda: client.download(MODEL, "folder"),
    ):
        with pytest.raises(PrecalcError, match="this Client is closed; make another one"):
            use()


@pytest.mark.parametrize("names", [["status"], ["weight", "weight"], ["score", "inchikey"]], ids=str)
def test_columns_that_would_replace_others_are_refused(names: list[str]) -> None:
    columns = [DESCRIPTION["columns"][0] | {"name": name} for name in names]
    source = fake_api(ANSWERS | {f"/v1/models/{MODEL}": DESCRIPTION | {"columns": columns}})
    with pytest.raises(ApiError, match="two columns of one name"):
        source.open(MODEL)


@pytest.mark.parametrize("name", ["statuses", "Status", "key", "model"])
def test_other_names_of_columns_are_kept(name: str) -> None:
    columns = [DESCRIPTION["columns"][0] | {"name": name}]
    answers = {f"/v1/models/{MODEL}": DESCRIPTION, f"/v1/models/{MODEL}/predictions": PREDICTIONS}
    source = fake_api({path: answer | {"columns": columns} for path, answer in answers.items()})
    assert Client(source=source).get(MODEL, [KEY])[name].tolist() == [46.07]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"error": {"code": "quota_exceeded", "message": "the key has used up its requests of this month"}}, {}),
        ({"message": "Limit Exceeded"}, {"x-amzn-ErrorType": "LimitExceededException"}),
        ({"message": "Limit Exceeded"}, {}),
    ],
)
def test_exhausted_quota_fails_at_once(body: object, headers: dict[str, str]) -> None:
    source = refusing_api(429, body, **headers)
    started = time.monotonic()
    with pytest.raises(ApiError, match="when the quota is renewed") as error:
        source.open(MODEL)
    assert (error.value.status, error.value.code) == (429, "quota_exceeded")
    assert len(source.requests) == 1
    assert time.monotonic() - started < 1

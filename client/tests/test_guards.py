"""Mistakes that are easily made are errors at once, and say what to do."""

import time

import pandas as pd
import pytest
from fake_api import KEY, MODEL, fake_api, refusing_api

from precalc import ApiError, Client, PrecalcError


@pytest.fixture
def client() -> Client:
    return Client(source=fake_api())


def test_predictions_are_read_from_the_fake_api(client: Client) -> None:
    frame = client.get(MODEL, [KEY], smiles=True)
    assert frame.to_dict("records") == [
        {"key": KEY, "input": KEY, "smiles": "CCO", "source": "precalculated", "weight": 46.07}
    ]


@pytest.mark.parametrize(
    ("model", "molecules", "words"),
    [
        (MODEL, pd.DataFrame({"smiles": ["CCO"]}), r"not DataFrame; .*frame\['smiles'\]"),
        (MODEL, {"smiles": "CCO"}, "not dict"),
        (MODEL, 7, "not int"),
        (MODEL, ["eos4e40", "eos5axz"], "'eos4e40' is a model, not a molecule"),
        ([MODEL, "eos4e40"], [KEY], "one model id is expected, not list"),
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

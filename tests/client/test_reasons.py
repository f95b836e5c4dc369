"""Why a model failed on a molecule, from its quarantine lists, by each way of reading."""

from collections.abc import Iterator

import pytest
from served_model import remote

from precalc import Client
from precalc.errors import OneModelError, PrecalcError
from precalc.reasons import Reasons
from precalc.source import Answer, Source
from precalc_assets.client.local_tables import LocalSource

MODEL = "eos9abc"
WANTED = ["CCO", "CO", "C" * 30, "no molecule"]
REASON = "run.sh exited 1: cannot answer that"


@pytest.fixture
def failed(world):
    """A world in which the model has failed on ethanol."""
    answer = "if smiles == 'CCO':\n    raise SystemExit('cannot answer that')\nreturn '0.5,1,a'"
    world.write_model(answer=answer)
    world.build_library()
    for outcome in [*world.predict(), *world.validate(), *world.load()]:
        assert not outcome.failure
    return world


@pytest.fixture(params=["tables", "API"])
def source(request: pytest.FixtureRequest, failed) -> Iterator[Source]:
    store = failed.environment["PRECALC_STORE_URL"]
    if request.param == "tables":
        yield LocalSource(failed.tables, "tables", store)
    else:
        source = remote(failed.tables, store_url=store)
        yield source
        source.close()


def test_reasons_are_read_when_they_are_asked_for(source: Source, failed) -> None:
    client = Client(source=source)
    silent, frame, joined = (
        client.get(model, WANTED, reasons=reasons)
        for model, reasons in ((MODEL, False), (MODEL, True), ([MODEL], True))
    )
    assert list(frame["status"]) == ["model_failed", "found", "not_in_library", "unreadable"]
    assert list(silent["reason"].fillna("")) == ["", "", "", "text after the SMILES"]
    assert list(frame["reason"].fillna("")) == [REASON, "", "", "text after the SMILES"]
    assert list(joined["reason"].fillna("")) == [f"{MODEL}: {REASON}", "", "", "text after the SMILES"]


def test_missing_lists_are_an_error_that_names_them(source: Source, failed) -> None:
    for path in failed.root.rglob("quarantine/*/*.csv"):
        path.unlink()
    with pytest.raises(PrecalcError, match="quarantine"):
        Client(source=source).get(MODEL, WANTED, reasons=True)


@pytest.mark.parametrize("content", [b"\xff", b"input,reason\nC,x\n"])
def test_damaged_lists_are_an_error(content: bytes) -> None:
    reasons = Reasons(MODEL, 1, lambda shards: dict.fromkeys(shards, content))
    with pytest.raises(OneModelError, match="damaged"):
        reasons.add_to(Answer([(None,)], ["model_failed"], {}), ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N"])


def test_each_list_is_read_once_and_only_for_failures() -> None:
    read: list[int] = []

    def lists(shards) -> dict[int, bytes]:
        read.extend(shards)
        return dict.fromkeys(shards, b"inchikey,input,reason\nLFQSCWFLJHTTHZ-UHFFFAOYSA-N,CCO,too small\n")

    keys = ["LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "OKKJLVBELUTLKV-UHFFFAOYSA-N"]
    reasons = Reasons(MODEL, 1, lists)
    assert reasons.add_to(Answer([(1.0,), None], ["found", "not_in_library"], {}), keys).reasons == {}
    for _ in range(2):
        answer = reasons.add_to(Answer([(None,), (None,)], ["model_failed"] * 2, {}), keys)
        assert answer.reasons == {keys[0]: "too small"}
    assert read == [0]

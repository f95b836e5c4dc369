"""Calling a model: the cost of a bad molecule, and when a model is given up. The models here are Python objects."""

import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc_assets.columns import Column
from precalc_assets.inference.batching import PATIENCE, Answer, PatientCaller
from precalc_assets.inference.call_size import CallSize
from precalc_assets.inference.model_backend import BatchError, TimeIsUpError
from precalc_assets.platform_errors import ModelError

COLUMNS = (Column("length", "integer", "", ""), Column("echo", "string", "", ""))


class Model:
    """Answers each molecule with its length and itself; fails on a batch with a molecule that it `refuses`.

    For a molecule that it `misprints` it prints a text as the length, and nothing else.
    """

    columns = COLUMNS
    release = "v1"
    environment = "test"

    def __init__(
        self, refuses: Callable[[str], bool] = lambda _: False, misprints: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.refuses = refuses
        self.misprints = misprints
        self.calls: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        self.calls.append(list(smiles))
        bad = [text for text in smiles if self.refuses(text)]
        if bad:
            raise BatchError(f"cannot do {bad[0]}")
        return [b"long," if self.misprints(text) else record(text) for text in smiles]

    @property
    def asked(self) -> int:
        return len({text for call in self.calls for text in call if len(call) == 1})


def patient(model: Model, **arguments) -> PatientCaller:
    return PatientCaller("eos9abc", model, CallSize(1000), **arguments)


def record(text: str) -> bytes:
    return f"{len(text)},{text}".encode()


def answers(batches: Sequence[Sequence[str]], model: Model) -> list[Answer]:
    found = patient(model).answer(batches)
    assert not any(answer.gave_up for answer in found)
    return found


BATCHES = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(
    lambda sizes: [[f"m{batch}-{i}" for i in range(size)] for batch, size in enumerate(sizes)]
)


@given(BATCHES, st.data())
def test_only_bad_molecules_fail_and_others_keep_their_order(batches: list[list[str]], data: st.DataObject) -> None:
    molecules = [text for batch in batches for text in batch]
    choice = st.sets(st.sampled_from(molecules), max_size=min(PATIENCE - 1, len(molecules)))
    refused, misprinted = data.draw(choice), data.draw(choice)
    if len(refused | misprinted) >= PATIENCE:
        misprinted = set()
    model = Model(refused.__contains__, misprinted.__contains__)
    found = answers(batches, model)
    for batch, answer in zip(batches, found, strict=True):
        bad = {i for i, text in enumerate(batch) if text in refused | misprinted}
        assert set(answer.failures) == bad
        assert answer.records == [b"," if i in bad else record(text) for i, text in enumerate(batch)]
        for i in bad:
            text = batch[i]
            assert answer.failures[i] == (
                f"cannot do {text}" if text in refused else "length is 'long', not an integer of 64 bits"
            )


def test_a_record_with_one_value_is_an_answer() -> None:
    class Partly(Model):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            return [f"long,{text}".encode() for text in smiles]

    (answer,) = answers([["a", "b"]], Partly())
    assert (answer.records, answer.failures) == ([b"long,a", b"long,b"], {})
    (answer,) = patient(Partly(), required_values=0.5).answer([["a"]])
    assert answer.failures == {}
    with pytest.raises(ModelError, match="1 of 2 columns have a value, and 2 must"):
        patient(Partly(), required_values=0.6).answer([["a"] * PATIENCE])


def test_batches_that_go_well_are_one_call() -> None:
    model = Model()
    found = answers([["a", "bb"], ["ccc"], ["d"]], model)
    assert model.calls == [["a", "bb", "ccc", "d"]]
    assert [answer.records for answer in found] == [[record("a"), record("bb")], [record("ccc")], [record("d")]]


def test_a_bad_molecule_costs_logarithmically_many_calls() -> None:
    batch = [f"m{i}" for i in range(1024)]
    model = Model({"m777"}.__contains__)
    (answer,) = answers([batch], model)
    assert list(answer.failures) == [777]
    assert len(model.calls) == 1 + 2 * 10 + 1


def test_a_good_batch_is_not_repeated_for_another_s_bad_molecule() -> None:
    model = Model({"bad"}.__contains__)
    answers([["a", "b"], ["c", "d"], ["e", "bad"], ["f", "g"]], model)
    assert model.calls[1] == ["a", "b", "c", "d"]
    assert sum("a" in call for call in model.calls) == 2


@pytest.mark.parametrize("sizes", [(1000,), (100, 100, 100), (12, 1)], ids=str)
def test_a_silent_model_is_given_up_after_a_few_molecules(sizes: tuple[int, ...]) -> None:
    batches = [[f"m{batch}-{i}" for i in range(size)] for batch, size in enumerate(sizes)]
    model = Model(lambda _: True)
    with pytest.raises(ModelError, match=r"eos9abc answers no molecule: 10 molecules in a row failed.*cannot do m"):
        patient(model).answer(batches)
    assert model.asked == PATIENCE


@pytest.mark.parametrize("sizes", [(1000,), (100, 100), (12, 1, 1)], ids=str)
def test_a_model_that_prints_only_wrong_types_is_given_up(sizes: tuple[int, ...]) -> None:
    batches = [[f"m{batch}-{i}" for i in range(size)] for batch, size in enumerate(sizes)]
    model = Model(misprints=lambda _: True)
    with pytest.raises(ModelError, match=r"eos9abc answers no molecule: .*length is 'long', not an integer of 64 bits"):
        patient(model).answer(batches)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_silent_model_is_given_up_even_with_small_batches(size: int) -> None:
    molecules = [f"m{i}" for i in range(60)]
    model = Model(lambda _: True)
    caller = patient(model)
    with pytest.raises(ModelError, match="eos9abc answers no molecule"):
        for start in range(0, len(molecules), size):
            caller.answer([molecules[start : start + size]])
    assert model.asked == PATIENCE


def test_a_hundred_failures_in_a_row_lose_only_their_batch() -> None:
    model = Model(lambda text: text.startswith("x"))
    batches = [["a", "b"], [f"x{i}" for i in range(300)], ["c"]]
    first, lost, last = patient(model).answer(batches)
    assert not first.gave_up
    assert not last.gave_up
    assert "100 molecules in a row failed" in lost.gave_up
    assert first.records == [record("a"), record("b")]
    assert last.records == [record("c")]


@pytest.mark.parametrize("kind", ["refuses", "misprints"])
def test_dozens_of_failures_in_a_row_are_bad_molecules(kind: str) -> None:
    model = Model(**{kind: lambda text: text.startswith("x")})
    caller = patient(model)
    caller.answer([["a"]])
    (found,) = caller.answer([[f"x{i}" for i in range(60)]])
    assert not found.gave_up
    assert len(found.failures) == 60


@pytest.mark.parametrize("size", [1, 4, 30])
@pytest.mark.parametrize("kind", ["refuses", "misprints"])
def test_failing_on_an_earlier_answer_blames_the_model(kind: str, size: int) -> None:
    caller = patient(Model(**{kind: lambda _: True}))
    caller.set_witness("answered")
    with pytest.raises(ModelError, match="it fails on answered too, which it answered before"):
        caller.answer([[f"x{i}" for i in range(size)]])


@pytest.mark.parametrize("size", [1, 4, 30])
def test_a_model_that_answers_the_witness_is_not_blamed(size: int) -> None:
    caller = patient(Model(lambda text: text.startswith("x")))
    caller.set_witness("answered")
    (found,) = caller.answer([[f"x{i}" for i in range(size)]])
    assert not found.gave_up
    assert len(found.failures) == size
    assert caller.answered


def test_a_model_that_breaks_is_not_called_for_the_rest() -> None:
    class Breaking(Model):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            if len(self.calls) >= 3:
                raise BatchError("no GPU here")
            return super().predict(smiles, deadline)

    caller = patient(Breaking())
    for text in "abc":
        caller.answer([[text]])
    (lost,) = caller.answer([[f"m{i}" for i in range(64)]])
    assert "no GPU here" in lost.gave_up


def test_no_call_is_begun_when_time_is_up() -> None:
    model = Model({"m7"}.__contains__)
    with pytest.raises(TimeIsUpError):
        patient(model, deadline=time.monotonic() - 1).answer([["m7"]])
    assert model.calls == []


@pytest.mark.parametrize("n_batches", [1, 3])
@pytest.mark.parametrize("begun", [False, True], ids=["the first call", "a later call"])
def test_a_call_cut_by_the_deadline_blames_nothing(begun: bool, n_batches: int) -> None:
    class Hanging(Model):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            if smiles == ["good"]:
                return super().predict(smiles, deadline)
            self.calls.append(list(smiles))
            time.sleep(max(0.0, deadline - time.monotonic()))
            raise TimeIsUpError

    model = Hanging()
    caller = patient(model, deadline=time.monotonic() + 0.2)
    if begun:
        caller.answer([["good"]])
    calls = len(model.calls)
    with pytest.raises(TimeIsUpError):
        caller.answer([[f"m{batch}", "hangs"] for batch in range(n_batches)])
    assert len(model.calls) == calls + 1


def test_failures_with_an_answer_between_them_do_not_add_up() -> None:
    batch = [f"{'bad' if i % 2 else 'good'}{i}" for i in range(10 * PATIENCE)]
    (answer,) = answers([batch], Model(lambda text: text.startswith("bad")))
    assert len(answer.failures) == 5 * PATIENCE


def test_a_model_error_ends_the_call_at_once() -> None:
    class Broken(Model):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            self.calls.append(list(smiles))
            raise ModelError("the output of eos9abc lacks a column")

    model = Broken()
    with pytest.raises(ModelError, match="lacks a column"):
        patient(model).answer([["a"], ["b"]])
    assert len(model.calls) == 1


class Served(Model):
    """A served model that has a fault `after` this many molecules.

    "dead": the server is down. "refusing": it is up, but every call fails. "silent": it answers only nulls.
    """

    def __init__(self, fault: str, after: int, **arguments: Callable[[str], bool]) -> None:
        super().__init__(**arguments)
        self.fault = fault
        self.after = after
        self.since_start = 0
        self.restarts = 0

    @property
    def faulty(self) -> bool:
        return self.since_start > self.after

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        self.since_start += len(smiles)
        if self.faulty and self.fault != "silent":
            raise BatchError("connection refused" if self.fault == "dead" else "500")
        records = super().predict(smiles, deadline)
        return [b"," for _ in records] if self.faulty else records

    def is_healthy(self) -> bool:
        return not (self.faulty and self.fault == "dead")

    def restart(self) -> None:
        self.restarts += 1
        self.since_start = 0


@pytest.mark.parametrize("fault", ["dead", "refusing", "silent"])
@pytest.mark.parametrize("size", [20, 100])
def test_no_molecule_is_blamed_for_an_unhealthy_server(fault: str, size: int) -> None:
    model = Served(fault, after=150)
    calls = CallSize(10)
    caller = PatientCaller("eos9abc", model, calls)
    for start in range(0, 600, size):
        batch = [f"m{start + i}" for i in range(size)]
        (answer,) = caller.answer([batch])
        assert not answer.gave_up
        assert (answer.failures, answer.records) == ({}, [record(text) for text in batch])
    assert 3 <= model.restarts <= 6
    assert calls.most == (10 if fault == "dead" else 100)


def test_a_healthy_server_is_not_restarted_for_a_bad_molecule() -> None:
    model = Served("dead", after=10**6, refuses={"m7"}.__contains__)
    (answer,) = answers([[f"m{i}" for i in range(16)]], model)
    assert answer.failures == {7: "cannot do m7"}
    assert model.restarts == 0


def test_a_molecule_that_kills_the_server_is_quarantined_alone() -> None:
    class Killed(Served):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            if "killer" in smiles:
                self.since_start = self.after + 1
            return super().predict(smiles, deadline)

    model = Killed("dead", after=10**6)
    batch = [*(f"m{i}" for i in range(20)), "killer", *(f"n{i}" for i in range(43))]
    (answer,) = answers([batch], model)
    assert answer.failures == {20: "connection refused"}
    assert answer.records == [b"," if text == "killer" else record(text) for text in batch]


def test_a_server_silent_after_a_restart_ends_the_run() -> None:
    model = Served("silent", after=0)
    with pytest.raises(ModelError, match=r"eos9abc answers no molecule: .*the model printed no value"):
        patient(model).answer([[f"m{i}" for i in range(1000)]])
    assert len(model.calls) == 2


def test_a_server_that_does_not_come_up_again_ends_the_run() -> None:
    class Lost(Served):
        def restart(self) -> None:
            raise ModelError("eos9abc did not come up")

    model = Lost("dead", after=4)
    with pytest.raises(ModelError, match="did not come up"):
        patient(model).answer([[f"m{i}" for i in range(8)]])


def test_a_misshapen_record_is_one_failure_and_no_second_call() -> None:
    class Odd(Model):
        def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
            odd = {"open": b'1,"open', "wide": b"1,2,3", "empty": b""}
            return [odd.get(text, found) for text, found in zip(smiles, super().predict(smiles, deadline), strict=True)]

    model = Odd()
    (answer,) = answers([["a", "open", "b", "wide", "c", "empty"]], model)
    assert answer.failures == {
        1: "the model printed an unclosed quote",
        3: "the model printed a row with more cells than columns",
        5: "the model printed a row with fewer cells than columns",
    }
    assert len(model.calls) == 1

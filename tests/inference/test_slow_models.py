"""Slow models, timeouts and kills: each molecule lands once and in its place, and computed rows are reused."""

import logging
import math
import uuid
from collections import Counter
from contextlib import suppress

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process_model import Model

from precalc_assets.inference import stored_parts
from precalc_assets.inference.batching import told_while_waiting
from precalc_assets.inference.model_backend import TimeIsUpError
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.library_manifest import read_manifest, read_shard
from precalc_assets.models.folder import find_model
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.canary_report import CanaryReport, Speed, put_report
from precalc_assets.predictions.shard_manifest import read_part, require_manifest
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import list_sizes

MODEL = "eos9abc"
SHARDS = shard_keys(4)


def predict(world, model: Model, batch_size: int = 7, **options) -> list[ShardOutcome]:
    arguments = {"settings": Settings(batch_size=batch_size, max_failure_rate=1.0), **options}
    return list(predict_shards(world.store, read_manifest(world.store), MODEL, model, SHARDS, **arguments))


def landed(world) -> dict[str, dict[str, tuple[str, int | None]]]:
    """Return each shard's predictions by InChIKey, in the order of its parts."""
    found = {}
    for shard in SHARDS:
        manifest = require_manifest(world.store, MODEL, shard)
        frames = [frame for part in manifest.parts for frame, _ in read_part(world.store, part, manifest.columns)]
        rows = pl.concat(frames).rows() if frames else []
        assert len(dict(rows)) == len(rows)
        found[shard] = dict(rows)
    return found


def expected(world, failed: set[str]) -> dict[str, dict[str, int | None]]:
    library = read_manifest(world.store)
    return {
        shard: {
            key: None if smiles in failed else len(smiles)
            for key, smiles in zip(*read_shard(world.store, library, shard).to_pydict().values(), strict=True)
        }
        for shard in SHARDS
    }


def molecules(world) -> list[str]:
    library = read_manifest(world.store)
    return [text for shard in SHARDS for text in read_shard(world.store, library, shard)["smiles"].to_pylist()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_each_molecule_lands_once_whatever_happens(new_world, data: st.DataObject) -> None:
    world = new_world(f"world-{uuid.uuid4()}")
    world.build_library()
    every = molecules(world)
    hangs = data.draw(st.lists(st.sampled_from(every[5:]), max_size=3, unique=True))
    refuses = data.draw(st.lists(st.sampled_from(every[5:]), max_size=3, unique=True))
    answered: set[str] = set()
    asked_again = 0
    for kill in data.draw(st.lists(st.sampled_from([KeyboardInterrupt, TimeIsUpError]), max_size=4)):
        model = Model(
            data.draw(st.integers(1, 100)), hangs, refuses, killed_at=data.draw(st.integers(1, 30)), kill=kill
        )
        with suppress(KeyboardInterrupt):
            predict(world, model, data.draw(st.integers(1, 30)), save_seconds=data.draw(st.sampled_from([0.0, 1e9])))
        asked = {text for call in model.calls if len(call) > 1 for text in call}
        asked_again += len(asked & answered)
        answered |= model.answered
    outcomes = predict(world, Model(100, hangs, refuses), data.draw(st.integers(1, 30)))
    assert [outcome.failure for outcome in outcomes] == [""] * len(SHARDS)
    assert landed(world) == expected(world, {*hangs, *refuses})
    assert [list(rows) for rows in landed(world).values()] == [list(rows) for rows in expected(world, set()).values()]
    assert asked_again == 0
    named = {part.name for shard in SHARDS for part in require_manifest(world.store, MODEL, shard).parts}
    assert {name for name in list_sizes(world.store, "raw") if "/part-" in name} == named


@pytest.mark.parametrize("kill", [KeyboardInterrupt, TimeIsUpError])
def test_pieces_of_a_part_are_found_again_and_leave_no_trace(world, new_world, kill) -> None:
    for each in (world, undisturbed := new_world("undisturbed")):
        each.build_library()
    predict(undisturbed, Model(), 1000)
    model = Model(4, killed_at=8, kill=kill)
    try:
        predict(world, model, 1000)
    except KeyboardInterrupt:
        assert kill is KeyboardInterrupt
    pieces = [name for name in world.objects("raw") if "/part-" in name]
    assert pieces
    assert not [name for name in world.objects("raw") if name.endswith("manifest.json")]
    again = Model()
    assert all(outcome.landed for outcome in predict(world, again, 1000))
    assert not {text for call in again.calls for text in call} & model.answered
    assert contents(world) == contents(undisturbed)


def contents(world) -> dict[str, bytes]:
    return {name: world.path(name).read_bytes() for name in world.objects("raw") if "/part-" in name}


def test_answers_are_stored_within_the_save_interval(world) -> None:
    class Watched(Model):
        def predict(self, smiles, deadline=math.inf):
            parts = [stored_parts.parse_part(content) for content in contents(world).values()]
            assert self.answered <= {row.smiles for rows in parts for row in rows}
            return super().predict(smiles, deadline)

    world.build_library()
    model = Watched(4)
    predict(world, model, 1000, save_seconds=0.0)
    assert len(model.calls) > 10


def test_a_timeout_halves_the_call_and_blames_no_neighbour(world) -> None:
    world.build_library()
    model = Model(6)
    outcomes = predict(world, model, 1000)
    assert sum(outcome.facts["quarantined"] for outcome in outcomes) == 0
    for call, after in zip(model.calls, model.calls[1:], strict=False):
        if len(call) > 6:
            assert len(after) <= len(call) - len(call) // 2
    assert landed(world) == expected(world, set())


def test_a_molecule_that_hangs_alone_is_quarantined_alone(world) -> None:
    world.build_library()
    hangs = molecules(world)[11]
    model = Model(hangs=[hangs])
    outcomes = predict(world, model, 1000)
    assert sum(outcome.facts["quarantined"] for outcome in outcomes) == 1
    assert landed(world) == expected(world, {hangs})
    assert Counter(len(call) for call in model.calls if hangs in call)[1] == 1


def report_of(world, backend: Model, seconds_per_molecule: float) -> CanaryReport:
    world.write_model()
    return CanaryReport(
        model=MODEL,
        metadata=find_model(MODEL, [world.models_dir]).metadata,
        release=backend.release,
        declared=backend.columns,
        library_digest="",
        finished_at="2026-01-01T00:00:00Z",
        molecules=100,
        quarantined=0,
        reasons=(),
        unsteady=0,
        columns=(),
        speed=Speed(
            best_batch_size=100,
            seconds_per_molecule=seconds_per_molecule,
            seconds_per_call=0.0,
            seconds_per_further_molecule=seconds_per_molecule,
            seconds_to_start=0.0,
        ),
        run=None,
        table=None,
        peak_memory=None,
        bytes_per_molecule=20.0,
        adoption=None,
        checks=(),
    )


@pytest.mark.parametrize(("seconds", "first"), [(0.5, 60), (10.0, 3), (600.0, 1), (0.001, 60)])
def test_the_first_call_is_sized_by_the_canary(world, seconds: float, first: int) -> None:
    world.build_library()
    model = Model()
    put_report(world.store, report_of(world, model, seconds))
    assert all(outcome.landed for outcome in predict(world, model, 1000))
    assert len(model.calls[0]) == first
    assert landed(world) == expected(world, set())


def test_a_canary_of_another_release_sizes_nothing(world) -> None:
    world.build_library()
    model = Model()
    put_report(world.store, report_of(world, model, 600.0))
    model.release = "v2.0.0"
    predict(world, model, 1000)
    assert len(model.calls[0]) == 50


def test_progress_is_reported_call_by_call(world) -> None:
    world.build_library()
    model = Model()
    put_report(world.store, report_of(world, model, 10.0))
    told: list[int] = []
    predict(world, model, 1000, on_progress=lambda n, _: told.append(n))
    assert next(filter(None, told)) == 3
    assert sum(told) == 60


def test_waiting_is_logged_until_it_ends() -> None:
    said: list[str] = []
    with told_while_waiting("a call of 7 molecules", said.append, every=0.01):
        while len(said) < 2:
            pass
    count = len(said)
    assert said[0] == "still waiting for a call of 7 molecules, 0 s"
    assert len(said) == count


@pytest.mark.slow
def test_a_call_of_half_a_minute_is_logged(world, caplog: pytest.LogCaptureFixture) -> None:
    world.build_library(["CCO"])
    world.write_model(script='time.sleep(32)\nwrite("\\n".join([HEADER, *map(answer, given)]) + "\\n")')
    with caplog.at_level(logging.INFO):
        assert all(outcome.landed for outcome in world.predict())
    assert f"{MODEL}: still waiting for a call of 1 molecule, 30 s" in caplog.messages

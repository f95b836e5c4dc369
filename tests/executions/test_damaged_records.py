"""Damaged JSON objects of the store, and damaged `.env` files: errors of one line, and nothing else.

Bytes are flipped, cut and inserted, and values of valid records are replaced by odd ones. Each damaged record is then
used as the platform uses it.
"""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from fake_runners import put_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore
from simulation import MODEL, SHARDS, Simulation

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.executions.compute_backend import RunStatus
from precalc_assets.executions.following import retry_reasons, shards_to_retry
from precalc_assets.executions.protocol import Look, next_action
from precalc_assets.executions.records import (
    Answer,
    Cancellation,
    Claim,
    Dispatch,
    Execution,
    Follower,
    Job,
    Limit,
    Run,
    Settled,
    ShardReport,
    list_executions,
    open_execution,
    rate_limit,
    unsettled,
)
from precalc_assets.executions.request_queue import pending_requests, put_request, read_request
from precalc_assets.executions.stepping import _conclude, read_state
from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import find_library, read_sample, require_shards
from precalc_assets.platform_errors import ExecutionError, PrecalcError
from precalc_assets.predictions.shard_manifest import find_manifest, manifest_name
from precalc_assets.settings import load_settings
from precalc_assets.sharding import format_shards

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RUN = Run(run_id=7, url="https://github.example/runs/7")
JOB = Job(name="Predict 00", url="", status="success", shards=("00",), queued_at=NOW, started_at=NOW, ended_at=NOW)
ODD = st.sampled_from(
    [
        *(None, True, -1, 0, 1.5, 1e308, 10**30, "", "..", "../../x", "a/b", "\x1b[2J", "\0", "ä" * 200, [], {}, [[]]),
        *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", "99", "٣", [""] * 9),
        *({"": ""}, {"00": []}, {"00": ["x"] * 9}, ["00", "00"], ["99"], ["x" * 3000]),
    ]
)

fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the content with a value replaced, or with bytes flipped, cut or inserted."""
    if draw(st.integers(0, 3)):
        value = json.loads(content)
        place: Any = value
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
                if draw(st.integers(0, 4)):
                    place[key] = draw(ODD)
                else:
                    del place[key]
                break
            place = place[key]
        return json.dumps(value).encode()
    at = draw(st.integers(0, len(content)))
    put = draw(st.sampled_from([b"", b"\0", b"\xff", b'"', b"[" * 500, b"{" * 500, b"9" * 5000, b"\\ud800", b","]))
    return content[:at] + put + content[at + draw(st.integers(0, 5)) :]


def only_own_errors(work: Callable[[], object]) -> None:
    """Do the work; it may raise the platform's errors of one line. Memory stays below 32 MB."""
    tracemalloc.start()
    try:
        work()
    except PrecalcError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2_000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 << 20


@pytest.fixture(scope="module")
def library_store(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    store = MemoryStore()
    source = tmp_path_factory.mktemp("library") / "molecules.smi"
    source.write_text("\n".join("C" * n for n in range(1, 30)) + "\n")
    build_library(store, source, n_shards=3, processes=1)
    return store


@fuzzed
@given(st.data())
def test_damaged_library_manifest(library_store: MemoryStore, data: st.DataObject) -> None:
    content = bytes(obstore.get(library_store, storage.LIBRARY_MANIFEST).bytes())
    damage = data.draw(damaged(content))

    def use() -> None:
        library = find_library(library_store)
        if library:
            require_shards(library, 3)
            read_sample(library_store, library, 20)

    obstore.put(library_store, storage.LIBRARY_MANIFEST, damage)
    try:
        only_own_errors(use)
    finally:
        obstore.put(library_store, storage.LIBRARY_MANIFEST, content)


@fuzzed
@given(st.data())
def test_damaged_manifest_of_a_shard(data: st.DataObject) -> None:
    simulation = Simulation()
    put_manifest(simulation.store, simulation.library, MODEL, "00", quarantined=3)
    manifest = find_manifest(simulation.store, MODEL, "00")
    assert manifest
    adopted = Adoption(computed_by=("v1",), molecules=5, different=1, example="x", compared_at=NOW)
    content = manifest.model_copy(update={"adopted": adopted}).model_dump_json().encode()
    obstore.put(simulation.store, manifest_name(MODEL, "00"), data.draw(damaged(content)))

    def use() -> None:
        simulation.engine().find_landed(MODEL, "00")
        found = find_manifest(simulation.store, MODEL, "00")
        assert found is None or (found.digest and found.computed_by and str(found.adopted))

    only_own_errors(use)


def records(execution: Execution) -> Iterator[tuple[str, bytes]]:
    """Yield a valid record of each kind, by its name."""
    claim = Claim(run=RUN, claimed_at=NOW)
    settled = Settled(
        conclusion="success", jobs=(JOB,), landed=("00",), unfinished=("01",), failures={"02": "why"}, settled_at=NOW
    )
    for slot, record in (
        (execution.intent_slot, execution.intent.model_copy(update={"reasons": {"00": ("why", "again")}})),
        (execution.dispatch(0), Dispatch(posted_at=NOW)),
        (execution.answer(0), Answer(message="busy", not_before=NOW)),
        (execution.run, RUN),
        (execution.claim, claim),
        (execution.follower, Follower(dagster_run="a")),
        (execution.cancellation, Cancellation(requested_at=NOW)),
        (execution.settled, settled),
        (execution.shard_report("00"), ShardReport(failure="why")),
        (rate_limit(execution.store), Limit(not_before=NOW, message="slow")),
    ):
        yield slot.name, record.model_dump_json().encode()


@fuzzed
@given(st.data())
def test_damaged_record_of_an_execution(data: st.DataObject) -> None:
    simulation = Simulation()
    store = simulation.store
    opened = open_execution(store, MODEL, simulation.library.digest, SHARDS, compute="github")
    assert opened
    named = dict(records(opened))
    wanted = data.draw(st.sampled_from(sorted(named)))
    for name in data.draw(st.sets(st.sampled_from(sorted(named)))) - {wanted}:
        obstore.put(store, name, named[name])
    obstore.put(store, wanted, data.draw(damaged(named[wanted])))
    now = datetime.now(UTC)
    status = RunStatus(run=RUN, conclusion="success", created_at=NOW, jobs=(JOB,))

    def use() -> None:
        execution = Execution(store, opened.key)
        for state in (read_state(execution),):
            for later in (now, now + timedelta(days=1)):
                next_action(state, later)
        _conclude(simulation.engine(), execution, Look(RUN, status))
        format_shards(execution.intent.shards)
        execution.take(RUN)
        settled = execution.settled.read()
        assert settled is None or retry_reasons(execution.intent, settled) is not None

    only_own_errors(use)
    only_own_errors(lambda: shards_to_retry(store, MODEL))
    only_own_errors(lambda: [each.intent.items for each in unsettled(store, MODEL)])
    assert [each.key for each in list_executions(store)] == [opened.key]


@fuzzed
@given(st.data())
def test_damaged_request(data: st.DataObject) -> None:
    store = MemoryStore()
    put = put_request(store, MODEL, 5)
    obstore.put(store, f"requests/{put.id}.json", data.draw(damaged(put.model_dump_json().encode())))
    for request_id in pending_requests(store):
        only_own_errors(lambda request_id=request_id: read_request(store, request_id))


@pytest.mark.parametrize("when", ["2026-01-01T00:00:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_time_that_cannot_be_compared_is_damage(when: str) -> None:
    simulation = Simulation()
    opened = open_execution(simulation.store, MODEL, simulation.library.digest, SHARDS, compute="github")
    assert opened
    for name, record in records(opened):
        content = json.loads(record)
        times = [key for key in content if key.endswith(("_at", "not_before"))]
        for key in times:
            obstore.put(simulation.store, name, json.dumps({**content, key: when}).encode())
            with pytest.raises(ExecutionError, match=f"{name} is damaged"):
                read_state(Execution(simulation.store, opened.key))
                Execution(simulation.store, opened.key).settled.read()
        obstore.put(simulation.store, name, record)


def test_object_that_is_far_too_large_is_not_read() -> None:
    store = MemoryStore()
    obstore.put(store, storage.LIBRARY_MANIFEST, b" " * (100 << 20))

    def use() -> None:
        with pytest.raises(PrecalcError, match="damaged"):
            find_library(store)

    only_own_errors(use)


SETTING = st.sampled_from(
    ["N_SHARDS", "BATCH_TIMEOUT", "TABLE_TAGS", "MODELS_DIR", "CACHE_DIR", "STORE_URL", "COMPUTE"]
)
LINE = st.builds("PRECALC_{}={}".format, SETTING, st.text(max_size=30) | st.sampled_from(["inf", "1e999", "9" * 5000]))


@fuzzed
@given(st.binary(max_size=200) | st.lists(LINE | st.text(max_size=30), max_size=5).map(lambda x: "\n".join(x).encode()))
def test_damaged_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)
    load_settings.cache_clear()
    try:
        only_own_errors(load_settings)
    finally:
        load_settings.cache_clear()

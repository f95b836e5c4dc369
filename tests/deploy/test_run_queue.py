"""The run queue in production: which runs Dagster's daemon starts under the limits of deploy/dagster.yaml."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from precalc_assets.definitions import build_defs
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings

GIVEN = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "dagster.yaml").read_text())
REPOSITORY = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("precalc"), "__repository__")

LIMITS = {**dict.fromkeys(("library", "inference", "validation", "tables"), 1), "executions": 20}
"""The limits of pools that docs/deploy.md sets."""


class Queue:
    """The daemon that starts queued runs, on an instance with production's settings and one slot in each pool."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.job = build_defs(Platform(Settings(compute="github", n_shards=2))).resolve_implicit_global_asset_job_def()
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)

    def submit(self, *assets: str, runs: int = 1) -> None:
        """Put runs over these assets into the queue."""
        for _ in range(runs):
            self.instance.create_run_for_job(
                self.job,
                asset_selection=frozenset(map(dg.AssetKey, assets)),
                status=dg.DagsterRunStatus.QUEUED,
                remote_job_origin=RemoteJobOrigin(REPOSITORY, "__ASSET_JOB"),
                tags={"assets": " ".join(assets)},
            )

    def start(self) -> Counter[str]:
        """Start what the daemon would, each run at its first step, and return how many runs of which assets started."""
        started = self.daemon._get_runs_to_dequeue(self.instance, self.instance.get_concurrency_config(), None)
        for run in started:
            self.instance.report_engine_event("started", run)
            self.instance.handle_run_event(run.run_id, _event(run, dg.DagsterEventType.RUN_START))
            [(pool, _)] = run.run_op_concurrency.root_key_counts.items()
            claimed = self.instance.event_log_storage.claim_concurrency_slot(pool, run.run_id, pool)
            assert claimed.is_claimed
        return Counter(run.tags["assets"] for run in started)


def _event(run: dg.DagsterRun, kind: dg.DagsterEventType) -> dg.DagsterEvent:
    return dg.DagsterEvent(kind.value, run.job_name)


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Iterator[Queue]:
    # A run that started just now counts for its pool by itself, for these seconds; here its slot is claimed already.
    monkeypatch.setenv("DAGSTER_OP_CONCURRENCY_KEYS_ALLOTTED_FOR_STARTED_RUN_SECONDS", "0")
    overrides = {"concurrency": GIVEN["concurrency"]}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        for pool in LIMITS:
            instance.event_log_storage.set_concurrency_slots(pool, 1)
        yield Queue(instance)


def test_waiting_runs_starve_neither_validation_nor_loading(queue: Queue):
    queue.submit("raw_predictions", runs=2)
    assert queue.start() == {"raw_predictions": 1}

    for asset in ("predictions", "prediction_table"):
        queue.submit(asset, runs=2)
    queue.submit("raw_predictions", "predictions", "prediction_table")

    assert queue.start() == {"predictions": 1, "prediction_table": 1}
    assert queue.start() == {}


def test_run_that_waits_for_github_holds_no_slot_downstream(queue: Queue):
    queue.submit("raw_predictions", "predictions", "prediction_table")
    assert queue.start().total() == 1

    queue.submit("predictions")
    queue.submit("prediction_table")

    assert queue.start() == {"predictions": 1, "prediction_table": 1}


@pytest.mark.parametrize("compute", ["local", "github"])
def test_limit_of_all_runs_is_above_the_sum_of_the_pools(compute: str):
    graph = build_defs(Platform(Settings(compute=compute))).resolve_asset_graph()
    pools = {key: graph.get(key).pools for key in graph.get_all_asset_keys()}
    assert all(len(names) == 1 for names in pools.values())
    limit = sum(LIMITS[name] for name in set().union(*pools.values()))
    assert limit < GIVEN["concurrency"]["runs"]["max_concurrent_runs"]

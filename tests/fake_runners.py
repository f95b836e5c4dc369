"""Fake GitHub runners, which do the work of the workflow's jobs in this process."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import obstore
from fake_github import FakeGitHub
from obstore.store import ObjectStore

from precalc_assets.executions.records import Execution, Run
from precalc_assets.inference.canary import run_canary
from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.inference.predict import predict_shards
from precalc_assets.library.library_manifest import LibraryManifest, read_manifest
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import RawManifest, manifest_name
from precalc_assets.settings import Settings


class FakeRunners:
    """Does the work of each run of the fake GitHub in its own thread.

    `fails` counts, by shard, how many more times it fails. Runs wait for `go_on` before they compute. A model in `half`
    waits for its event after half of its shards, and stops if it was cancelled by then. `computed` lists, by model and
    shard, the runs that computed it. Without `canary`, only requests for a sample run a canary.
    """

    def __init__(
        self, fake: FakeGitHub, store: ObjectStore, settings: Settings, open_backend: Callable[[str], ModelBackend]
    ) -> None:
        self.fails: Counter[str] = Counter()
        self.go_on = threading.Event()
        self.go_on.set()
        self.half: dict[str, threading.Event] = {}
        self.computed: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.canary = True
        self._fake = fake
        self._store = store
        self._settings = settings
        self._open_backend = open_backend
        fake.on_dispatch = self.run_workflow

    def run_workflow(self, inputs: dict[str, str], run_id: int) -> None:
        self._fake.begin_job(run_id, "Plan")
        self._fake.end_job(run_id, "Plan")
        self.go_on.wait(60)
        execution = Execution(self._store, inputs["key"])
        if not execution.take(Run(run_id=run_id, url="")):
            self._fake.end_run(run_id)
            return
        bad = self.compute(execution, run_id)
        if self._fake.runs[run_id].status != "completed":
            self._fake.end_run(run_id, "failure" if bad else "success")

    def compute(self, execution: Execution, run_id: int) -> bool:
        """Do the work of an execution's jobs. Return whether one failed."""
        intent = execution.intent
        bad = False
        if intent.sample or (self.canary and find_report(self._store, intent.model) is None):
            size = intent.sample or 20
            report = run_canary(self._store, read_manifest(self._store), intent.model, size, settings=self._settings)
            bad = bool(report.broken)
        good = [shard for shard in intent.shards if not self.fails[shard]]
        for shard in intent.shards:
            self._fake.begin_job(run_id, f"Predict {shard}")
            if shard not in good:
                self.fails[shard] -= 1
                execution.report(ShardOutcome(shard, failure="the model breaks today"))
        wait = self.half.get(intent.model)
        middle = len(good) // 2 if wait else len(good)
        self._predict(execution, run_id, good[:middle])
        if wait:
            wait.wait(120)
            if self._fake.runs[run_id].status == "completed":
                return True
            self._predict(execution, run_id, good[middle:])
        for shard in intent.shards:
            self._fake.end_job(run_id, f"Predict {shard}", "success" if shard in good else "failure")
        return bad or len(good) < len(intent.shards)

    def _predict(self, execution: Execution, run_id: int, shards: Sequence[str]) -> None:
        model = execution.model
        library = read_manifest(self._store)
        backend = self._open_backend(model)
        for outcome in predict_shards(
            self._store, library, model, backend, shards, settings=Settings(batch_size=50, max_failure_rate=0.1)
        ):
            self.computed[model, outcome.shard].append(run_id)
            execution.report(outcome)


def put_manifest(store: ObjectStore, library: LibraryManifest, model: str, shard: str, *, quarantined: int = 0) -> None:
    """Write the manifest of a shard without molecules, or with these that are all quarantined."""
    manifest = RawManifest(
        model=model,
        release="v1",
        shard=shard,
        shard_digest=library.shards[shard].digest,
        columns=(),
        parts=(),
        rows=quarantined,
        quarantined=quarantined,
        environment="framework-test",
        seconds=1.0,
        finished_at=datetime.now(UTC),
    )
    obstore.put(store, manifest_name(model, shard), manifest.model_dump_json().encode())

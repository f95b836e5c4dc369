"""Executions without time, network and models: only sleeping moves the clock, and runners work at its pace.

The real code launches and follows, over a store in memory. It can be stopped at any of its `points`: before and after
each record that it writes, and each run that it asks GitHub for.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import patch

import githubkit
import obstore
from fake_github import (
    BAD_GATEWAY,
    BAD_GATEWAY_DONE,
    DROPPED,
    DROPPED_DONE,
    FORBIDDEN,
    NOT_FOUND,
    REPOSITORY,
    SECONDARY,
    SECONDARY_BARE,
    TOKEN,
    TOO_MANY,
    UNAUTHORIZED,
    UNPROCESSABLE,
    USED_UP,
    FakeGitHub,
    FakeRun,
    Fault,
    RefusalError,
    github_settings,
)
from fake_runners import put_manifest
from fake_slurm import FakeSlurm
from obstore.store import MemoryStore

from precalc_assets import json_records
from precalc_assets.executions.compute_backend import (
    BackendError,
    ComputeBackend,
    Engine,
    LimitError,
    RefusedError,
    UnansweredError,
)
from precalc_assets.executions.following import follow
from precalc_assets.executions.github import GitHubBackend
from precalc_assets.executions.records import Compute, Execution, Intent, Job, Run
from precalc_assets.executions.slurm import SlurmBackend
from precalc_assets.library.library_manifest import LibraryManifest, ShardInfo
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.sharding import parse_shards, shard_keys

MODEL = "eos9abc"
SHARDS = tuple(shard_keys(4))
SETTINGS = github_settings()

_FAULTS: dict[type[BackendError], dict[str, Fault]] = {
    UnansweredError: {
        "502": BAD_GATEWAY,
        "502, done": BAD_GATEWAY_DONE,
        "dropped": DROPPED,
        "dropped, done": DROPPED_DONE,
    },
    LimitError: {
        "429": TOO_MANY,
        "403, used up": USED_UP,
        "403, secondary limit": SECONDARY,
        "403, secondary limit, no headers": SECONDARY_BARE,
    },
    RefusedError: {"401": UNAUTHORIZED, "403": FORBIDDEN, "404": NOT_FOUND, "422": UNPROCESSABLE},
}

MEANINGS = {name: (fault, kind) for kind, faults in _FAULTS.items() for name, fault in faults.items()}
"""Each fault, and the error that the backend raises for it. The backend's tests over HTTP check this table."""


class CrashError(BaseException):
    """The process is killed."""


class Simulation:
    """A store, a library of four shards, a backend, and machines that take a minute for a run's shards.

    `point` is called with the name of each point at which the launching process could die. `computed` holds by shard
    the runs that computed it, `fails` how many more runs fail it, and `no_time` how many more have no time for it,
    after they wrote a part if `writes_parts`. The jobs of `vanishing` shards are not listed in the end, and with
    `wrong_jobs` each job concludes the opposite. `each_time` is called as time passes.
    """

    def __init__(self, compute: Compute = "github", *, list_lag: float = 0.0) -> None:
        self.time = datetime.now(UTC)
        self.store = MemoryStore()
        self.compute = compute
        self.fake = (FakeSlurm if compute == "slurm" else FakeGitHub)(now=lambda: self.time)
        self.fake.list_lag = timedelta(seconds=list_lag)
        self.point: Callable[[str], None] | None = None
        self.computed: dict[str, list[int]] = defaultdict(list)
        self.fails: dict[str, int] = {}
        self.no_time: dict[str, int] = {}
        self.quarantined: dict[str, int] = {}
        self.writes_parts = True
        self.wrong_jobs = False
        self.vanishing: set[str] = set()
        self.each_time: Callable[[], None] = lambda: None
        self.seconds_to_begin = 5.0
        self.seconds_to_compute = 60.0
        self.said: list[str] = []
        self._process = threading.local()
        self._working = False
        self.library = _library()

    def follow(self) -> list[ShardOutcome]:
        """Have all shards computed."""
        return list(self.following())

    def following(self, dagster_run: str = "") -> Iterator[ShardOutcome]:
        """Follow all shards to their end."""
        return follow(self.engine(), MODEL, SHARDS, dagster_run=dagster_run)

    def engine(self, sleep: Callable[[float], None] | None = None) -> Engine:
        """Return an engine over GitHub without HTTP, or over the stand-in of SLURM's commands."""
        backend: ComputeBackend = DirectGitHub(self)
        if isinstance(self.fake, FakeSlurm):
            self.fake.reach = self.reach
            backend = SlurmBackend(SETTINGS, self.store, self.fake.run)
        return Engine(
            self.store,
            self.compute,
            lambda _: backend,
            self.library,
            SETTINGS,
            say=self.said.append,
            now=lambda: self.time,
            sleep=sleep or self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        """Let time pass, five seconds at a time, and the runners work."""
        until = self.time + timedelta(seconds=max(seconds, 1.0))
        while self.time < until:
            self.time = min(until, self.time + timedelta(seconds=5))
            self.work()
            self.each_time()

    def end_all_runs(self) -> None:
        """Let time pass until no run is under way, followed or not."""
        while any(run.status != "completed" for run in self.fake.runs.values()):
            self.sleep(60)

    def at(self, seconds: float, happen: Callable[[], object]) -> None:
        """Let something happen once, so many seconds from now, after what happens at each time anyway."""
        when, before, left = self.time + timedelta(seconds=seconds), self.each_time, [happen]

        def each_time() -> None:
            before()
            if left and self.time >= when:
                left.pop()()

        self.each_time = each_time

    def work(self) -> None:
        """Let each run begin or end if it is time."""
        self._working = True
        try:
            self._work()
        finally:
            self._working = False

    def _work(self) -> None:
        for run in list(self.fake.runs.values()):
            age = (self.time - run.created_at).total_seconds()
            if run.status == "queued" and age >= self.seconds_to_begin:
                self.begin(run)
            elif run.status == "in_progress" and age >= self.seconds_to_begin + self.seconds_to_compute:
                self.end(run)

    def begin(self, run: FakeRun) -> None:
        """Let a run claim its execution, and begin to compute if it may."""
        self.fake.begin_run(run.id)
        if not Execution(self.store, run.inputs["key"]).take(Run(run_id=run.id, url="")):
            self.fake.end_run(run.id)
            return
        for shard in _shards(run):
            self.fake.begin_job(run.id, f"Predict {shard}")

    def end(self, run: FakeRun) -> None:
        """Let a run's jobs end, with a manifest, a reason or neither."""
        conclusions = set()
        for shard in _shards(run):
            self.computed[shard].append(run.id)
            fails, stops = self.fails.get(shard, 0) > 0, self.no_time.get(shard, 0) > 0
            if fails:
                self.fails[shard] -= 1
            elif stops:
                self.no_time[shard] -= 1
                Execution(self.store, run.inputs["key"]).report(ShardOutcome(shard, unfinished=True))
                if self.writes_parts:
                    obstore.put(self.store, f"raw/model={MODEL}/shard={shard}/part-{run.id}.csv.gz", b"")
            else:
                self.put_manifest(shard)
                if self.quarantined.get(shard):
                    outcome = ShardOutcome(shard, failure="too many", models_fault=True)
                    Execution(self.store, run.inputs["key"]).report(outcome)
            conclusion = "failure" if fails != self.wrong_jobs else "success"
            self.fake.end_job(run.id, f"Predict {shard}", conclusion)
            if shard in self.vanishing:
                del run.jobs[f"Predict {shard}"]
            conclusions.add(conclusion)
        self.fake.end_run(run.id, "failure" if "failure" in conclusions else "success")

    def put_manifest(self, shard: str) -> None:
        """Write a shard's manifest."""
        put_manifest(self.store, self.library, MODEL, shard, quarantined=self.quarantined.get(shard, 0))

    @contextmanager
    def watched(self, point: Callable[[str], None]) -> Iterator[None]:
        """Call `point` at each point of the processes within the context; it may raise CrashError."""

        def put(store: object, name: str, *arguments: object, **options: object) -> object:
            if self._working:
                return obstore.put(store, name, *arguments, **options)
            self.reach(f"before {name}")
            result = obstore.put(store, name, *arguments, **options)
            self.reach(f"after {name}")
            return result

        shim = SimpleNamespace(**{name: getattr(obstore, name) for name in obstore.__all__})
        shim.put = put
        self.point, self._process.dead = point, False
        try:
            with patch.object(json_records, "obstore", shim):
                yield
        finally:
            self.point, self._process.dead = None, False

    @property
    def dead(self) -> bool:
        """Whether the calling process, a thread, is dead."""
        return getattr(self._process, "dead", False)

    def reach(self, point: str) -> None:
        """Tell that the process is at this point. A dead process does nothing more."""
        if self.dead:
            raise CrashError(point)
        if self.point:
            try:
                self.point(point)
            except CrashError:
                self._process.dead = True
                raise


class DirectGitHub(GitHubBackend):
    """The backend without HTTP: the fake answers its requests at once."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(SETTINGS, githubkit.TokenAuthStrategy(TOKEN), ())
        self._simulation = simulation

    def read_log(self, intent: Intent, job: Job) -> str:
        return "the end of its log"

    def _ask(self, method: str, path: str, *, params: dict[str, str] | None = None, json: object = None) -> object:
        changes = "cancel" if path.endswith("cancel") else method
        if method == "POST":
            self._simulation.reach(f"before {changes}")
        if self._simulation.dead:
            raise CrashError
        try:
            _, answer = self._simulation.fake.answer(method, f"/repos/{REPOSITORY}{path}", params or {}, json or {})
        except RefusalError as refusal:
            raise _meaning(refusal.fault) from None
        if method == "POST":
            self._simulation.reach(f"after {changes}")
        return answer


def _meaning(fault: Fault) -> BackendError:
    kind = next((kind for known, kind in MEANINGS.values() if known == fault), RefusedError)
    if kind is LimitError:
        return LimitError(fault.message, timedelta(seconds=int(fault.headers.get("retry-after", 60))))
    return RefusedError(fault.message, fault.status or 0) if kind is RefusedError else UnansweredError(fault.message)


def _shards(run: FakeRun) -> list[str]:
    """Return the shards of a run; a sample has none."""
    return parse_shards(run.inputs["shards"], len(SHARDS)) if "shards" in run.inputs else []


def _library() -> LibraryManifest:
    return LibraryManifest(
        source="library.smi",
        source_file="",
        source_sha256="",
        rejected_file="library/rejected-0.csv",
        other_forms_file="library/other_forms-0.csv",
        n_shards=len(SHARDS),
        rows=1,
        rejected=1,
        duplicates=0,
        other_forms=0,
        molecules=0,
        rdkit="2026.9.1",
        digest="library",
        built_at=datetime.now(UTC),
        seconds=0.0,
        shards={shard: ShardInfo(rows=0, digest=f"{int(shard):064x}", bytes=0) for shard in SHARDS},
    )

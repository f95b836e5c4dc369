"""A site with a real SLURM cluster: a world whose models run in its jobs, by `precalc jobs`."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from slurm_cluster import SlurmCluster, install_precalc, slurm_settings

from precalc_assets.executions.compute_backend import Engine
from precalc_assets.executions.following import follow
from precalc_assets.executions.records import Execution, list_executions
from precalc_assets.executions.slurm import SlurmBackend, open_slurm
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform import Platform
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys

MODEL = "eos9abc"
SHARDS = shard_keys(4)

_FASTER = 5
"""How much faster the follower's clock goes than the cluster's, so that nobody waits long for its next look."""


class FastClock:
    """A clock that goes faster than the cluster's from now on."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC)

    def now(self) -> datetime:
        real = datetime.now(UTC)
        return real + (real - self._began) * (_FASTER - 1)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / _FASTER)


class Site:
    """A world, and the cluster on which its shards are computed."""

    def __init__(self, world, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.cluster = cluster
        self.folder: Path = world.root / "jobs"
        self.said: list[str] = []
        self._clock = FastClock()
        install_precalc(self.folder)
        for name, value in {**world.environment, **cluster.environment, "PRECALC_BATCH_SIZE": "1000"}.items():
            monkeypatch.setenv(name, value)

    def settings(self, **more: object) -> Settings:
        return Settings(_env_file=None, compute="slurm", **slurm_settings(self.folder, **more))

    def engine(self, **more: object) -> Engine:
        """Return an engine whose clock goes faster."""
        engine = Platform(self.settings(**more)).engine(self.said.append)
        return replace(engine, now=self._clock.now, sleep=self._clock.sleep)

    def backend(self, **more: object) -> SlurmBackend:
        return open_slurm(self.settings(**more), self.world.store)

    def following(self, shards: Sequence[str] = SHARDS, **more: object) -> Iterator[ShardOutcome]:
        return follow(self.engine(**more), MODEL, shards)

    def follow(self, shards: Sequence[str] = SHARDS, **more: object) -> dict[str, ShardOutcome]:
        return {outcome.shard: outcome for outcome in self.following(shards, **more)}

    def follower(self, following: Iterator[ShardOutcome] | None = None) -> "Follower":
        """Follow all shards in a thread, while the test does something to their jobs."""
        return Follower(self, following or self.following())

    def executions(self) -> list[Execution]:
        return list_executions(self.world.store)

    def squeue(self, form: str, *options: str) -> list[str]:
        return self.cluster.run("squeue", "--noheader", "--array", f"--format={form}", *options).split("\n")[:-1]

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return the processes of this site whose command has these words after each other."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line, variables = process.info["cmdline"] or [], process.info["environ"] or {}
            is_ours = variables.get("SLURM_CONF") == self.cluster.environment["SLURM_CONF"]
            if is_ours and any(tuple(line[i : i + len(words)]) == words for i in range(len(line))):
                found.append(process)
        return found

    def wait_for(self, condition: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.squeue("%i %j %T %r"), self.said)
            time.sleep(0.1)


class Follower(threading.Thread):
    """A thread that follows shards to their end."""

    def __init__(self, site: Site, following: Iterator[ShardOutcome]) -> None:
        super().__init__(daemon=True)
        self._site, self._following = site, following
        self._outcomes: dict[str, ShardOutcome] = {}
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcomes = {outcome.shard: outcome for outcome in self._following}
        except Exception as error:  # noqa: BLE001 - it is raised in the test's own thread
            self._error = error

    def end(self, *, may_fail: bool = False) -> dict[str, ShardOutcome]:
        """Wait for the end, and return the outcomes."""
        self.join(200)
        assert not self.is_alive(), self._site.said
        if self._error:
            raise self._error
        assert may_fail or all(outcome.landed for outcome in self._outcomes.values()), self._outcomes
        return self._outcomes

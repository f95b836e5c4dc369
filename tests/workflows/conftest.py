"""Running the project's workflow by act, without Docker, in a test's world."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_github import FakeGitHub

from precalc_assets.library.build import build_library
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.models.environment import model_environment
from precalc_assets.models.folder import find_model
from precalc_assets.predictions.canary_report import find_report, put_report

PROJECT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
PREDICT_PARALLEL = PROJECT / ".github" / "workflows" / "predict-parallel.yml"


class Workshop:
    """A world and a stand-in for GitHub that runs `predict-parallel.yml` in it."""

    def __init__(self, world, root: Path, n_shards: int, molecules: list[str]) -> None:
        self.world = world
        self.n_shards = n_shards
        self.runs = 0
        self.variables = {
            **{name: world.environment[name] for name in ("PRECALC_STORE_URL", "PRECALC_TABLES_URL")},
            "PRECALC_N_SHARDS": str(n_shards),
            # Lets a model that fails on one shard in five pass the canary, whose sample is the whole library.
            "PRECALC_MAX_FAILURE_RATE": "0.4",
            "PRECALC_MODEL_BACKEND": "framework",
            "PRECALC_MODELS_DIR": str(world.models_dir),
        }
        self._root = root
        source = world.root / "library.smi"
        source.write_text("\n".join(molecules) + "\n")
        self.library: LibraryManifest = build_library(world.store, source, n_shards=n_shards, processes=1)
        world.write_model()
        # Makes the environment here, with the installer's cache: act's jobs have another home folder.
        model_environment(find_model("eos9abc", [world.models_dir]), world.cache_dir)

    def take_hours(self, hours: float) -> None:
        """Run the canary, and let its report estimate so many hours; each of the workflow's jobs takes one."""
        settings = {"n_shards": str(self.n_shards), "max_failure_rate": "0.4"}
        done = self.world.precalc("predict", "eos9abc", "--sample", "100", **settings)
        assert done.returncode == 0, done.stderr
        report = find_report(self.world.store, "eos9abc")
        run = report.run.model_copy(update={"runner_hours": hours})
        put_report(self.world.store, report.model_copy(update={"run": run}))

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Dispatch the workflow like GitHub and wait for its end; names of inputs have underscores."""
        self.runs += 1
        command, surroundings = self._act({name.replace("_", "-"): value for name, value in inputs.items()}, self.runs)
        return subprocess.run(command, **surroundings, capture_output=True, timeout=280, check=False)

    def run_for(self, fake: FakeGitHub, inputs: dict[str, str], run_id: int) -> str:
        """Run a dispatched run of the fake GitHub, report each job's state to it, and return the output."""
        command, surroundings = self._act(inputs, run_id - 1000)
        said: list[str] = []
        with subprocess.Popen(
            [*command, "--json"], **surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as act:
            for text in act.stdout:
                line = json.loads(text) if text.startswith("{") else {"msg": text}
                said.append(line["msg"])
                if "jobID" in line and not line.get("dryrun"):
                    name = _job_name(line)
                    if name not in fake.runs[run_id].jobs:
                        fake.begin_job(run_id, name)
                    if "jobResult" in line:
                        fake.end_job(run_id, name, line["jobResult"])
        fake.end_run(run_id, "failure" if act.returncode else "success")
        return "\n".join(said)

    def _act(self, inputs: dict[str, str], number: int) -> tuple[list[str], dict]:
        """Return a run's command and the arguments of its process."""
        event = self._root / f"event-{number}.json"
        event.write_text(json.dumps({"inputs": inputs}))
        command = [str(TOOLS / "act"), "workflow_dispatch", "-W", str(PREDICT_PARALLEL), "-e", str(event)]
        command += ["-P", "ubuntu-latest=-self-hosted", "--no-cache-server"]
        command += ["--env", f"GITHUB_RUN_ID={1000 + number}", "--env", f"PRECALC_RUN_ID={1000 + number}"]
        command += [word for name, value in self.variables.items() for word in ("--var", f"{name}={value}")]
        environment = {
            **self.world.environment,
            "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
            "DOCKER_HOST": "unix:///nonexistent.sock",
            "XDG_CACHE_HOME": str(self._root / "cache"),
        }
        return command, {"env": environment, "cwd": PROJECT, "text": True}

    def landed(self, model: str = "eos9abc") -> list[str]:
        """Return the shards that have a manifest."""
        names = self.world.objects(f"raw/model={model}")
        return sorted(name.split("shard=")[1][:2] for name in names if name.endswith("manifest.json"))


def _job_name(line: dict) -> str:
    """Return GitHub's name of a job, without the matrix number that act adds."""
    kind = line["job"].partition("/")[2].strip()
    return f"{kind.partition(' ')[0]} {line['matrix']['shards']}" if line["matrix"] else kind


@pytest.fixture
def new_workshop(new_world, tmp_path: Path) -> Callable[[int, list[str]], Workshop]:
    """A function that makes a workshop with a number of shards of these molecules."""
    return lambda n_shards, molecules: Workshop(new_world("world"), tmp_path, n_shards, molecules)

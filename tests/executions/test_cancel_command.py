"""`precalc executions cancel` ends the run on GitHub, and tells which shards have landed."""

import pytest
from fake_github import FakeGitHub, github_settings

from precalc_assets.cli.executions_commands import cancel
from precalc_assets.executions.following import shards_to_retry
from precalc_assets.executions.records import Run, open_execution
from precalc_assets.platform_errors import ExecutionError

MODEL = "eos9abc"


@pytest.fixture
def key(world, served: str, fake: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of an execution whose run is at work, with settings for cancelling it in the environment."""
    library = world.build_library()
    execution = open_execution(world.store, MODEL, library.digest, list(library.shards), compute="github")
    assert execution is not None
    run_id = fake.dispatch("main", {"model-id": MODEL, "key": execution.key})
    execution.run.put(Run(run_id=run_id, url="https://github.com/runs/1001"))
    github = github_settings(served)
    settings = world.environment | {
        "PRECALC_GITHUB_API_URL": served,
        "PRECALC_GITHUB_REPOSITORY": github.github_repository,
        "PRECALC_GITHUB_TOKEN": github.github_token.get_secret_value(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.root)
    return execution.key


def test_cancel_command_ends_the_run_for_good(key, world, fake, capsys) -> None:
    cancel(key)
    assert [run.conclusion for run in fake.runs.values()] == ["cancelled"]
    assert capsys.readouterr().out.endswith(f"{key}: cancelled by precalc; 0 shards have landed and stay\n")
    assert shards_to_retry(world.store, MODEL) == {}
    with pytest.raises(ExecutionError, match=f"{key} is over"):
        cancel(key)
    with pytest.raises(ExecutionError, match="there is no execution eos9abc-0009"):
        cancel(f"{MODEL}-0009")

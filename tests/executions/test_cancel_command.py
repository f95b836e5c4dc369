"""`precalc github cancel`: it ends the run on GitHub, once, and says what is there."""

import pytest
from conftest import github_settings
from fake_github import FakeGitHub

from precalc_assets.cli.github import cancel
from precalc_assets.errors import ExecutionError
from precalc_assets.executions import records
from precalc_assets.executions.following import shards_to_try_again

MODEL = "eos9abc"


@pytest.fixture
def key(world, served: str, fake: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of an execution whose run is at work, and the settings of whoever cancels it."""
    library = world.build_library()
    intent = records.open_execution(world.store, MODEL, library.digest, list(library.shards))
    assert intent is not None
    run_id = fake.dispatch("main", {"model-id": MODEL, "key": intent.key})
    records.put_run(world.store, intent.key, records.Run(run_id=run_id, url="https://github.com/runs/1001"))
    github = github_settings(served)
    settings = world.environment | {
        "PRECALC_GITHUB_API_URL": served,
        "PRECALC_GITHUB_REPOSITORY": github.github_repository,
        "PRECALC_GITHUB_TOKEN": github.github_token.get_secret_value(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.root)
    return intent.key


def test_cancelling_by_command_ends_the_run_for_good(key, world, fake, capsys) -> None:
    cancel(key)
    assert [run.conclusion for run in fake.runs.values()] == ["cancelled"]
    assert capsys.readouterr().out.endswith(f"{key}: cancelled by precalc; 0 shards have landed and stay\n")
    assert shards_to_try_again(world.store, MODEL) == {}
    with pytest.raises(ExecutionError, match=f"{key} is over"):
        cancel(key)
    with pytest.raises(ExecutionError, match="there is no execution eos9abc-0009"):
        cancel(f"{MODEL}-0009")

"""What the tests of executions share: settings that name the fake, and a client of it."""

from collections.abc import Callable, Iterator

import pytest
from fake_github import REPOSITORY, TOKEN, FakeGitHub

from precalc_assets.executions.github import GitHubClient, open_github
from precalc_assets.settings import Settings


def github_settings(url: str = "http://127.0.0.1:9", **more: object) -> Settings:
    """Return settings for the fake at an address, and none of whoever runs the tests."""
    named = {"github_repository": REPOSITORY, "github_token": TOKEN, "github_api_url": url, "n_shards": 4}
    return Settings(_env_file=None, **{**named, **more})


@pytest.fixture
def fake() -> FakeGitHub:
    """A GitHub that does what it is asked for at once."""
    return FakeGitHub()


@pytest.fixture
def served(fake: FakeGitHub) -> Iterator[str]:
    """The address of the fake."""
    with fake.serving() as url:
        yield url


@pytest.fixture
def client(served: str) -> GitHubClient:
    """A client of the fake that tries reads again at once."""
    return open_github(github_settings(served), read_pauses=(0.01, 0.01))


@pytest.fixture
def open_client(served: str) -> Callable[..., GitHubClient]:
    """A function that opens clients of the fake with other settings."""
    return lambda **settings: open_github(github_settings(served, **settings), read_pauses=(0.01, 0.01))

"""Shared by the tests of executions: the fake GitHub, and backends that ask it over HTTP."""

from collections.abc import Callable, Iterator

import pytest
from fake_github import FakeGitHub, github_settings

from precalc_assets.executions.github import GitHubBackend, open_github


@pytest.fixture
def fake() -> FakeGitHub:
    """A GitHub that does everything at once."""
    return FakeGitHub()


@pytest.fixture
def served(fake: FakeGitHub) -> Iterator[str]:
    """The address of the fake."""
    with fake.serving() as url:
        yield url


@pytest.fixture
def backend(served: str) -> GitHubBackend:
    """A backend over the fake, which retries reads at once."""
    return open_github(github_settings(served), read_pauses=(0.01, 0.01))


@pytest.fixture
def open_backend(served: str) -> Callable[..., GitHubBackend]:
    """A function that opens backends over the fake with other settings."""
    return lambda **settings: open_github(github_settings(served, **settings), read_pauses=(0.01, 0.01))

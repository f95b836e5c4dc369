"""A disk on which no file can grow, for tests of what is written."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@pytest.fixture
def no_room() -> Callable[[int], AbstractContextManager[None]]:
    """While it lasts, no file can be written behind so many bytes: it fails there as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))

    return limited

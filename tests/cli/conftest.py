"""Fixtures for tests of commands."""

import pytest


@pytest.fixture
def served(world):
    """A world with a model's predictions in the table."""
    world.write_model()
    world.build_library()
    for outcome in [*world.predict(), *world.validate(), *world.load()]:
        assert not outcome.failure
    return world

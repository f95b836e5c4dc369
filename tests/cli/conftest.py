"""What tests of commands share."""

import pytest


@pytest.fixture
def served(world):
    """A world in which a model's predictions are in the table."""
    world.write_model()
    world.build_library()
    for outcome in [*world.predict(), *world.validate(), *world.load()]:
        assert not outcome.failure
    return world

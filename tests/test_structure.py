"""The layout of the code, as far as import-linter cannot check it."""

from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DAGSTERS_OWN = {"assets", "checks", "sensors"}
"""Module names that Dagster's users expect in every folder."""


def test_no_two_modules_share_a_name() -> None:
    modules = [*PROJECT.glob("precalc_assets/**/*.py"), *PROJECT.glob("client/precalc/**/*.py")]
    counted = Counter(path.stem for path in modules if path.stem != "__init__")
    assert {name for name, count in counted.items() if count > 1} <= DAGSTERS_OWN

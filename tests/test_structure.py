"""How the code is laid out: what import-linter cannot say."""

from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DAGSTERS_OWN = {"assets", "checks", "sensors"}
"""Names that Dagster's users look for in every folder."""


def test_no_two_modules_share_a_name() -> None:
    modules = [*PROJECT.glob("precalc_assets/**/*.py"), *PROJECT.glob("client/precalc/**/*.py")]
    counted = Counter(path.stem for path in modules if path.stem != "__init__")
    assert {name for name, count in counted.items() if count > 1} <= DAGSTERS_OWN

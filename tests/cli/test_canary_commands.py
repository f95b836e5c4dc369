"""The canary by command: its report, the runs that it prevents, and its warnings to readers."""

import re
import shutil
from pathlib import Path

import dagster as dg
import pytest

from precalc_assets.cards.model_card import find_card
from precalc_assets.cards.publishing import make_card
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.settings import Settings
from precalc_assets.tables import REGISTRY, Item

pytestmark = pytest.mark.slow

MODEL = "eos9abc"
PROJECT = Path(__file__).parents[2]
RANDOM = "import random\nreturn f'{random.random()},{len(smiles)},x'"


@pytest.fixture
def home(world) -> Path:
    """A world with a small library, and a Dagster instance."""
    (world.root / "molecules.smi").write_text("\n".join("C" * n + end for n in range(1, 9) for end in "ONS"))
    assert world.precalc("library", "build", "molecules.smi").returncode == 0
    folder = world.root / "dagster_home"
    folder.mkdir()
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", folder)
    return folder


def recorded(home: Path, asset: str) -> list[str | None]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
        return sorted(str(record.partition_key) for record in records)


def logged(home: Path) -> list[str]:
    """Return the log of all runs."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return [entry.user_message for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]


def lines(text: str) -> dict[str, str]:
    """Return a printed table's rows by their first word, single-spaced."""
    return {words[0]: " ".join(words[1:]) for words in map(str.split, text.splitlines()) if words}


@pytest.mark.parametrize("command", ["predict", "run"])
def test_a_sample_prints_what_it_found_out(world, home, command: str):
    world.write_model()

    done = world.precalc(command, MODEL, "--sample", "12", columns="160")

    assert done.returncode == 0, done.stderr
    said = lines(done.stdout)
    assert said["canary"] == f"of {MODEL} v1.0.0: A model for tests"
    assert said["molecules"] == "12, twice; 0 quarantined"
    assert said["deterministic"] in ("yes", "passed both runs predicted the same")
    assert "with 5 per call, the best size tried" in done.stdout
    assert "runner-hours, $0.00" in said["24"]
    assert "write units" in said["their"]
    assert said["atoms"].startswith("integer integer 0 ")
    assert said["schema"] == "passed 3 columns as run_columns.csv declares them"
    assert not world.objects("raw")
    assert recorded(home, "sample_predictions") == ([MODEL] if command == "run" else [])


@pytest.mark.parametrize("command", ["predict", "run"])
def test_report_of_a_failed_canary_is_printed_before_the_error(world, home, command: str):
    world.write_model()

    done = world.precalc(command, MODEL, "--sample", "12", max_runner_hours="1e-9", columns="200")

    assert done.returncode == 1
    assert lines(done.stdout)["estimate"].startswith("failed")
    assert re.search(rf"^error: {MODEL} estimate: [\d.]+ runner-hours for 24 molecules", done.stderr, re.MULTILINE)
    assert "PRECALC_MAX_RUNNER_HOURS" in done.stderr
    assert "Traceback" not in done.stderr
    assert recorded(home, "sample_predictions") == []


def test_run_tries_only_a_release_that_has_passed_no_canary(world, home):
    world.write_model()
    assert world.precalc("predict", MODEL, "--sample", "24").returncode == 0
    tried = find_report(world.store, MODEL)
    done = world.precalc("run", MODEL, "--shards", "00")
    assert done.returncode == 0
    assert f"raw_predictions {MODEL}: 1 materialized" in done.stderr
    assert find_report(world.store, MODEL) == tried
    assert recorded(home, "sample_predictions") == [MODEL]  # the run records the canary that was run without Dagster

    world.write_model(release="v2.0.0")
    assert world.precalc("run", MODEL, "--shards", "00").returncode == 0
    assert find_report(world.store, MODEL).release == "v2.0.0"
    assert recorded(home, "sample_predictions") == [MODEL, MODEL]


def test_small_canary_does_not_spare_a_run_the_full_one(world, home):
    world.write_model()
    assert world.precalc("predict", MODEL, "--sample", "1").returncode == 0
    assert world.precalc("run", MODEL, "--shards", "00").returncode == 0
    assert recorded(home, "sample_predictions") == [MODEL]


def test_small_canary_does_not_spare_an_execution_the_full_one(world, home):
    world.write_model()
    assert world.precalc("predict", MODEL, "--sample", "1").returncode == 0
    planned = world.precalc("jobs", "plan", MODEL, run_id="7").stdout.splitlines()
    (key,) = [line.removeprefix("key=") for line in planned if line.startswith("key=")]

    assert "canary of" in world.precalc("jobs", "canary", key, run_id="7").stdout
    assert "this release has passed it" in world.precalc("jobs", "canary", key, run_id="7").stderr


def test_making_an_environment_is_printed_and_logged_once(world, home, tmp_path: Path):
    world.write_model()
    said = f"making the environment of {MODEL} (once)"
    done = world.precalc("run", MODEL, "--sample", "1", cache_dir=str(tmp_path / "cache"))
    assert done.stderr.count(said) == 1
    assert logged(home).count(said) == 1


def test_run_stops_after_a_failed_canary(world, home):
    world.write_model(answer="return 'high,1,x'")

    done = world.precalc("run", MODEL)

    assert done.returncode == 1
    assert f"{MODEL} schema: no cell of score is of its column's type: score is 'high'" in done.stderr
    assert not world.objects("raw")
    assert recorded(home, "raw_predictions") == []

    world.write_model()
    assert world.precalc("run", MODEL).returncode == 0
    assert len(recorded(home, "raw_predictions")) == 4


def test_readers_learn_without_the_folder_that_predictions_vary(world, home):
    world.write_model(answer=RANDOM)
    assert world.precalc("run", MODEL).returncode == 0

    got = world.precalc("get", MODEL, "CCO")

    assert got.returncode == 0
    assert got.stderr == f"warning: predictions of {MODEL} vary between runs, in score\n"
    assert len(got.stdout.splitlines()) == 2
    assert "predictions vary between runs, in score" in world.precalc("status", MODEL).stdout
    shutil.rmtree(world.models_dir / MODEL)
    assert lines(world.precalc("models", columns="200").stdout)[MODEL] == "A model for tests 3 v1.0.0 4/4 24 no"


def test_readers_learn_that_the_answered_molecules_vary(world, home):
    tired = "if smiles == 'CCO' and len(given) < 24: sys.exit('tired')\n"
    world.write_model(answer=tired + "return f'{len(smiles)},1,x'")
    settings = {"batch_size": "24", "max_failure_rate": "0.5"}

    assert world.precalc("run", MODEL, **settings).returncode == 0

    told = "vary between runs, in which molecules are answered"
    assert f"predictions {told}" in world.precalc("status", MODEL).stdout
    assert world.precalc("get", MODEL, "CCN").stderr == f"warning: predictions of {MODEL} {told}\n"


def test_deterministic_or_untested_model_has_no_warning(world, home):
    world.write_model()
    for command in ("predict", "load"):
        assert world.precalc(command, MODEL).returncode == 0
    assert world.precalc("get", MODEL, "CCO").stderr == ""
    assert lines(world.precalc("models", columns="200").stdout)[MODEL].endswith(" –")
    assert f"canary: not run; run `precalc predict {MODEL} --sample 100`" in world.precalc("status", MODEL).stdout

    assert world.precalc("run", MODEL).returncode == 0
    assert world.precalc("get", MODEL, "CCO").stderr == ""
    assert lines(world.precalc("models", columns="200").stdout)[MODEL].endswith(" yes")
    assert "canary of v1.0.0: passed" in world.precalc("status", MODEL).stdout


def test_readers_are_told_of_variation_without_dagster(world, home):
    world.write_model(answer=RANDOM)
    printed = world.precalc("predict", MODEL, "--sample", "12", columns="160").stdout
    for words in ("of its largest process", "bytes per molecule", "example"):
        assert words in printed
    for command in ("predict", "load"):
        assert world.precalc(command, MODEL).returncode == 0
    assert world.precalc("get", MODEL, "CCO").stderr == f"warning: predictions of {MODEL} vary between runs, in score\n"
    card = find_card(world.tables, MODEL)
    assert (card.metadata.title, card.covered, card.varying) == ("A model for tests", True, ("score",))
    assert card.example.startswith("the model has no example")
    assert card.peak_memory > 1 << 20
    assert card.bytes_per_molecule > 5
    assert card.seconds_per_molecule > 0


def test_model_that_declares_variation_needs_no_canary_for_it(world):
    folder = world.write_model()
    with (folder / "metadata.yml").open("a") as file:
        file.write("Output Consistency: Variable\n")
    world.build_library()
    assert all(outcome.landed for outcome in (*world.predict(), *world.validate(), *world.load()))
    card = make_card(world.store, world.tables, MODEL, Settings(models_dir=str(world.models_dir)))
    assert (card.deterministic, card.varying) == (False, ("score", "atoms", "label"))


def test_serving_a_model_that_nothing_describes_says_so(world, home):
    world.write_model()
    assert world.precalc("predict", MODEL).returncode == 0
    shutil.rmtree(world.models_dir / MODEL)
    done = world.precalc("load", MODEL)
    assert done.returncode == 1
    assert f"loaded, but the card of {MODEL} is not published: " in done.stderr
    assert world.precalc("get", MODEL, "CCO").returncode == 0


def test_a_damaged_card_keeps_nobody_from_reading(world, home):
    world.write_model()
    for outcome in (*world.predict(), *world.validate(), *world.load()):
        assert outcome.landed
    world.tables.create_table(REGISTRY)
    world.tables.put_many(REGISTRY, [Item(MODEL, b"{")])
    got = world.precalc("get", MODEL, "CCO")
    assert (got.returncode, len(got.stdout.splitlines())) == (0, 2)
    assert got.stderr.startswith(f"warning: the card of {MODEL} is damaged")

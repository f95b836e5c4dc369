"""The canary's verdict on models that are good, random, silent, wrong, wide, or too slow for the library."""

import math
import time
from typing import ClassVar

import polars as pl
import pytest

from precalc.progress import OnProgress, ignore_progress
from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.inference.canary import Canary, run_canary
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.run_estimate import Call, estimate_run, measure_speed
from precalc_assets.library.library_manifest import read_manifest, read_sample
from precalc_assets.models.folder import find_model
from precalc_assets.platform_errors import ColumnsError, ModelError
from precalc_assets.predictions.canary_report import CANARY_CHECKS, CanaryReport, find_report
from precalc_assets.predictions.parquet import copy_predictions, open_parquet
from precalc_assets.settings import Settings
from precalc_assets.sharding import shard_keys
from precalc_assets.tables.store import DOLLARS_PER_WRITE_UNIT

MODEL = "eos9abc"
SIZE = 20
PRINT = 'write("\\n".join([HEADER, *map(answer, given)]) + "\\n")'
TWO = (("score", "float"), ("atoms", "integer"))


def run(world, size: int = SIZE, on_progress: OnProgress = ignore_progress, **settings) -> CanaryReport:
    """Run the canary on a world's model; build the library if it is missing."""
    if not world.objects("library"):
        world.build_library()
    chosen = Settings(models_dir=str(world.models_dir), cache_dir=world.cache_dir, **settings)
    return run_canary(world.store, read_manifest(world.store), MODEL, size, settings=chosen, on_progress=on_progress)


def checks(report: CanaryReport) -> dict[str, bool]:
    return {check.name: check.passed for check in report.checks}


def said(report: CanaryReport, name: str) -> str:
    [description] = [check.description for check in report.checks if check.name == name]
    return description


def column(report: CanaryReport, name: str):
    [found] = [column for column in report.columns if column.name == name]
    return found


def sample(world) -> pl.DataFrame:
    name = f"samples/model={MODEL}.parquet"
    with copy_predictions(world.store, name) as copy, open_parquet(copy.path, name) as (parquet, _):
        return pl.DataFrame(pl.from_arrow(parquet.read()))


def first_molecules(world, size: int = SIZE) -> list[str]:
    return read_sample(world.store, read_manifest(world.store), size)["smiles"].to_pylist()


def test_a_good_model_passes_and_leaves_sample_and_report(world):
    world.write_model()

    report = run(world)

    assert checks(report) == dict.fromkeys(CANARY_CHECKS, True)
    assert (report.model, report.release, report.metadata.title) == (MODEL, "v1.0.0", "A model for tests")
    assert (report.molecules, report.quarantined, report.unsteady) == (SIZE, 0, 0)
    assert (report.deterministic, report.broken) == (True, ())
    assert {name for name in world.objects() if not name.startswith("library")} == {
        f"samples/model={MODEL}.json",
        f"samples/model={MODEL}.parquet",
    }
    assert find_report(world.store, MODEL) == report


def test_the_sample_has_the_first_molecules_by_hash(world):
    world.write_model()
    run(world)
    assert sample(world)["smiles"].to_list() == first_molecules(world)
    assert sample(world)["label"].to_list() == first_molecules(world)


def test_each_molecule_is_run_twice_with_different_neighbours(world):
    world.write_model()
    told = []
    run(world, on_progress=lambda molecules, _: told.append(molecules))
    assert world.calls() == [
        *(first_molecules(world)[start : start + 5] for start in range(0, 20, 5)),
        first_molecules(world),
    ]
    assert sum(told) == 2 * SIZE


def test_no_call_has_more_molecules_than_a_batch(world):
    world.write_model()
    report = run(world, batch_size=8)
    assert [len(call) for call in world.calls()] == [2] * 10 + [8, 8, 4]
    assert report.speed.best_batch_size <= 8


def test_columns_are_described_by_the_values_that_were_seen(world):
    columns = (
        ("number", "float"),
        ("whole", "float"),
        ("word", "string"),
        ("digits", "string"),
        ("same", "integer"),
        ("none", "float"),
    )
    answer = "return f'{len(smiles) / 3!r},{len(smiles)},{smiles},{len(smiles)},7,' if smiles != 'CCO' else ',,,,,'"
    world.write_model(columns=columns, answer=answer)
    world.build_library(["C", "CC", "CCO", "CCCCC"])

    report = run(world, max_failure_rate=0.5)

    seen = {c.name: (c.type, c.seen, c.nulls, c.distinct) for c in report.columns}
    assert seen == {
        "number": ("float", "float", 1, 3),
        "whole": ("float", "integer", 1, 3),
        "word": ("string", "string", 1, 3),
        "digits": ("string", "integer", 1, 3),
        "same": ("integer", "integer", 1, 1),
        "none": ("float", None, 4, 0),
    }
    whole, none = column(report, "whole"), column(report, "none")
    assert (whole.minimum, whole.maximum, whole.mean) == (1.0, 5.0, 8 / 3)
    assert (none.minimum, none.maximum, none.mean) == (None, None, None)
    assert "nothing but nulls in none" in said(report, "not_all_null")


def test_a_random_model_warns_with_columns_and_difference(world):
    world.write_model(columns=TWO, answer="import random\nreturn f'{random.random()},{len(smiles)}'")

    report = run(world)

    assert checks(report)["deterministic"] is False
    assert (report.deterministic, report.varying, report.broken) == (False, ("score",), ())
    assert 0 < column(report, "score").largest_difference < 1
    assert column(report, "atoms").largest_difference == 0
    assert "1 of 2 columns vary between runs: score; by 0." in said(report, "deterministic")


@pytest.mark.parametrize(("noise", "varies"), [(1e-9, False), (1e-3, True)])
def test_rounding_between_calls_is_not_variation(world, noise: float, varies: bool):
    world.write_model(columns=TWO, answer=f"return f'{{len(smiles) + {noise!r} * len(given)!r}},{{len(smiles)}}'")
    report = run(world)
    assert report.deterministic is not varies
    assert column(report, "score").largest_difference == pytest.approx(noise * 15, rel=1e-3)


def test_text_that_differs_varies_and_integers_have_no_rounding(world):
    answer = "return f'{10**9 + len(given)},{len(given)}'"
    world.write_model(columns=(("count", "integer"), ("word", "string")), answer=answer)
    report = run(world)
    assert report.varying == ("count", "word")
    assert (column(report, "count").largest_difference, column(report, "word").largest_difference) == (15.0, None)


def test_a_null_in_only_one_run_is_variation(world):
    world.write_model(columns=TWO, answer="return f',{len(smiles)}' if len(given) == 20 else f'1.5,{len(smiles)}'")
    assert run(world).varying == ("score",)


def test_a_model_of_only_nulls_fails_and_leaves_only_a_report(world):
    world.write_model(columns=TWO, answer="return ','")

    report = run(world)

    assert [check.name for check in report.broken] == ["not_all_null"]
    assert f"{MODEL} answers no molecule" in said(report, "not_all_null")
    assert "printed no value" in said(report, "not_all_null")
    assert (report.deterministic, report.speed, report.run, report.table) == (None, None, None, None)
    assert list(world.objects("samples")) == [f"samples/model={MODEL}.json"]


def test_a_model_that_answers_none_of_a_few_molecules_fails(world):
    world.write_model(answer="sys.exit('no')")
    report = run(world, 3)
    assert [check.name for check in report.broken] == ["not_all_null"]
    assert "run.sh exited 1: no" in said(report, "not_all_null")


def test_text_in_a_number_column_fails_the_schema(world):
    world.write_model(columns=TWO, answer="return f'high,{len(smiles)}'")

    report = run(world)

    assert [check.name for check in report.broken] == ["schema"]
    assert said(report, "schema").startswith(
        f"no cell of score is of its column's type: score is 'high' ({first_molecules(world)[0]})"
    )
    assert report.emptied[0].cells == SIZE


def test_undeclared_columns_fail_the_schema_with_their_name(world):
    world.write_model(columns=TWO, header="score,atoms,extra", answer="return '1,2,3'")
    report = run(world)
    assert [check.name for check in report.broken] == ["schema"]
    assert "'extra'" in said(report, "schema")
    assert find_report(world.store, MODEL) == report


@pytest.mark.parametrize("cell", ["inf", "-1e400", "high"])
def test_some_cells_of_another_type_are_a_warning(world, cell):
    world.build_library()
    odd = first_molecules(world)[3]
    world.write_model(columns=TWO, answer=f"return '{cell},1' if smiles == {odd!r} else '1.5,1'")

    report = run(world)

    assert (report.broken, report.quarantined) == ((), 0)
    assert report.emptied == (EmptiedColumn(column="score", cells=1, example=cell, smiles=odd),)
    assert [check.name for check in report.checks if not check.passed] == ["cells"]
    assert f"1 in score, such as {cell!r} of {odd}" in said(report, "cells")
    assert sample(world)["score"].null_count() == 1
    assert sample(world)["atoms"].null_count() == 0


def test_the_canary_requires_values_as_a_run_does(world):
    world.build_library()
    odd = first_molecules(world)[3]
    world.write_model(columns=TWO, answer=f"return 'inf,1' if smiles == {odd!r} else '1.5,1'")
    report = run(world, required_values=0.6)
    why = "1 of 2 columns have a value, and 2 must have one (PRECALC_REQUIRED_VALUES): "
    assert report.reasons == ((odd, f"{why}score is 'inf', not a finite number"),)
    assert report.emptied == ()


def test_a_malformed_record_is_reported_with_its_molecule(world):
    world.build_library()
    odd = first_molecules(world)[3]
    world.write_model(columns=TWO, answer=f"return '1.5,1' if smiles != {odd!r} else '1,2,3'")
    report = run(world)
    assert report.broken == ()
    assert [smiles for smiles, _ in report.reasons] == [odd]


def test_molecules_answered_in_one_run_are_only_counted(world):
    world.build_library()
    odd = first_molecules(world)[3]
    tired = world.root / "tired"
    answer = f"""
if len(given) == {SIZE}: open({str(tired)!r}, "w").close()
if smiles == {odd!r} and os.path.exists({str(tired)!r}): sys.exit("tired")
return f"{{len(smiles)}},1"
"""
    world.write_model(columns=TWO, answer=answer)
    report = run(world)
    assert (report.quarantined, report.unsteady, report.varying) == (0, 1, ())
    assert report.deterministic is checks(report)["deterministic"] is False
    assert said(report, "deterministic") == "1 molecules were answered in only one of the runs"


def test_a_too_slow_model_fails_with_figures_and_setting(world):
    world.write_model()

    report = run(world, max_runner_hours=1e-9)

    assert [check.name for check in report.broken] == ["estimate"]
    for words in ("runner-hours for 60 molecules", "limit 1e-09 hours", "PRECALC_MAX_RUNNER_HOURS"):
        assert words in said(report, "estimate")
    assert report.table is not None
    assert find_report(world.store, MODEL) == report


def test_a_model_of_thousands_of_columns_is_judged_in_seconds(world):
    columns = [(f"bit{n}", "integer" if n % 2 else "float") for n in range(3_200)]
    world.write_model(columns=columns, answer="return ','.join(str((len(smiles) * n) % 7) for n in range(3200))")
    world.build_library()

    started = time.perf_counter()
    report = run(world, 60)

    assert time.perf_counter() - started < 20
    assert report.broken == ()
    assert len(report.columns) == 3_200


def test_a_model_that_cannot_start_leaves_the_old_report(world):
    world.write_model()
    before = run(world)
    world.write_model(run=None)
    with pytest.raises(ModelError, match=r"run\.sh is missing"):
        run(world)
    assert find_report(world.store, MODEL) == before


def test_a_failed_canary_deletes_the_previous_sample(world):
    world.write_model()
    run(world)
    world.write_model(answer="sys.exit('no')")
    run(world)
    assert list(world.objects("samples")) == [f"samples/model={MODEL}.json"]


def test_the_version_has_release_columns_and_determinism_only(world):
    world.write_model()
    version = run(world).version

    world.build_library(["CCO", "CCN", "CCCl"])
    assert run(world, 2).version == version

    for changed in ({"release": "v2.0.0"}, {"columns": (("score", "float"), ("atoms", "float"), ("label", "string"))}):
        world.write_model(**changed)
        assert run(world).version != version
    world.write_model(answer="import random\nreturn f'{random.random()},1,x'")
    assert run(world).version != version


def test_a_damaged_report_reads_as_none(world):
    world.write_model()
    run(world)
    world.path(f"samples/model={MODEL}.json").write_text("{")
    assert find_report(world.store, MODEL) is None
    assert run(world).broken == ()


class SlowToStart:
    """A backend that takes `seconds` to start, and prints one column."""

    columns = (Column("score", "float", "", ""),)
    release = "v1.0.0"
    environment = "test"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self):
        time.sleep(self.seconds)
        return self

    def __exit__(self, *_):
        return None

    def predict(self, smiles, deadline=math.inf):
        return [b"%d" % len(text) for text in smiles]


class Served(SlowToStart):
    """A backend whose server goes down at every third call until it is restarted."""

    calls = restarts = 0
    up = True

    def predict(self, smiles, deadline=math.inf):
        self.calls += 1
        self.up = self.up and self.calls % 3 != 0
        if not self.up:
            raise BatchError("connection refused")
        return super().predict(smiles, deadline)

    def is_healthy(self):
        return self.up

    def restart(self):
        self.restarts += 1
        self.up = True


def run_with(world, backend, **options) -> CanaryReport:
    folder = find_model(MODEL, [world.models_dir])
    library = world.build_library()
    started = time.perf_counter()
    molecules = pl.DataFrame(pl.from_arrow(read_sample(world.store, library, SIZE)))
    return Canary(world.store, library, folder, backend, Settings(), molecules, **options).examine(started)


def test_start_time_is_measured_apart_and_the_longest_is_kept(world):
    world.write_model()
    first = run_with(world, SlowToStart(0.3))
    assert first.speed.seconds_to_start >= 0.3
    assert first.speed.seconds_per_molecule < 0.01
    assert first.run.runner_hours * 3600 == pytest.approx(4 * first.speed.seconds_to_start, rel=0.05)

    second = run_with(world, SlowToStart(0.0))
    assert second.speed.seconds_to_start == first.speed.seconds_to_start


def test_a_dying_server_is_restarted_and_no_molecule_blamed(world):
    world.write_model()
    backend = Served(0.0)
    report = run_with(world, backend)
    assert backend.restarts > 0
    assert (report.quarantined, report.broken, report.deterministic) == (0, (), True)


def test_a_model_that_stops_after_answering_is_an_error(world):
    class Dying(SlowToStart):
        def predict(self, smiles, deadline=math.inf):
            if len(smiles) == SIZE:
                raise ModelError("it does not come up again")
            return super().predict(smiles, deadline)

    world.write_model()
    with pytest.raises(ModelError, match="does not come up again"):
        run_with(world, Dying(0.0))
    assert not world.objects("samples")


def test_columns_that_change_between_calls_fail_the_schema(world):
    class Changing(SlowToStart):
        def predict(self, smiles, deadline=math.inf):
            if len(smiles) == SIZE:
                raise ColumnsError("has the column 'new'")
            return super().predict(smiles, deadline)

    world.write_model()
    assert [check.name for check in run_with(world, Changing(0.0)).broken] == ["schema"]


def test_speed_separates_call_and_molecule_times():
    calls = [Call(25, 9.0), Call(25, 0.75), Call(25, 0.75), Call(25, 0.75), Call(100, 1.5)]
    speed = measure_speed(calls, 3.0)
    assert speed.seconds_per_call == pytest.approx(0.5)
    assert speed.seconds_per_further_molecule == pytest.approx(0.01)
    assert (speed.best_batch_size, speed.seconds_per_molecule) == (100, pytest.approx(0.015))
    assert speed.seconds_to_start == 3.0


@pytest.mark.parametrize(
    ("calls", "line"),
    [
        ([Call(10, 2.0), Call(10, 2.0)], (0.0, 0.2)),
        ([Call(10, 2.0), Call(100, 1.0)], (1.5, 0.0)),
        ([Call(10, 0.1), Call(100, 10.0)], (0.0, 5.05 / 55)),
    ],
    ids=["of one size", "less for more", "less than nothing for a call"],
)
def test_no_time_is_negative_whatever_was_measured(calls: list[Call], line: tuple[float, float]):
    speed = measure_speed(calls, 0.0)
    assert (speed.seconds_per_call, speed.seconds_per_further_molecule) == pytest.approx(line)


def test_the_estimate_counts_starts_calls_and_molecules(world):
    library = world.build_library()
    rows = sorted(info.rows for info in library.shards.values())
    speed = measure_speed([Call(10, 20.0), Call(20, 30.0)], 5.0)
    seconds = [10 * -(-n // 10) + n for n in rows]

    estimate = estimate_run(speed, library, Settings(batch_size=1, machines=2, runner_price=3.0))

    assert estimate.molecules == library.molecules
    assert estimate.runner_hours == pytest.approx((2 * 5 + sum(seconds)) / 3600)
    assert estimate.wall_hours == pytest.approx((5 + seconds[3] + seconds[1]) / 3600)
    assert estimate.dollars == pytest.approx(3 * estimate.runner_hours)


def test_the_estimate_counts_the_calls_that_find_a_bad_molecule(world):
    library = world.build_library(["CCO"])
    calls = [Call(8, 18.0), Call(1, 11.0)]
    failed = [Call(8, 28.0), Call(1, 21.0)]
    sure = measure_speed(calls, 0.0, failed=failed, failing_share=1.0)
    assert sure.seconds_lost_per_failed_call == pytest.approx(10.0)
    # The call fails, and the witness is called.
    assert estimate_run(sure, library, Settings()).runner_hours * 3600 == pytest.approx(11 + 10 + 11)
    few = measure_speed(calls, 0.0, failed=failed, failing_share=1e-9)
    assert estimate_run(few, library, Settings()).runner_hours * 3600 == pytest.approx(11)


def test_the_estimate_counts_the_calls_of_bisection(world):
    library = world.build_library()
    bad = library.molecules / 10
    speed = measure_speed([Call(1, 1.0), Call(2, 1.0)], 0.0, failing_share=0.1)
    calls = estimate_run(speed, library, Settings()).runner_hours * 3600
    # Each of 4 shards of 15 molecules is one call. A bad molecule costs two calls of each smaller size, partly shared.
    assert 4 + 2 * bad < calls < 4 + (2 * 4 + 1) * bad


def test_a_sample_with_too_many_failures_fails_a_check(world):
    world.build_library()
    bad = first_molecules(world)
    answer = f"if smiles in {bad[:3]!r}: return 'x,'\nif smiles == {bad[4]!r}: return ','\nreturn '1.5,1'"
    world.write_model(columns=TWO, answer=answer)

    report = run(world)

    assert checks(report)["failure_rate"] is False
    assert "failure_rate" in [check.name for check in report.broken]
    for words in ("4 of 20 molecules", "3 × score is 'x', not a finite number; 1 × the model", "PRECALC_MAX_FAILURE"):
        assert words in said(report, "failure_rate")
    assert checks(run(world, max_failure_rate=0.2))["failure_rate"] is True


def test_failed_calls_count_in_speed_and_estimate(world):
    world.build_library()
    odd = first_molecules(world)[3]
    world.write_model(columns=TWO, answer=f"if smiles == {odd!r}: sys.exit('no')\nreturn '1.5,1'")
    report = run(world)
    assert report.speed.failing_share == pytest.approx(1 / SIZE)
    assert report.broken == ()


@pytest.mark.parametrize(
    ("output", "passed", "words"),
    [
        ("score,atoms\n1.0,2\n1.5,3\n", True, "equal, in 2 molecules"),
        ("atoms,score,input\n2,1.0,CC\n3,1.5,CCO\n", True, "equal, in 2 molecules"),
        ("score,atoms\n1.0,2\n1.5001,3\n", True, "close: values differ by 0.0001 at most, in score"),
        ("score,atoms\n1.0,2\n1.7,3\n", False, "1 of 2 columns are different: score; by 0.2 at most, in score"),
        ("score,atoms\n1.0,2\n,3\n", False, "1 of 2 columns are different: score"),
        ("score,atoms\n1.0,2\n", False, "run_output.csv has 1 rows for 2 molecules in run_input.csv"),
        ("score,rings\n1.0,2\n1.5,3\n", False, "run_output.csv lacks the column 'atoms' of run_columns.csv"),
        ("score,atoms\n1.0,2\nhigh,3\n", False, "1 of 2 columns are different: score"),
        ("", False, "run_output.csv cannot be read: it is empty"),
        (None, True, "the model has no example: model/framework/examples/run_output.csv is missing"),
    ],
    ids=[
        "equal",
        "other order",
        "close",
        "different",
        "null",
        "rows",
        "columns",
        "cell",
        "empty",
        "missing",
    ],
)
def test_the_model_s_own_example_is_compared(world, output: str | None, passed: bool, words: str):
    examples = world.write_model(columns=TWO, answer="return f'{len(smiles) / 2},{len(smiles)}'") / "model/framework"
    (examples / "examples").mkdir()
    (examples / "examples" / "run_input.csv").write_text("smiles\nCC\nCCO\n")
    if output is not None:
        (examples / "examples" / "run_output.csv").write_text(output)
    report = run(world)
    assert (checks(report)["example"], report.broken) == (passed, ())
    assert words in said(report, "example")
    assert report.example == said(report, "example")


def test_an_example_that_the_model_cannot_answer_is_reported(world):
    answer = "if smiles == 'Cl': sys.exit('no')\nreturn '1,1'"
    examples = world.write_model(columns=TWO, answer=answer) / "model/framework/examples"
    examples.mkdir()
    (examples / "run_input.csv").write_text("input\nCC\nCl\n")
    (examples / "run_output.csv").write_text("score,atoms\n1,1\n1,1\n")
    assert said(run(world), "example") == "2 of 2 columns are different: score, atoms"


def test_memory_and_printed_bytes_are_measured(world):
    world.write_model(columns=TWO, answer="return '0.25,7'", script="room = bytearray(300 << 20)\n" + PRINT)
    report = run(world)
    assert 300 << 20 < report.peak_memory < 400 << 20
    assert report.bytes_per_molecule == len("0.25,7\n")


def test_a_slow_model_s_second_run_has_short_calls(world):
    class Slow(SlowToStart):
        sizes: ClassVar[list[int]] = []

        def predict(self, smiles, deadline=math.inf):
            self.sizes.append(len(smiles))
            time.sleep(0.01 * len(smiles))
            return super().predict(smiles, deadline)

    world.write_model()
    quick = run_with(world, Slow(0.0))
    assert Slow.sizes == [5, 5, 5, 5, 20]
    Slow.sizes.clear()
    slow = run_with(world, Slow(0.0), longest_call=0.1)
    assert Slow.sizes == [5, 5, 5, 5, *[2] * 10]
    for report in (quick, slow):
        assert report.speed.seconds_per_molecule == pytest.approx(0.01, rel=0.5)


MANY = tuple(
    "C" * n + ring + end
    for n in range(1, 41)
    for ring in ("", "C1CC1", "c1ccccc1")
    for end in ("", "O", "N", "Cl", "F")
)
TABLES = {
    "a few numbers": (TWO, "return f'{len(smiles) / 7!r},{len(smiles)}'"),
    "hundreds of floats": (
        [(f"f{n}", "float") for n in range(200)],
        "return ','.join(repr(hash((smiles, n)) / 1e18) for n in range(200))",
    ),
    "hundreds of counts": (
        [(f"c{n}", "integer") for n in range(500)],
        "return ','.join(str(smiles.count('C') * n % 5) for n in range(500))",
    ),
}


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        pytest.param(*table, id=name, marks=[pytest.mark.slow] if name == "hundreds of counts" else [])
        for name, table in TABLES.items()
    ],
)
def test_the_table_estimate_is_close_to_a_real_load(world, columns, answer):
    world.write_model(columns=columns, answer=answer)
    world.build_library(MANY)

    report = run(world, 100)
    world.predict()
    world.validate()
    loaded = [outcome.facts for outcome in world.load()]

    pages = sum(facts["pages"] for facts in loaded)
    assert report.table.pages == pytest.approx(pages, rel=0.15, abs=2)
    gigabytes = (sum(facts["bytes"] for facts in loaded) + 100 * pages) / (1 << 30)
    assert report.table.gigabytes == pytest.approx(gigabytes, rel=0.15)
    # Besides pages, a load writes some items that describe the table.
    overhead = 6 * len(shard_keys(4)) * max(1, len(columns) // 200)
    assert report.table.write_units == pytest.approx(
        sum(facts["write_units"] for facts in loaded), rel=0.2, abs=overhead
    )
    assert report.table.write_dollars == pytest.approx(report.table.write_units * DOLLARS_PER_WRITE_UNIT)


def test_a_molecule_too_large_for_a_page_fails_the_canary(world):
    answer = "import random\nrandom.seed(smiles)\nreturn random.randbytes(450_000).hex()"
    world.write_model(columns=(("word", "string"),), answer=answer)
    report = run(world, 2)
    assert [check.name for check in report.broken] == ["estimate"]
    assert "an item has room for 409536" in said(report, "estimate")

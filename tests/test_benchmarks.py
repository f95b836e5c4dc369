"""Every benchmark runs at a tiny size. Its times then mean nothing, but what it counts must not grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import COUNTED, benchmarks, counted
from benchmarks.command import FIGURES_FILE, Figure, read_figures

PROJECT = Path(__file__).parents[1]
BENCHMARK = """
from benchmarks.command import end, figure

def main():
    figure("pages", 0.5, "units a molecule", baseline=10, at_least={at_least}, counted=True)
    figure("memory", 120, "MB", at_most=300)
    end()

if __name__ == "__main__":
    main()
"""


def growth(name: str, now: dict[str, float], recorded: dict[str, float]) -> str:
    """Say which counted figures of a benchmark are larger than recorded, not recorded, or gone."""
    changed = [
        f"{what}: {now[what]:g}, recorded {recorded[what]:g}"
        for what in now
        if now[what] > recorded.get(what, now[what])
    ]
    changed += [f"{what}: not recorded" for what in now if what not in recorded]
    changed += [f"{what}: recorded, but no longer stated" for what in recorded if what not in now]
    if not changed:
        return ""
    remedy = f"if that is meant, record anew: .venv/bin/python -m benchmarks --record {name}"
    return "\n".join([f"{name} has changed in {COUNTED.name}:", *changed, remedy])


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", benchmarks())
def test_a_benchmark_runs_tiny_and_counts_no_more(name: str, models_cache: Path, tmp_path: Path):
    target = tmp_path / "figures.jsonl"
    variables = {"BENCH_SIZE": "tiny", FIGURES_FILE: str(target), "PRECALC_CACHE_DIR": str(models_cache)}
    done = start(f"benchmarks.{name}", PROJECT, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = json.loads(COUNTED.read_text()).get(name, {})
    assert not (message := growth(name, counted(read_figures(target)), recorded)), message


def test_a_counted_figure_may_not_grow_appear_or_vanish():
    recorded = {"units": 2.0, "bytes": 300.0}
    assert growth("pages", {"units": 2.0, "bytes": 299.0}, recorded) == ""
    message = growth("pages", {"units": 2.5, "requests": 7}, recorded)
    assert message.splitlines() == [
        "pages has changed in counted.json:",
        "units: 2.5, recorded 2",
        "requests: not recorded",
        "bytes: recorded, but no longer stated",
        "if that is meant, record anew: .venv/bin/python -m benchmarks --record pages",
    ]


def test_only_benchmarks_that_exist_are_recorded():
    assert json.loads(COUNTED.read_text()).keys() <= set(benchmarks())


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({"at_most": 300}, True),
        ({"at_most": 99}, False),
        ({"at_least": 100}, True),
        ({"at_least": 101}, False),
        ({"baseline": 2_000, "at_least": 20}, True),
        ({"baseline": 1_999, "at_least": 20}, False),
    ],
)
def test_a_limit_is_of_the_ratio_if_there_is_one(limits: dict[str, float], met: bool):
    stated = Figure("load", "pages", 100, "bytes", **limits)
    assert stated.met == met
    assert str(stated).endswith(" met" if met else " MISSED")


def test_others_run_after_a_missed_limit_and_all_are_in_the_table(tmp_path: Path):
    package = tmp_path / "benchmarks"
    package.mkdir()
    for shared in ("__init__.py", "__main__.py", "command.py"):
        (package / shared).write_text((PROJECT / "benchmarks" / shared).read_text())
    (package / "broken.py").write_text("\ndef main():\n    raise SystemExit(3)\n\nmain()\n")
    (package / "missed.py").write_text(BENCHMARK.format(at_least=21))
    (package / "reached.py").write_text(BENCHMARK.format(at_least=20))
    (package / "full_size.py").write_text(BENCHMARK.format(at_least=20))

    done = start("benchmarks", tmp_path)
    assert done.returncode == 1
    table = done.stdout.partition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in table] == ["benchmark", "broken", "missed", "missed", "reached", "reached"]
    assert table[1].endswith("FAILED with exit code 3")
    assert table[2].endswith("20  at least 21      MISSED")
    assert " ".join(table[4].split()) == "reached pages 0.5 units a molecule 10 20 at least 20 met"

    assert start("benchmarks", tmp_path, "reached", "full_size").returncode == 0
    assert start("benchmarks", tmp_path, "missed", BENCH_SIZE="tiny").returncode == 0
    assert "no benchmark reachde" in start("benchmarks", tmp_path, "reachde").stderr


def start(module: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

"""Run benchmarks one after the other, and end with one table of their figures: `python -m benchmarks [NAMES]`.

A benchmark is a module of this package with a `main`; it runs in a process of its own. The others run after one that
failed or missed a limit; the exit code is then 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import FIGURES_FILE, HEADER, Figure, read_figures

HERE = Path(__file__).parent
COUNTED = HERE / "counted.json"
"""The counted figures at the tiny size: benchmark, figure, value."""
LONG = ("full_size", "load_memory")
"""Each takes half an hour, so it runs only if it is named."""


def main() -> None:
    names = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks and print their figures.")
    usual = f"all but {' and '.join(LONG)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}; default: {usual}")
    parser.add_argument("--file", type=Path, help="CSV of molecules with a header, for those that take one")
    parser.add_argument("--record", action="store_true", help="run all at the tiny size, and record what is counted")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; name any of {', '.join(names)}")
    if given.record:
        record(given.names or names)
    else:
        chosen = given.names or [name for name in names if name not in LONG]
        sys.exit(run_all(chosen, [str(given.file.resolve())] if given.file else []))


def benchmarks() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if "\ndef main(" in path.read_text() and path.stem[0] != "_")


def run(name: str, arguments: Sequence[str] = (), **environment: str) -> tuple[int, list[Figure]]:
    """Run a benchmark, which prints to this process's output; return its exit code and figures."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.jsonl"
        variables = {**os.environ, **environment, FIGURES_FILE: str(target)}
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
        code = subprocess.run(command, env=variables, cwd=HERE.parent, check=False).returncode
        return code, read_figures(target) if target.exists() else []


def run_all(names: Sequence[str], arguments: Sequence[str]) -> int:
    """Run benchmarks, print the table, and return the exit code."""
    done = {name: run(name, arguments) for name in names}
    print(f"\n{HEADER}")
    for name, (code, figures) in done.items():
        print(*figures, sep="\n") if figures else print(f"{name:<11} FAILED with exit code {code}")
    return int(any(code for code, _ in done.values()))


def counted(figures: Sequence[Figure]) -> dict[str, float]:
    return {stated.what: stated.ours for stated in figures if stated.counted}


def record(names: Sequence[str]) -> None:
    """Record the counted figures of these benchmarks at the tiny size."""
    recorded = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    for name in names:
        code, figures = run(name, BENCH_SIZE="tiny")
        if code:
            raise SystemExit(f"{name} failed; {COUNTED.name} is unchanged")
        recorded[name] = counted(figures)
    kept = {name: recorded[name] for name in benchmarks() if recorded.get(name)}
    COUNTED.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""What the benchmarks share: sizes, molecules, timing, and the one way to state a figure.

With BENCH_SIZE=tiny in the environment, a benchmark does only enough to show that it runs: its molecules are those of
`tiny.csv`, and it misses no limit.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

TINY = os.environ.get("BENCH_SIZE") == "tiny"
FIGURES_FILE = "BENCH_FIGURES"
"""The variable that names the file to which a benchmark writes its figures."""

_TINY_FILE = Path(__file__).with_name("tiny.csv")
_FULL_FILE = Path(__file__).parents[2] / "shared" / "data" / "reference_library_10k.csv"
_ROW = "{:<11} {:<46} {:>11} {:<24} {:>11} {:>8}  {:<16} {}"
HEADER = _ROW.format("benchmark", "what", "ours", "", "baseline", "ratio", "limit", "met").rstrip()


@dataclass(frozen=True)
class Figure:
    """A figure of a benchmark, and the baseline's, in the same unit.

    The limit, if there is one, is of the ratio; without a baseline, of our figure. A counted figure is the same on
    every machine, and less of it is better.
    """

    benchmark: str
    what: str
    ours: float
    unit: str
    baseline: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    counted: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times less ours is than the baseline."""
        return None if self.baseline is None else self.baseline / self.ours

    @property
    def met(self) -> bool:
        limited = self.ours if self.ratio is None else self.ratio
        enough = self.at_least is None or limited >= self.at_least
        return enough and (self.at_most is None or limited <= self.at_most)

    def __str__(self) -> str:
        limits = [
            f"{words} {_short(limit)}"
            for words, limit in (("at least", self.at_least), ("at most", self.at_most))
            if limit is not None
        ]
        met = ("met" if self.met else "MISSED") if limits and not TINY else ""
        numbers = _short(self.ours), self.unit, _short(self.baseline), _short(self.ratio)
        return _ROW.format(self.benchmark, self.what, *numbers, " ".join(limits), met).rstrip()


_stated: list[Figure] = []


def size(full: int, tiny: int) -> int:
    return tiny if TINY else full


def molecule_file() -> Path:
    """Return the CSV of molecules with a header from the command line, or the default one."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else _TINY_FILE if TINY else _FULL_FILE
    if not source.exists():
        raise SystemExit(f"{source}: there is no such file; name a CSV of molecules")
    return source.resolve()


def read_molecules(source: Path) -> list[str]:
    return source.read_text(encoding="utf-8").splitlines()[1:]


def write_molecules(target: Path, smiles: Iterable[str]) -> None:
    with target.open("w", encoding="utf-8") as file:
        file.write("smiles\n")
        file.writelines(f"{text}\n" for text in smiles)


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the user and system CPU of this process, with all its threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def best_in_turns(ours: Callable[[], float], baseline: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Measure both in turns; return the least of each."""
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def begin(setting: str) -> None:
    """Print what is measured on which machine, and the header of the figures."""
    print(f"{_benchmark()}: {setting}; {os.cpu_count()} cores, Python {platform.python_version()}", end="")
    print(f", load {os.getloadavg()[0]:.1f}\n{HEADER}", flush=True)


def figure(
    what: str,
    ours: float,
    unit: str,
    *,
    baseline: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    counted: bool = False,
) -> None:
    """Print a figure as one line, and remember it for `end`. `Figure` has the meaning of the arguments."""
    stated = Figure(_benchmark(), what, ours, unit, baseline, at_least, at_most, counted)
    _stated.append(stated)
    print(stated, flush=True)


def end() -> None:
    """Write the figures as JSON lines if a file is named for them, and exit with 1 if one missed its limit."""
    if target := os.environ.get(FIGURES_FILE):
        Path(target).write_text("".join(json.dumps(asdict(stated)) + "\n" for stated in _stated), encoding="utf-8")
    sys.exit(not TINY and not all(stated.met for stated in _stated))


def read_figures(source: Path) -> list[Figure]:
    """Read what `end` wrote."""
    return [Figure(**json.loads(line)) for line in source.read_text(encoding="utf-8").splitlines()]


def _benchmark() -> str:
    return Path(sys.argv[0]).stem


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"

"""The cost of DynamoDB in CPU and dollars: `python -m benchmarks.dynamodb [FILE]`, a CSV of molecules with a header.

Ours is `load_shard` into `DynamoDBStore`, from record batches to the flip of the directory, with all requests. The
baseline writes one item per molecule, its numbers a list of Decimal, by boto3's batch writer. Both write to a server on
loopback: first a stub that only stores items and counts their units, then ministack.

Measured is the CPU of the loading process with all its threads; the servers are separate processes. Each runs ROUNDS
times, and the best counts. Our units are counted by the servers; the baseline's follow the documented rules, since the
batch writer does not request them. Values are random doubles, the worst case; counts are the built-in model's output on
the file's molecules. Finally a million molecules of one float are loaded in 50 shards, the default, into SQLite, which
counts units by the same rules.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from rdkit import Chem

from benchmarks.command import end, molecule_file, size
from benchmarks.invented import MODEL, REGION, Shape, floats, load, load_all, put_plainly
from benchmarks.pages import baseline_units, in_table_order, run_model
from benchmarks.servers import Remembering, running
from precalc_assets.columns import read_columns
from precalc_assets.settings import BUILT_IN_MODELS
from precalc_assets.tables import open_tables
from precalc_assets.tables.dynamodb import DynamoDBStore, TableOptions
from precalc_assets.tables.loader import LoadResult
from precalc_assets.tables.prices import DOLLARS_PER_GB_MONTH, DOLLARS_PER_WRITE_UNIT, GB, ITEM_OVERHEAD_BYTES
from tests.aws_emulator import run_ministack

COUNTS = "eos0bbb"
ROUNDS = size(3, 1)
BASELINE_CELLS = 50_000
"""Numbers that the baseline writes; its time is linear in them."""
N_SHARDS = 50
MILLION = size(1_000_000, 1_000)
MILLION_TARGET = 20_000
"""Write units that a million molecules of one float may take."""


@dataclass(frozen=True)
class Figures:
    """Molecules per CPU second and write units per molecule, for one shape and server."""

    ours: float
    baseline: float
    our_units: float
    baseline_units: float
    page_bytes: float


def main() -> None:
    source = molecule_file()
    shapes = [
        floats("1 float", 1, size(28_000, 200)),
        floats("10 floats", 10, size(28_000, 200)),
        floats("200 floats", 200, size(2_000, 200)),
        counts(source),
        floats("3,200 floats", 3_200, size(300, 30)),
    ]
    print(f"dynamodb  best of {ROUNDS}; {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ministack = stack.enter_context(run_ministack(Path(folder)))
        os.environ |= ministack.environment
        for name, endpoint in (("stub", stack.enter_context(running(Remembering))), ("ministack", ministack.endpoint)):
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            figures = {shape.name: measure(shape) for shape in shapes}
            report(name, figures)
    report_dollars(figures)
    end(report_million())


def counts(source: Path) -> Shape:
    columns, _ = read_columns(BUILT_IN_MODELS / COUNTS / "model" / "framework")
    keys = [Chem.MolToInchiKey(Chem.MolFromSmiles(text)) for text in source.read_text().splitlines()[1:]]
    with tempfile.TemporaryDirectory() as folder:
        rows = in_table_order(keys, run_model(COUNTS, columns, source, Path(folder)))
    return Shape(f"{len(columns):,} counts", columns, rows)


def measure(shape: Shape) -> Figures:
    n_rows = shape.rows.num_rows
    sample = shape.rows.slice(0, min(n_rows, BASELINE_CELLS // len(shape.columns)))
    ours, baseline = [], []
    for _ in range(ROUNDS):
        store = DynamoDBStore(REGION, f"bench-{uuid4().hex}", options=TableOptions(write_units=float("inf")))
        store.create_table(MODEL)
        seconds, result = cpu_seconds(lambda store=store: load(store, shape, "00", 1))
        ours.append(seconds / n_rows)
        store.close()
        name = f"bench-{uuid4().hex}"
        baseline.append(cpu_seconds(lambda name=name: put_plainly(name, sample))[0] / sample.num_rows)
    return Figures(
        ours=1 / min(ours),
        baseline=1 / min(baseline),
        our_units=result.consumed.write_units / n_rows,
        baseline_units=baseline_units(sample, shape.columns) / sample.num_rows,
        page_bytes=(result.page_bytes + result.n_pages * ITEM_OVERHEAD_BYTES) / n_rows,
    )


def cpu_seconds(run: Callable[[], LoadResult | None]) -> tuple[float, LoadResult | None]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def report(server: str, figures: dict[str, Figures]) -> None:
    print(f"\n{server:<14}{'molecules per second and core':^32}{'write units per molecule':^32}")
    print(f"{'':<14}{'ours':>12}{'baseline':>12}{'ratio':>8}{'ours':>12}{'baseline':>12}{'ratio':>8}")
    for name, f in figures.items():
        print(
            f"{name:<14}{f.ours:>12,.0f}{f.baseline:>12,.0f}{f.ours / f.baseline:>8.1f}"
            f"{f.our_units:>12.4f}{f.baseline_units:>12.2f}{f.baseline_units / f.our_units:>8.1f}",
            flush=True,
        )


def report_dollars(figures: dict[str, Figures]) -> None:
    print(f"\ndollars per million molecules, at ${1e6 * DOLLARS_PER_WRITE_UNIT} per million write units and")
    print(f"${DOLLARS_PER_GB_MONTH} per GB and month (us-east-1, on demand, November 2026)")
    print(f"{'':<14}{'ours':>12}{'baseline':>12}{'storage of ours, a month':>28}")
    for name, f in figures.items():
        ours, baseline = (1e6 * units * DOLLARS_PER_WRITE_UNIT for units in (f.our_units, f.baseline_units))
        print(f"{name:<14}{ours:>12.3f}{baseline:>12.3f}{1e6 * f.page_bytes / GB * DOLLARS_PER_GB_MONTH:>28.4f}")


def report_million() -> list[str]:
    """Load a million molecules, and return the missed target, if that took too many units."""
    shape = floats("a million", 1, MILLION)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        store = open_tables(f"sqlite:///{folder}/tables.db")
        units = sum(result.consumed.write_units for result in load_all(store, shape, N_SHARDS))
        store.close()
    seconds = time.process_time() - started
    print(f"\n{MILLION:,} molecules of one float in {N_SHARDS} shards: {units:,.0f} write units, ", end="")
    print(f"${units * DOLLARS_PER_WRITE_UNIT:.4f}, {seconds:.0f} s CPU (target: under {MILLION_TARGET:,} units)")
    return [f"{units:,.0f}, the target is {MILLION_TARGET:,}"] if units >= MILLION_TARGET else []


if __name__ == "__main__":
    main()

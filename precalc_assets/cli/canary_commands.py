"""`precalc predict --sample N`: the canary without Dagster, and its report on a terminal."""

from rich.table import Table

from precalc.cli.progress_bar import progress
from precalc.cli.terminal import PlainConsole
from precalc.source import name_some, name_variation
from precalc_assets.platform import open_platform
from precalc_assets.platform_errors import ModelError
from precalc_assets.predictions.canary_report import CANARY_WARNINGS, CanaryReport

_SHOWN_COLUMNS = 12
"""Maximum number of a model's columns in the printed report, varying ones first."""


def predict_sample(model: str, size: int) -> None:
    """Run the canary and print its report. Raises ModelError if the model should not be run."""
    platform = open_platform()
    with progress(f"sample {model}", 2 * min(size, platform.library().molecules)) as on_progress:
        report = platform.run_canary(model, size, on_progress)
    print_report(report)
    if report.broken:
        raise ModelError("; ".join(f"{model} {check.name}: {check.description}" for check in report.broken))


def print_report(report: CanaryReport) -> None:
    """Print a report to stdout: speed and estimate, columns, checks."""
    console = PlainConsole()
    console.print(f"canary of {report.model} {report.release}: {report.metadata.title}")
    console.print(_summary(report))
    if report.columns:
        console.print()
        console.print(_columns(report))
    console.print()
    checks = Table("check", "", "", box=None, pad_edge=False)
    for check in report.checks:
        broken = "warning" if check.name in CANARY_WARNINGS else "failed"
        passed = "undecided" if check.undecided else "passed"
        checks.add_row(check.name, passed if check.passed else broken, check.description)
    console.print(checks)


def _summary(report: CanaryReport) -> Table:
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    table.add_row("molecules", f"{report.molecules:,}, twice; {report.quarantined:,} quarantined")
    for smiles, why in report.reasons:
        table.add_row("", f"{smiles}: {why}")
    nulls = [column.name for column in report.columns if column.nulls > report.quarantined]
    constant = [column.name for column in report.columns if column.distinct == 1]
    if report.columns:
        table.add_row("nulls in", name_some(nulls) or "no column")
        table.add_row("constant", name_some(constant) or "no column")
        table.add_row("deterministic", "yes" if report.deterministic else f"no: {name_variation(report.varying)}")
    if report.speed:
        speed = report.speed
        each = _duration(speed.seconds_per_molecule)
        table.add_row("per molecule", f"{each}, with {speed.best_batch_size:,} per call, the best size tried")
        table.add_row("per call", _duration(speed.seconds_per_call))
        table.add_row("to start", f"{_duration(speed.seconds_to_start)}, once on each machine")
        if speed.failing_share:
            lost = f"{_duration(speed.seconds_lost_per_failed_call)} lost each"
            table.add_row(
                "calls fail on", f"{speed.failing_share:.1%} of the molecules, {lost}; included in the estimate"
            )
    if report.peak_memory:
        table.add_row("peak memory", f"{report.peak_memory / (1 << 20):,.0f} MB, of its largest process")
    if report.bytes_per_molecule:
        table.add_row("output", f"{report.bytes_per_molecule:,.0f} bytes per molecule")
    if report.adoption:
        table.add_row("kept", str(report.adoption))
    if report.run:
        run = report.run
        took = f"{run.runner_hours:,.2f} runner-hours, ${run.dollars:,.2f}; {_duration(3600 * run.wall_hours)}"
        table.add_row(f"{run.molecules:,} molecules", f"{took} with {run.machines:,} machines at a time")
    if report.table:
        pages = f"{report.table.write_units:,.0f} write units, ${report.table.write_dollars:,.2f}"
        gigabytes = f"{report.table.gigabytes:,.3f} GB, ${report.table.dollars_per_month:,.2f} a month"
        table.add_row("their table", f"{pages}; {gigabytes}")
    return table


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _columns(report: CanaryReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("column", "declared", "seen", "nulls", "distinct", "lowest", "mean", "highest", "between runs"):
        table.add_column(name, justify="left" if name in ("column", "declared", "seen") else "right")
    shown = sorted(report.columns, key=lambda column: not column.varies)[:_SHOWN_COLUMNS]
    for column in shown:
        figures = (column.minimum, column.mean, column.maximum, column.largest_difference)
        table.add_row(
            column.name,
            column.type,
            column.seen or "–",
            f"{column.nulls:,}",
            f"{column.distinct:,}",
            *("–" if figure is None else f"{figure:.4g}" for figure in figures),
        )
    if len(report.columns) > len(shown):
        table.add_row(f"and {len(report.columns) - len(shown):,} more")
    return table

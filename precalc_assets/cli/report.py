"""A command's closing lines: one on the shards that landed, and one per reason of failure."""

import sys
from collections.abc import Iterable, Iterator

from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.sharding import format_shards


class ShardsFailedError(PrecalcError):
    """Some shards failed; the message names them with their reasons."""


class Tally:
    """Counts shard outcomes as they pass."""

    def __init__(self) -> None:
        self.landed: list[str] = []
        self.unfinished: list[str] = []
        self.failures: dict[str, list[str]] = {}
        self.warnings: dict[str, list[str]] = {}
        self.sums: dict[str, float] = {}

    def watch(self, outcomes: Iterable[ShardOutcome]) -> Iterator[ShardOutcome]:
        """Count each outcome and yield it."""
        for outcome in outcomes:
            if outcome.landed:
                self.landed.append(outcome.shard)
                for check in outcome.checks:
                    if not check.passed:
                        self.warnings.setdefault(check.description, []).append(outcome.shard)
                for name, fact in outcome.facts.items():
                    if isinstance(fact, int | float):
                        self.sums[name] = self.sums.get(name, 0) + fact
            elif outcome.unfinished:
                self.unfinished.append(outcome.shard)
            else:
                self.failures.setdefault(outcome.failure, []).append(outcome.shard)
            yield outcome

    def warn(self, what: str) -> None:
        """Print the checks that shards failed although they landed."""
        for found, shards in self.warnings.items():
            print(f"warning: {what}, shards {format_shards(shards)}: {found}", file=sys.stderr)

    def finish(self, what: str, hint: str = "") -> None:
        """Print what landed. Raises ShardsFailedError if a shard failed."""
        if self.landed:
            facts = [
                f"{name.replace('_', ' ')} {value:,.{0 if value == int(value) else 1}f}"
                for name, value in self._shown()
            ]
            print(f"{what}: {len(self.landed)} shards, {', '.join(facts)}", file=sys.stderr)
        if self.failures:
            raise ShardsFailedError(failure_lines(self.failures, hint if self.landed else ""))

    def _shown(self) -> Iterator[tuple[str, float]]:
        shown = ("rows", "quarantined", "pages", "bytes", "write_units", "seconds")
        return ((name, self.sums[name]) for name in shown if name in self.sums)


def failure_lines(failures: dict[str, list[str]], hint: str = "") -> str:
    """Return one line per reason, with the shards that failed for it."""
    lines = [f"shards {format_shards(shards)}: {why}" for why, shards in failures.items()]
    return "\n".join([*lines, hint] if hint else lines)

"""What a command says when it is done: what came of the shards, in a line; what failed, and why, in a line each."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.sharding import contiguous_ranges


class ShardsFailedError(PrecalcError):
    """Some shards failed; the message names them with their reasons."""


def name_shards(shards: Sequence[str]) -> str:
    """Return shards as a person writes them: `00-06,08,10-49`."""
    return ",".join(
        shards_range[0] if len(shards_range) == 1 else f"{shards_range[0]}-{shards_range[-1]}"
        for shards_range in contiguous_ranges(sorted(shards))
    )


class Tally:
    """Adds up shard outcomes while they pass."""

    def __init__(self) -> None:
        self.landed: list[str] = []
        self.unfinished: list[str] = []
        self.failures: dict[str, list[str]] = {}
        self.warnings: dict[str, list[str]] = {}
        self.sums: dict[str, float] = {}

    def watch(self, outcomes: Iterable[ShardOutcome]) -> Iterator[ShardOutcome]:
        """Take note of each outcome and pass it on."""
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
        """Print what looks wrong with shards that landed."""
        for found, shards in self.warnings.items():
            print(f"warning: {what}, shards {name_shards(shards)}: {found}", file=sys.stderr)

    def finish(self, what: str, hint: str = "") -> None:
        """Print what landed. Raises ShardsFailedError if anything failed."""
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
    """Return one line for each reason, with the shards that failed of it."""
    lines = [f"shards {name_shards(shards)}: {why}" for why, shards in failures.items()]
    return "\n".join([*lines, hint] if hint else lines)

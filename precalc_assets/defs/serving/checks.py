"""Checks of the group `serving` of which some are warnings: recorded as such, shard by shard and at the step's end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from precalc_assets.cards import ModelCard
from precalc_assets.defs.recording import Beside, Event, Recorder
from precalc_assets.defs.resources import Platform
from precalc_assets.outcomes import ShardOutcome

CARD_CHECKS = {
    "coverage": "every shard is in the table",
    "one_release": "all shards in the table are of one release",
}
"""The checks of a model's card, none of which keeps it from being published: name and promise."""


class WarningRecorder(Recorder):
    """A recorder for checks of which some are `warnings`: broken by a shard, they show, and hold nothing back."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        platform: Platform,
        source: str,
        *,
        checks: Mapping[str, str],
        warnings: Iterable[str],
    ) -> None:
        super().__init__(context, platform, source, checks=checks)
        self._warnings = frozenset(warnings)
        self._broken: Counter[str] = Counter()

    def record(
        self, outcomes: Iterable[ShardOutcome], model: str | None = None, beside: Beside = lambda _: ()
    ) -> Iterator[Event]:
        """Yield the events of each shard as it lands, with warnings as such."""
        for event in super().record(outcomes, model, beside):
            if isinstance(event, dg.AssetCheckEvaluation) and event.check_name in self._warnings:
                self._broken[event.check_name] += not event.passed
                yield dg.AssetCheckEvaluation(
                    asset_key=event.asset_key,
                    check_name=event.check_name,
                    passed=event.passed,
                    metadata=event.metadata,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=event.description,
                    blocking=False,
                    partition=event.partition,
                )
            else:
                yield event

    def conclude(self) -> Iterator[Event]:
        """Yield the step's own result, which says how many shards have broken a warning."""
        for event in super().conclude():
            if isinstance(event, dg.MaterializeResult):
                results = [self._concluded(result) for result in event.check_results or ()]
                yield dg.MaterializeResult(metadata=event.metadata, check_results=results)
            else:
                yield event

    def _concluded(self, result: dg.AssetCheckResult) -> dg.AssetCheckResult:
        broken = self._broken[result.check_name or ""]
        if not broken:
            return result
        return _warning(result.check_name or "", f"broken by {broken} shards of this run; each says how", passed=False)


def card_results(card: ModelCard) -> list[dg.AssetCheckResult]:
    """Return the checks of a card."""
    return [
        _warning("coverage", f"{len(card.shards)} of {card.n_shards} shards are in the table", passed=card.covered),
        _warning("one_release", f"releases: {', '.join(card.releases) or 'none'}", passed=len(card.releases) <= 1),
    ]


def _warning(name: str, found: str, *, passed: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=found)

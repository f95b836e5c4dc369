"""How a shard's outcome becomes Dagster events: one materialisation and its check evaluations, when it lands.

A run takes a range of partitions. Left to itself, Dagster records the whole range when the step ends: nothing
before, all keys with one data version, and nothing at all if one shard failed. So the assets here record each shard
themselves, and keep Dagster from doing it again.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_DATA_VERSION_TAG_PREFIX,
    INPUT_EVENT_POINTER_TAG_PREFIX,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from precalc_assets.columns import Column
from precalc_assets.defs.partitions import partition_key
from precalc_assets.defs.resources import Platform
from precalc_assets.errors import PrecalcError
from precalc_assets.outcomes import ShardOutcome

_RECORDED_ALREADY = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""Dagster's own mark on an output whose events the step has written itself. It is private and the pin is exact;
`test_a_shard_is_recorded_once` fails when a new release does otherwise."""

_SHOWN_COLUMNS = 100
"""Columns in an event's table schema. 2,048 of them are 300 KB, an event is written for every shard."""

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.MaterializeResult[None]


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn an error that is meant for people into the failure's description, without a traceback in the UI."""
    try:
        yield
    except PrecalcError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


EVALUATED_VERSION = "data_version"
"""The metadata of a check's evaluation that says of which data it is."""

Metadatum = dg.MetadataValue | str | int | float


@dataclass(frozen=True, slots=True)
class Input:
    """An asset that shards were made from beside the one before: its data version, and the event that recorded it.

    Dagster takes a shard for stale when a later event has another version than the last one up to this event. Of a
    shard that was made without any, no event is later.
    """

    asset: str
    data_version: str = NULL_DATA_VERSION.value
    event: str = NULL_EVENT_POINTER

    @property
    def tags(self) -> dict[str, str]:
        """What a materialisation is marked with."""
        return {
            f"{INPUT_DATA_VERSION_TAG_PREFIX}/{self.asset}": self.data_version,
            f"{INPUT_EVENT_POINTER_TAG_PREFIX}/{self.asset}": self.event,
        }


Beside = Callable[[ShardOutcome], Sequence[Input]]
"""What a shard was made from, beside its source."""


def recorded_input(instance: dg.DagsterInstance, asset: str, partition: str, data_version: str) -> Input:
    """Return an asset's partition as an input; as one that was not there if what was recorded last is another version.

    A shard that is made of a model's new release must not turn stale when the canary learns of that release.
    """
    records = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition])
    for record in instance.fetch_materializations(records, limit=1).records:
        recorded = record.asset_materialization
        if recorded and (recorded.tags or {}).get(DATA_VERSION_TAG) == data_version:
            return Input(asset, data_version, str(record.storage_id))
    return Input(asset)


class ShardEvents:
    """The events of shards of one asset, whoever records them: a run as they land, or a sensor of those that did.

    `source` is the asset before this one, of the same partitions, of the shards alone, or of none. `keys` are the
    partitions that events may be of. Of the asset's checks, `warnings` hold nothing back when they are broken.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        platform: Platform,
        asset: dg.AssetKey,
        source: str,
        keys: Sequence[str],
        *,
        warnings: Container[str] = (),
    ) -> None:
        self._warnings = warnings
        self._platform = platform
        self._asset = asset
        self._source = source
        self._source_events = instance.get_latest_storage_id_by_partition(
            dg.AssetKey(source),
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            {*keys, *(key.rpartition("|")[2] for key in keys)},
        )

    def evaluations(self, outcome: ShardOutcome, key: str) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield what the shard's checks have found."""
        for check in outcome.checks:
            warns = check.name in self._warnings
            yield dg.AssetCheckEvaluation(
                asset_key=self._asset,
                check_name=check.name,
                passed=check.passed,
                metadata={EVALUATED_VERSION: outcome.digest} if outcome.digest else {},
                severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
                description=check.description,
                blocking=not warns,
                partition=key,
            )

    def materialization(self, outcome: ShardOutcome, key: str, beside: Sequence[Input]) -> dg.AssetMaterialization:
        """Return the event of a shard that landed, made from its source and from what is `beside` it."""
        facts: dict[str, Metadatum] = {
            name: dg.MetadataValue.url(str(fact)) if str(fact).startswith("https://") else fact
            for name, fact in outcome.facts.items()
        }
        metadata: dict[str, Metadatum] = {"dagster/row_count": facts.pop("rows")}
        if "path" in facts:
            metadata["dagster/uri"] = self._platform.uri(str(facts.pop("path")))
        if outcome.columns:
            metadata["dagster/column_schema"] = table_schema(outcome.columns)
        inputs = [self._source_input(key, outcome), *beside]
        return dg.AssetMaterialization(
            asset_key=self._asset,
            partition=key,
            metadata={**metadata, **facts},
            tags={
                DATA_VERSION_TAG: outcome.digest,
                DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                CODE_VERSION_TAG: "1",
                **{name: value for source in inputs for name, value in source.tags.items()},
            },
        )

    def _source_input(self, key: str, outcome: ShardOutcome) -> Input:
        event = self._source_events.get(key) or self._source_events.get(outcome.shard)
        return Input(self._source, outcome.source_digest, str(event) if event else NULL_EVENT_POINTER)


class Recorder:
    """Records the shards of one step, each with what it was made from, and at the step's end says which failed.

    `source` and `warnings` are as for `ShardEvents`.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        platform: Platform,
        source: str,
        *,
        checks: Mapping[str, str],
        warnings: Container[str] = (),
    ) -> None:
        self._checks = tuple(checks)
        self._warnings = warnings
        self._warned: Counter[str] = Counter()
        self._events = ShardEvents(
            context.instance, platform, context.asset_key, source, context.partition_keys, warnings=warnings
        )
        self._failures: list[str] = []
        self._landed = 0

    def record(
        self, outcomes: Iterable[ShardOutcome], model: str | None = None, beside: Beside = lambda _: ()
    ) -> Iterator[Event]:
        """Yield the events of each shard as it lands; failures are kept for the end.

        `beside` tells what a shard was made from other than the recorder's source.
        """
        for outcome in outcomes:
            key = partition_key(model, outcome.shard) if model else outcome.shard
            yield from self._events.evaluations(outcome, key)
            if outcome.landed:
                self._landed += 1
                self._warned.update(check.name for check in outcome.checks if not check.passed)
                yield self._events.materialization(outcome, key, beside(outcome))
            else:
                self._failures.append(f"{key}: {outcome.failure}")

    def conclude(self) -> Iterator[Event]:
        """Yield the step's own result. Raises Failure that names the shards that failed, if any did."""
        if self._failures:
            total = self._landed + len(self._failures)
            raise dg.Failure(
                description=f"{len(self._failures)} of {total} shards failed:\n" + "\n".join(self._failures),
                metadata={"failed": len(self._failures), "landed": self._landed},
                allow_retries=False,
            )
        yield dg.MaterializeResult(
            metadata=_RECORDED_ALREADY, check_results=[self._concluded(name) for name in self._checks]
        )

    def _concluded(self, check: str) -> dg.AssetCheckResult:
        """Return what Dagster wants of each check from a step that ends well: of all its shards together."""
        broken = self._warned[check]
        found = f"broken by {broken} of {self._landed}" if broken else f"kept by all {self._landed}"
        return dg.AssetCheckResult(
            check_name=check,
            passed=not broken,
            severity=dg.AssetCheckSeverity.WARN if check in self._warnings else dg.AssetCheckSeverity.ERROR,
            description=f"{found} shards of this run",
        )


def check_specs(
    asset: str,
    checks: Mapping[str, str],
    partitions: dg.PartitionsDefinition[str],
    *,
    warnings: Container[str] = (),
) -> list[dg.AssetCheckSpec]:
    """Return the specs of an asset's checks, evaluated per partition by the asset's own step; warnings do not block."""
    return [
        dg.AssetCheckSpec(
            name, asset=asset, description=promise, blocking=name not in warnings, partitions_def=partitions
        )
        for name, promise in checks.items()
    ]


def table_schema(columns: Sequence[Column]) -> dg.MetadataValue:
    """Return what the UI shows of a model's columns: the first hundred of them."""
    shown = [
        dg.TableColumn(column.name, type=column.type, description=column.description)
        for column in columns[:_SHOWN_COLUMNS]
    ]
    return dg.MetadataValue.table_schema(dg.TableSchema(shown))

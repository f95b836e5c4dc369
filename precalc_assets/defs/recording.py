"""How a shard's outcome becomes Dagster events: one materialisation when it lands, and then its check evaluations.

A run takes a range of partitions. Left to itself, Dagster records the whole range when the step ends: nothing
before, all keys with one data version, and nothing at all if one shard failed. So the assets here record each shard
themselves, and keep Dagster from doing it again.
"""

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import dagster as dg
import obstore
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
from precalc_assets.defs.asset_checks import AssetChecks, Finding, Metadatum, check_outputs
from precalc_assets.defs.partitions import partition_key
from precalc_assets.defs.resources import Platform
from precalc_assets.errors import PrecalcError
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.storage import quarantine

_RECORDED_ALREADY = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""Dagster's own mark on an output whose events the step has written itself. It is private and the pin is exact;
`test_a_shard_is_recorded_once` fails when a new release does otherwise."""

_SHOWN_COLUMNS = 100
"""Columns in an event's table schema. 2,048 of them are 300 KB, an event is written for every shard."""

_EVALUATION_SECONDS = 5.0
"""After which the shards that landed meanwhile are evaluated: together, for what an evaluation names takes queries."""

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.MaterializeResult[None] | dg.Output[None]


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn an error that is meant for people into the failure's description, without a traceback in the UI."""
    try:
        yield
    except PrecalcError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


EVALUATED_VERSION = "data_version"
"""The metadata of a check's evaluation that says of which data it is."""


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
    partitions that events may be of.
    """

    def __init__(
        self, instance: dg.DagsterInstance, platform: Platform, checks: AssetChecks, source: str, keys: Sequence[str]
    ) -> None:
        self._instance = instance
        self._platform = platform
        self._checks = checks
        self._source = source
        self._source_events = instance.get_latest_storage_id_by_partition(
            dg.AssetKey(source),
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            {*keys, *(key.rpartition("|")[2] for key in keys)},
        )

    def evaluations(self, outcomes: Mapping[str, ShardOutcome]) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield what the checks of shards found, by partition key. Materialisations are recorded before."""
        findings = {key: Finding(outcome.checks, self._metadata(outcome, key)) for key, outcome in outcomes.items()}
        return self._checks.evaluations(self._instance, findings)

    def _metadata(self, outcome: ShardOutcome, key: str) -> dict[str, Metadatum]:
        facts = outcome.facts
        metadata: dict[str, Metadatum] = {"partition": key}
        if outcome.digest:
            metadata[EVALUATED_VERSION] = outcome.digest
        if "rows" in facts:
            metadata["molecules"] = facts["rows"]
        if "path" in facts:
            metadata["dagster/uri"] = self._platform.uri(str(facts["path"]))
        if "quarantined" in facts:
            metadata["quarantined"] = facts["quarantined"]
            metadata["failure_rate"] = round(float(facts["quarantined"]) / max(1.0, float(facts["rows"])), 4)
        if "mostly" in facts:
            metadata["mostly"] = facts["mostly"]
        return metadata

    def explained(self, outcome: ShardOutcome, key: str) -> ShardOutcome:
        """Return a failed shard's outcome with why most of its quarantined molecules are; others as they are."""
        if outcome.landed or not outcome.facts.get("quarantined"):
            return outcome
        try:
            listed = obstore.get(self._platform.store, quarantine(key.partition("|")[0], outcome.shard)).bytes()
            rows = list(csv.DictReader(io.StringIO(bytes(listed).decode(), newline="")))
        except FAILURES as error:
            return replace(outcome, failure=f"{outcome.failure}; its quarantine list: {reason(error)}")
        [(mostly, _)] = Counter(row["reason"] for row in rows).most_common(1) or [("no reason is listed", 0)]
        return replace(
            outcome, failure=f"{outcome.failure}; mostly: {mostly}", facts={**outcome.facts, "mostly": mostly}
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
            asset_key=self._checks.asset,
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

    `source` is as for `ShardEvents`.
    """

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, source: str, checks: AssetChecks) -> None:
        self._context = context
        self._checks = checks
        self._events = ShardEvents(context.instance, platform, checks, source, context.partition_keys)
        self._unevaluated: dict[str, ShardOutcome] = {}
        self._evaluated_at = time.monotonic()
        self._failures: dict[str, str] = {}
        self._landed = 0

    def record(
        self, outcomes: Iterable[ShardOutcome], model: str | None = None, beside: Beside = lambda _: ()
    ) -> Iterator[Event]:
        """Yield the events of each shard as it lands; failures are kept for the end.

        `beside` tells what a shard was made from other than the recorder's source.
        """
        for found in outcomes:
            key = partition_key(model, found.shard) if model else found.shard
            outcome = self._events.explained(found, key)
            if outcome.landed:
                self._landed += 1
                yield self._events.materialization(outcome, key, beside(outcome))
            else:
                self._failures[key] = outcome.failure
                self._context.log.error(f"{key}: {outcome.failure}")
            self._unevaluated[key] = outcome
            if time.monotonic() - self._evaluated_at > _EVALUATION_SECONDS:
                yield from self._evaluate()
        yield from self._evaluate()

    def _evaluate(self) -> Iterator[Event]:
        yield from self._events.evaluations(self._unevaluated)
        self._unevaluated.clear()
        self._evaluated_at = time.monotonic()

    def conclude(self) -> Iterator[Event]:
        """Yield the step's own result. Raises Failure that names the shards that failed, if any did."""
        yield from self._checks.summaries(self._context.instance)
        if self._failures:
            total = self._landed + len(self._failures)
            raise dg.Failure(
                description=f"{len(self._failures)} of {total} shards failed:\n{_grouped(self._failures)}",
                metadata={"failed": len(self._failures), "landed": self._landed},
                allow_retries=False,
            )
        yield dg.MaterializeResult(metadata=_RECORDED_ALREADY)
        yield from check_outputs(self._context)


def _grouped(failures: Mapping[str, str]) -> str:
    """Return a line for each kind of failure: the first of it in full, and which others are like it but for numbers."""
    kinds: dict[str, list[str]] = {}
    for key, failure in failures.items():
        kinds.setdefault(re.sub(r"\d+", "", failure), []).append(key)
    lines = [
        f"{first}: {failures[first]}" + (f" (also {len(others)} like it: {', '.join(others)})" if others else "")
        for first, *others in kinds.values()
    ]
    return "\n".join(lines)


def table_schema(columns: Sequence[Column]) -> dg.MetadataValue:
    """Return what the UI shows of a model's columns: the first hundred of them."""
    shown = [
        dg.TableColumn(column.name, type=column.type, description=column.description)
        for column in columns[:_SHOWN_COLUMNS]
    ]
    return dg.MetadataValue.table_schema(dg.TableSchema(shown))

"""How a shard's outcome becomes Dagster events: a materialization when it lands, then its check evaluations.

A run takes a range of partitions. By default Dagster records the whole range when the step ends: nothing before that,
one data version for all keys, and nothing at all if one shard failed. So the assets here record each shard themselves,
and keep Dagster from recording it again.
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

from precalc.identifiers import is_model_id
from precalc.source import name_some
from precalc_assets.defs import dagster_internals as internals
from precalc_assets.defs.asset_checks import AssetChecks, Finding, Metadatum, check_outputs
from precalc_assets.defs.partitions import partition_key, shards_by_model
from precalc_assets.defs.ui_metadata import markdown_table, table_schema
from precalc_assets.outcomes import FAILURES, ShardOutcome, reason
from precalc_assets.platform import Platform
from precalc_assets.platform_errors import PrecalcError, is_models_fault
from precalc_assets.sharding import format_shards
from precalc_assets.storage import quarantine, read_object

_EVALUATION_SECONDS = 5.0
"""Seconds after which the shards that landed since the last evaluation are evaluated together, by a few queries."""

MODELS_FAULT = "models_fault"
"""The metadatum of a failed run that says whether the model alone is at fault: another run would fail again."""

CODE_VERSION = "1"
"""The declared version of all assets' code. Data versions tell changes of the data, so it stays."""

_TABLE_ROWS = 100
"""The most failed shards in the table of a failure."""

Event = (
    dg.AssetMaterialization
    | dg.AssetObservation
    | dg.AssetCheckEvaluation
    | dg.MaterializeResult[None]
    | dg.Output[None]
)


@contextmanager
def own_step(context: dg.AssetExecutionContext | dg.OpExecutionContext, **tags: str) -> Iterator[None]:
    """Tag a step's run with its models and `tags`; show a PrecalcError as a failure without a traceback.

    Whoever started the run, people filter the list of runs by these tags. A key of Dagster's has one value, so a run
    over several models names them together.
    """
    if isinstance(context, dg.AssetExecutionContext) and context.assets_def.partitions_def:
        models = [*filter(is_model_id, dict.fromkeys(key.partition("|")[0] for key in context.partition_keys))]
        tags |= {"model": name_some(models)} if models else {}
    if tags:
        context.instance.add_run_tags(context.run.run_id, tags)
    try:
        yield
    except PrecalcError as error:
        metadata = {MODELS_FAULT: is_models_fault(error)}
        raise dg.Failure(description=str(error), metadata=metadata, allow_retries=False) from error


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a shard, an asset or its partition: its data version, and the event that recorded it.

    Dagster shows a shard as stale when a later event of the input has another version. A shard recorded with a missing
    input never goes stale by it.
    """

    asset: str
    data_version: str = internals.NULL_DATA_VERSION.value
    event: str = internals.NULL_EVENT_POINTER

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a materialization that was made from this input."""
        return {
            f"{internals.INPUT_DATA_VERSION_TAG_PREFIX}/{self.asset}": self.data_version,
            f"{internals.INPUT_EVENT_POINTER_TAG_PREFIX}/{self.asset}": self.event,
        }


def recorded_input(
    instance: dg.DagsterInstance, asset: str, partition: str | None = None, data_version: str | None = None
) -> Input:
    """Return the last recorded event of an asset, or of its partition, as an input.

    The input is missing if nothing is recorded, or a version other than `data_version`. Otherwise a shard of a model's
    new release would turn stale when the canary of that release is recorded.
    """
    records = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition] if partition else None)
    for record in instance.fetch_materializations(records, limit=1).records:
        recorded = record.asset_materialization
        version = (recorded.tags or {}).get(internals.DATA_VERSION_TAG) if recorded else None
        if version and data_version in (None, version):
            return Input(asset, version, str(record.storage_id))
    return Input(asset)


def version_tags(data_version: str) -> dict[str, str]:
    """Return the tags that give a materialization its data version."""
    return {
        internals.DATA_VERSION_TAG: data_version,
        internals.DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        internals.CODE_VERSION_TAG: CODE_VERSION,
    }


class Recorder:
    """Records the shards of one step with their inputs, and fails at the end of the step if shards failed.

    `source` is the asset that the shards are made from. It has the same partitions, the shards' only, or none.
    """

    def __init__(self, context: dg.AssetExecutionContext, platform: Platform, source: str, checks: AssetChecks) -> None:
        self._context = context
        self._platform = platform
        self._checks = checks
        self._source = source
        keys = context.partition_keys
        self._source_events = context.instance.get_latest_storage_id_by_partition(
            dg.AssetKey(source),
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            {*keys, *(key.rpartition("|")[2] for key in keys)},
        )
        self._unevaluated: dict[str, Finding] = {}
        self._evaluated_at = time.monotonic()
        self._failures: dict[str, str] = {}
        self._models_fault = True
        self._failed: dict[str, dict[str, Metadatum]] = {}
        self._landed = 0

    def record(self, outcome: ShardOutcome, model: str | None = None, inputs: Sequence[Input] = ()) -> Iterator[Event]:
        """Yield a shard's events. Failures are raised by `conclude`. `inputs` are the inputs besides the source."""
        key = partition_key(model, outcome.shard) if model else outcome.shard
        outcome = self._explain(outcome, key)
        shown = self._check_metadata(outcome, key)
        if outcome.landed:
            self._landed += 1
            yield self._materialization(outcome, key, inputs)
        else:
            self._failures[key] = outcome.failure
            self._models_fault &= outcome.models_fault
            self._failed[key] = shown
            self._context.log.error(f"{key}: {outcome.failure}")
            # The pane of a failed partition lists this under its historical events, and else names the run alone.
            yield dg.AssetObservation(
                self._checks.asset, description=outcome.failure, partition=key, metadata={**shown, **_again([key])}
            )
        self._unevaluated[key] = Finding(outcome.checks, shown)
        if time.monotonic() - self._evaluated_at > _EVALUATION_SECONDS:
            yield from self._evaluate()

    def conclude(self) -> Iterator[Event]:
        """Yield the step's result. Raises Failure, which names the failed shards, if there are any."""
        yield from self._evaluate()
        yield from self._checks.summaries(self._context.instance, self._context.assets_def.partitions_def)
        if self._failures:
            total = self._landed + len(self._failures)
            raise dg.Failure(
                description=f"{len(self._failures)} of {total} shards failed:\n{_grouped(self._failures)}",
                metadata={
                    "failed": len(self._failures),
                    MODELS_FAULT: self._models_fault,
                    "landed": self._landed,
                    "failed_shards": self._failure_table(),
                    **_again([*self._failures]),
                },
                allow_retries=False,
            )
        yield dg.MaterializeResult(metadata=internals.RECORDED_ALREADY)
        yield from check_outputs(self._context)

    def _failure_table(self) -> dg.MetadataValue:
        names = ("molecules", "quarantined", "failure_rate")
        rows = [
            (key, *(str(self._failed[key].get(name, "–")) for name in names), self._failures[key])
            for key in [*self._failures][:_TABLE_ROWS]
        ]
        return markdown_table(("partition", *names, "why"), rows)

    def _evaluate(self) -> Iterator[Event]:
        yield from self._checks.evaluations(self._context.instance, self._unevaluated)
        self._unevaluated.clear()
        self._evaluated_at = time.monotonic()

    def _check_metadata(self, outcome: ShardOutcome, key: str) -> dict[str, Metadatum]:
        facts = outcome.facts
        metadata: dict[str, Metadatum] = {"partition": key}
        if outcome.digest:
            metadata["data_version"] = outcome.digest
        if "rows" in facts:
            metadata["molecules"] = facts["rows"]
        if "path" in facts:
            metadata["dagster/uri"] = self._platform.uri(str(facts["path"]))
        if "quarantined" in facts:
            metadata["quarantined"] = facts["quarantined"]
            metadata["failure_rate"] = round(float(facts["quarantined"]) / max(1.0, float(facts["rows"])), 4)
            metadata["limit"] = self._platform.settings.max_failure_rate
        for name in ("job", "run"):
            if name in facts:
                metadata[name] = dg.MetadataValue.url(str(facts[name]))
        metadata |= {name: facts[name] for name in ("emptied_cells", "mostly") if name in facts}
        return metadata

    def _explain(self, outcome: ShardOutcome, key: str) -> ShardOutcome:
        """Add the most frequent reason of quarantined molecules to a failed shard; return others unchanged."""
        if outcome.landed or not outcome.facts.get("quarantined"):
            return outcome
        try:
            listed = read_object(self._platform.store, quarantine(key.partition("|")[0], outcome.shard))
            rows = list(csv.DictReader(io.StringIO(bytes(listed).decode(), newline="")))
        except FAILURES as error:
            return replace(outcome, failure=f"{outcome.failure}; its quarantine list: {reason(error)}")
        [(mostly, _)] = Counter(row["reason"] for row in rows).most_common(1) or [("no reason is listed", 0)]
        return replace(
            outcome, failure=f"{outcome.failure}; mostly: {mostly}", facts={**outcome.facts, "mostly": mostly}
        )

    def _materialization(self, outcome: ShardOutcome, key: str, inputs: Sequence[Input]) -> dg.AssetMaterialization:
        facts: dict[str, Metadatum] = {
            name: dg.MetadataValue.url(str(fact)) if str(fact).startswith("https://") else fact
            for name, fact in outcome.facts.items()
        }
        metadata: dict[str, Metadatum] = {"dagster/row_count": facts.pop("rows")}
        if "path" in facts:
            metadata["dagster/uri"] = self._platform.uri(str(facts.pop("path")))
        if outcome.columns:
            metadata["dagster/column_schema"] = table_schema(outcome.columns)
        event = self._source_events.get(key) or self._source_events.get(outcome.shard)
        source = Input(self._source, outcome.source_digest, str(event) if event else internals.NULL_EVENT_POINTER)
        input_tags = {name: value for each in (source, *inputs) for name, value in each.tags.items()}
        return dg.AssetMaterialization(
            asset_key=self._checks.asset,
            partition=key,
            metadata={**metadata, **facts},
            tags={**version_tags(outcome.digest), **input_tags},
        )


def record_shards(
    context: dg.AssetExecutionContext,
    platform: Platform,
    source: str,
    checks: AssetChecks,
    work: Callable[[str, list[str]], Iterable[ShardOutcome]],
) -> Iterator[Event]:
    """Do a step's work, given a model and its shards, and yield the events of its outcomes; see `Recorder`."""
    with own_step(context):
        recorder = Recorder(context, platform, source, checks)
        for model, shards in shards_by_model(context.partition_keys).items():
            for outcome in work(model, shards):
                yield from recorder.record(outcome, model)
        yield from recorder.conclude()


def _again(keys: Sequence[str]) -> dict[str, Metadatum]:
    """Return the metadata that says how to try only these shards of models again."""
    models = shards_by_model(key for key in keys if "|" in key)
    commands = [f"`precalc run {model} --shards {format_shards(shards)}`" for model, shards in models.items()]
    way = "*Materialize* and *Backfill only failed and missing partitions within selection*"
    return {"try_again": dg.MetadataValue.md(f"{'; '.join(commands)}; or {way}")} if commands else {}


def _grouped(failures: Mapping[str, str]) -> str:
    """Return a line per kind of failure: the first one in full, and the keys of those that differ only in numbers."""
    kinds: dict[str, list[str]] = {}
    for key, failure in failures.items():
        kinds.setdefault(re.sub(r"\d+", "", failure), []).append(key)
    lines = [
        f"{first}: {failures[first]}" + (f" (also {len(others)} like it: {', '.join(others)})" if others else "")
        for first, *others in kinds.values()
    ]
    return "\n".join(lines)

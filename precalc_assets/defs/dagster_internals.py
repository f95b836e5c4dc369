"""The names that the graph needs and Dagster does not export. No other module imports `dagster._core`.

Dagster's version is pinned exactly, so they cannot change unnoticed. A comment says when each group can be removed.
"""

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import cast

import dagster as dg
import sqlalchemy

# When a step can report the check evaluations of one partition of its range, with their materialization.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

# When a step can report the materialization of one partition of its range, with its data version and inputs.
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_DATA_VERSION_TAG_PREFIX,
    INPUT_EVENT_POINTER_TAG_PREFIX,
    NULL_DATA_VERSION,
    NULL_EVENT_POINTER,
)

# When `dagster` exports the type that `AutomationCondition.eager()` returns.
from dagster._core.definitions.declarative_automation.operators import AndAutomationCondition

# When `execute_in_process` takes the origin of its run; also `RunFailureReason`, `execute_run_iterator` and the types
# of origins.
from dagster._core.definitions.job_base import InMemoryJob

# When a step can mark an output as recorded.
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.errors import raise_execution_interrupts

# When `dagster` exports what `get_asset_check_execution_history` and `get_asset_check_partition_info` take and return.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import RunFailureReason
from dagster._core.execution import compute_logs
from dagster._core.execution.api import execute_run_iterator
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

# When a storage implements `wipe_asset_partitions`.
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

# When a RunRequest takes a range of partitions, and a run says whether Dagster will retry it.
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    CODE_LOCATION_TAG,
    MAX_RETRIES_TAG,
    PARTITION_NAME_TAG,
    ROOT_RUN_ID_TAG,
    WILL_RETRY_TAG,
)


def hide_log_readers() -> None:
    """Start Dagster's programs that read a step's log without our variables, which a model could read from theirs.

    When Dagster captures a step's output without `tail`.
    """
    without_variables = partial(subprocess.Popen, env={"PATH": os.environ.get("PATH", os.defpath)})
    vars(compute_logs)["subprocess"] = SimpleNamespace(Popen=without_variables)


def sleep_while_blocked() -> None:
    """Let a run that waits for a slot of a pool sleep, and end when it is interrupted.

    When Dagster does: 1.13 computes 0 as the time until the next look at the pool, and so keeps a core busy.
    """

    def seconds(_: InstanceConcurrencyContext) -> float:
        with raise_execution_interrupts():
            return 1.0

    InstanceConcurrencyContext.interval_to_next_pending_claim_check = seconds  # type: ignore[method-assign, assignment]


def evaluations_with(instance: dg.DagsterInstance, asset: dg.AssetKey, label: str) -> set[int]:
    """Return the storage ids of all evaluations of an asset's checks that have a metadatum with this label.

    When `get_asset_check_partition_info` gives metadata. Reading each evaluation would take seconds for 10,000.
    """
    storage, checks = cast("SqlEventLogStorage", instance.event_log_storage), AssetCheckExecutionsTable.c
    labelled = (checks.asset_key == asset.to_string()) & checks.evaluation_event.contains(f'"{label}"')
    with storage.index_connection() as connection:
        return {*connection.scalars(sqlalchemy.select(checks.evaluation_event_storage_id).where(labelled))}


def wipe_partitions(instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Sequence[str]) -> None:
    """Delete the events and check evaluations of an asset's partitions, which then show as never materialized.

    Dagster's own `wipe_asset_partitions` is not implemented by the storages in SQLite and Postgres.
    """
    storage = cast("SqlEventLogStorage", instance.event_log_storage)
    events, tags, checks = SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable
    wiped = (events.c.asset_key == asset.to_string()) & events.c.partition.in_(partitions)
    evaluated = (checks.c.asset_key == asset.to_string()) & checks.c.partition.in_(partitions)
    with storage.index_connection() as connection:
        connection.execute(tags.delete().where(tags.c.event_id.in_(sqlalchemy.select(events.c.id).where(wiped))))
        connection.execute(events.delete().where(wiped))
        connection.execute(checks.delete().where(evaluated))
    storage.wipe_asset_cached_status(asset)


RECORDED_ALREADY = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""The metadata that tell Dagster that a step has recorded the output's events itself."""

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
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

# When `dagster` exports what `get_asset_check_execution_history` and `get_asset_check_partition_info` take and return.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.execution import compute_logs

# When `dagster` exports the type of an event's `step_failure_data`.
from dagster._core.execution.plan.objects import StepFailureData
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

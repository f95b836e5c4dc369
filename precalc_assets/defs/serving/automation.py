"""Automation of the assets downstream of inference: their conditions, and the sensor that evaluates them."""

from typing import Any

import dagster as dg

from precalc_assets.defs.dagster_internals import AndAutomationCondition

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="When raw predictions are materialised, the rest follows by itself.",
)


def follow_upstream() -> AndAutomationCondition[Any]:
    """Materialize a partition when its upstream arrives or changes, or arrived while no daemon ran.

    Dagster's `eager` only sees upstream events while the daemon runs. This condition also materializes a missing
    partition, such as one whose upstream was computed by the command line or on a runner. A failed one waits for a
    change.
    """
    unserved = dg.AutomationCondition.missing() & ~dg.AutomationCondition.execution_failed()
    return dg.AutomationCondition.eager().replace("newly_missing", unserved).with_label("follow upstream")


def follow_upstream_in_part() -> AndAutomationCondition[Any]:
    """Do the same for an asset that does not wait for all its upstream partitions."""
    any_upstream = dg.AutomationCondition.any_deps_match(~dg.AutomationCondition.missing())
    condition = follow_upstream().without(~dg.AutomationCondition.any_deps_missing()) & any_upstream
    return condition.with_label("follow upstream, also in part")

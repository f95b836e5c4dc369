"""When Dagster goes on by itself: the conditions of the assets downstream of inference, and the sensor behind them."""

from typing import Any

import dagster as dg
from dagster._core.definitions.declarative_automation.operators import AndAutomationCondition

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="When raw predictions are materialised, the rest follows by itself.",
)


def follow_upstream() -> AndAutomationCondition[Any]:
    """Materialise a partition when what it is made from arrives or changes, or had arrived before we looked.

    Dagster's `eager` sees only what arrives while the daemon runs. What was computed while it was down, by the command
    line or on a runner, is missing here as well, and is caught up; unless it has failed already, which waits for its
    cause to be mended.
    """
    unserved = dg.AutomationCondition.missing() & ~dg.AutomationCondition.execution_failed()
    return dg.AutomationCondition.eager().replace("newly_missing", unserved).with_label("follow upstream")


def follow_upstream_in_part() -> AndAutomationCondition[Any]:
    """Do the same for an asset that says how much of its upstream there is: it does not wait for all of it."""
    some_of_it = dg.AutomationCondition.any_deps_match(~dg.AutomationCondition.missing())
    condition = follow_upstream().without(~dg.AutomationCondition.any_deps_missing()) & some_of_it
    return condition.with_label("follow upstream, also in part")

"""Executions on compute backends: their records, the protocol that launches each once, and following them.

The backends are not imported here: `github` loads githubkit, which takes a third of a second.
"""

from precalc_assets.executions.compute_backend import Engine
from precalc_assets.executions.following import (
    ATTEMPTS,
    cancel,
    follow,
    follow_sample,
    retry_reasons,
    shards_to_retry,
)
from precalc_assets.executions.records import (
    SAMPLE,
    Cancellation,
    Execution,
    Intent,
    Run,
    Settled,
    claim_own,
    followed,
    list_executions,
    open_execution,
    unsettled,
)
from precalc_assets.executions.request_queue import (
    Request,
    meet_request,
    pending_requests,
    put_request,
    read_request,
)
from precalc_assets.executions.settling import find_landed
from precalc_assets.executions.stepping import step

__all__ = [
    "ATTEMPTS",
    "SAMPLE",
    "Cancellation",
    "Engine",
    "Execution",
    "Intent",
    "Request",
    "Run",
    "Settled",
    "cancel",
    "claim_own",
    "find_landed",
    "follow",
    "follow_sample",
    "followed",
    "list_executions",
    "meet_request",
    "open_execution",
    "pending_requests",
    "put_request",
    "read_request",
    "retry_reasons",
    "shards_to_retry",
    "step",
    "unsettled",
]

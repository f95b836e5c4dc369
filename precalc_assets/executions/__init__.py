"""Executions on GitHub's runners: their records, the client, launching each once, and following it to the end."""

from precalc_assets.executions.records import (
    Intent,
    Request,
    Run,
    Settled,
    check_key,
    claim,
    claim_own,
    find_settled,
    meet_request,
    open_execution,
    pending_requests,
    put_request,
    read_intent,
    read_request,
    report_shard,
    unsettled,
)

__all__ = [
    "Intent",
    "Request",
    "Run",
    "Settled",
    "check_key",
    "claim",
    "claim_own",
    "find_settled",
    "meet_request",
    "open_execution",
    "pending_requests",
    "put_request",
    "read_intent",
    "read_request",
    "report_shard",
    "unsettled",
]

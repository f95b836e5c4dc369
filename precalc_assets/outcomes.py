"""The outcome of a shard at one stage of the graph, in plain values.

The functions that do the work yield an outcome as each shard ends. Dagster, the command line and the workflow each
translate outcomes for their readers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from obstore.exceptions import BaseError

from precalc_assets.columns import Column
from precalc_assets.emptied_cells import EmptiedColumn
from precalc_assets.own_process import return_memory
from precalc_assets.platform_errors import PrecalcError, is_models_fault

Fact = str | int | float


@dataclass(frozen=True, slots=True)
class Check:
    """An evaluated check of a shard's data. A failed check keeps the shard from landing, unless it is a warning.

    A check that had too little to judge by passes as `undecided`.
    """

    name: str
    passed: bool
    description: str
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """A shard that landed, with its digest; one that failed, with the reason; or an unfinished one.

    A failure is the model's fault if another attempt would fail again, on any machine.
    A shard is `unfinished` if the run's time budget ended before it was done. `digest` identifies the shard's data, and
    `source_digest` the previous stage's data that they were made from; both change only with the data. `facts` hold
    `rows`, `bytes`, `seconds`, `path` and the stage's other figures. A key means the same at every stage. `emptied`
    counts the cells that are served as null although the model printed a text.
    """

    shard: str
    digest: str = ""
    source_digest: str = ""
    failure: str = ""
    models_fault: bool = False
    unfinished: bool = False
    columns: tuple[Column, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    emptied: tuple[EmptiedColumn, ...] = ()

    @property
    def landed(self) -> bool:
        """Whether the next stage can use the shard's data."""
        return not self.failure and not self.unfinished


FAILURES = (PrecalcError, BaseError, OSError)
"""Errors that fail one shard and no other: the platform's, the object store's and the system's. Any other exception is
a defect."""

_AT_ONCE = 2
"""Concurrent shards: while one waits for the store or for Dagster's records, another is computed."""


def reason(error: BaseException) -> str:
    """Return an error in one line. For obstore's long errors: the request, the answer and the cause."""
    text = str(error)
    first = text.partition("\n")[0]
    request = _REQUEST.search(first)
    if not request:
        return first or type(error).__name__
    answer = _S3_ERROR.search(text)
    cause = _CAUSE.search(text)
    if answer:
        return f"{request['what']}: {answer['code']}: {answer['message']}"
    return f"{request['what']}: {request['answer']}" + (f" ({cause['message']})" if cause else "")


def s3_error_code(error: BaseException) -> str | None:
    """Return S3's error code; None if S3 did not answer."""
    answer = _S3_ERROR.search(str(error))
    if answer:
        return answer["code"]
    # obstore hides S3's answer when it redirects to another region.
    return "PermanentRedirect" if "Received redirect" in str(error) else None


_REQUEST = re.compile(r"Error performing (?P<what>[A-Z]+ \S+) in .*? - (?P<answer>.*)")
_S3_ERROR = re.compile(r"<Code>(?P<code>.*?)</Code>\s*<Message>(?P<message>.*?)</Message>", re.DOTALL)
_CAUSE = re.compile(r'\bmessage: "(?P<message>[^"]+)"')
"""The parts of obstore's message about a failed request, as of obstore 0.12; S3's own error is XML."""


def failed_outcome(shard: str, error: BaseException) -> ShardOutcome:
    """Return the outcome of a shard that failed by this error."""
    return ShardOutcome(shard, failure=reason(error), models_fault=is_models_fault(error))


def each_shard(shards: Iterable[str], work: Callable[[str], ShardOutcome]) -> Iterator[ShardOutcome]:
    """Do the work of the shards, two at a time, and yield their outcomes in order.

    A failure becomes an outcome and stops no other shard. When the caller stops, no further shard begins. What a shard
    has freed is returned to the system before the next one begins.
    """

    def attempt(shard: str) -> ShardOutcome:
        try:
            return work(shard)
        except FAILURES as error:
            return failed_outcome(shard, error)
        finally:
            return_memory()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = [pool.submit(attempt, shard) for shard in shards]
        try:
            for outcome in outcomes:
                yield outcome.result()
        finally:
            pool.shutdown(cancel_futures=True)

"""What came of a shard at one stage of the graph, in plain values.

The functions that do the work yield these one by one, as shards land; Dagster, the command line and the workflow
each turn them into what their readers see.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from obstore.exceptions import BaseError

from precalc_assets.columns import Column
from precalc_assets.platform_errors import PrecalcError

Fact = str | int | float


@dataclass(frozen=True, slots=True)
class Check:
    """A promise about a shard's data, kept or broken. Broken ones keep the shard from landing, but for warnings."""

    name: str
    passed: bool
    description: str


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """A shard that landed, with its digest; one that failed, with the reason; or one that is `unfinished`.

    That is a shard for which there was no time, in a run that was asked to stop in time.
    `digest` names the content, and `source_digest` that of the stage before which it was made from: they change when
    the shard's data change and not otherwise. `facts` hold `rows`, `bytes`, `seconds`, `path` and whatever else the
    stage counts; the same key means the same thing at every stage.
    """

    shard: str
    digest: str = ""
    source_digest: str = ""
    failure: str = ""
    unfinished: bool = False
    columns: tuple[Column, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def landed(self) -> bool:
        """Whether the shard's data are there for the next stage."""
        return not self.failure and not self.unfinished


FAILURES = (PrecalcError, BaseError, OSError)
"""What a shard may fail of while the others go on: our errors, the object store's, the system's. Not our defects."""


_AT_ONCE = 2
"""Shards in work at a time: while one waits for the store or for Dagster's records, another is computed."""


def reason(error: BaseException) -> str:
    """Return what an error says in one line. Of obstore's pages: the request, what was answered, and the cause."""
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
    """Return the code by which S3 names what went wrong; None if S3 did not answer."""
    answer = _S3_ERROR.search(str(error))
    if answer:
        return answer["code"]
    # obstore keeps S3's answer to itself when it points to another region.
    return "PermanentRedirect" if "Received redirect" in str(error) else None


_REQUEST = re.compile(r"Error performing (?P<what>[A-Z]+ \S+) in .*? - (?P<answer>.*)")
_S3_ERROR = re.compile(r"<Code>(?P<code>.*?)</Code>\s*<Message>(?P<message>.*?)</Message>", re.DOTALL)
_CAUSE = re.compile(r'\bmessage: "(?P<message>[^"]+)"')
"""The parts of what obstore says of a request, seen in obstore 0.12; S3's own error is the XML of its answer."""


def each_shard(shards: Iterable[str], work: Callable[[str], ShardOutcome]) -> Iterator[ShardOutcome]:
    """Do the work of the shards, two at a time, and yield their outcomes in order.

    A failure becomes an outcome, so that it stops no other shard. When the caller stops, what has not begun is left.
    """

    def attempt(shard: str) -> ShardOutcome:
        try:
            return work(shard)
        except FAILURES as error:
            return ShardOutcome(shard, failure=reason(error))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        begun = [pool.submit(attempt, shard) for shard in shards]
        try:
            for future in begun:
                yield future.result()
        finally:
            for future in begun:
                future.cancel()

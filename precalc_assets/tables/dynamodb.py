"""The key-value store on Amazon DynamoDB: one on-demand table per model, created when it is first needed.

Prices and the limit of an item are in `store`, the limits of a request here. boto3 retries requests that are throttled,
fail or break off. This module resends the items that DynamoDB reports as unprocessed. Readers need no setting but the
URL, and no module that does not fit into a Lambda.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, WaiterError

from precalc.identifiers import is_model_id
from precalc_assets.aws import explain, open_session
from precalc_assets.platform_errors import TableError
from precalc_assets.tables.rate_limit import RateLimit
from precalc_assets.tables.store import (
    LIBRARY,
    REGISTRY,
    WRITE_UNIT_BYTES,
    ConditionalPut,
    Consumed,
    Found,
    Item,
    item_bytes,
    missing_table,
    units_to_read,
    write_units,
)

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import AttributeValueTypeDef, WriteRequestTypeDef

    from precalc_assets.settings import Settings

# Amazon DynamoDB API Reference, BatchWriteItem and BatchGetItem.
_WRITES_PER_REQUEST = 25
_KEYS_PER_REQUEST = 100
_REQUEST_BYTES = 1 << 20
"""Bytes per request. DynamoDB takes 16 MB; this bounds memory, and the bytes resent after a failure."""

_WORKERS = 8
"""Concurrent requests: at 10 ms each, some 20,000 pages a second, more than a table takes."""
_MAX_QUEUED = 16
"""Requests in the queue, including those under way."""

_ATTEMPTS_PER_REQUEST = 6
_HTTP = Config(
    # Requests are built from checked values here, and validation takes a third of a call's CPU.
    parameter_validation=False,
    # Standard mode retries throttling, 5xx and broken connections with exponential backoff, 15 s in all.
    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS_PER_REQUEST},
    connect_timeout=5,
    read_timeout=20,
    max_pool_connections=_WORKERS * 2,
    tcp_keepalive=True,
)
_ATTEMPTS = 8
"""Attempts to send the same items while DynamoDB processes none of them."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""First and last bound, in seconds, of the random pauses between attempts (AWS's "exponential backoff and jitter")."""
_USABLE = {"ACTIVE", "UPDATING"}
"""The statuses of a table that can be read and written."""
_WAIT_SECONDS = 180
"""Timeout for creating or deleting a table; both usually take some seconds."""

_KEYS_ONLY = {"ProjectionExpression": "#key", "ExpressionAttributeNames": {"#key": "key"}}
"""Options of a read that returns no values. It costs the same, and transfers less."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Write:
    """A put, or a deletion; `bytes` is 0 for a deletion, since the size of the stored item is unknown."""

    key: str
    request: "WriteRequestTypeDef"
    bytes: int


class DynamoDBStore:
    """The tables `<prefix>-<model>` of one region. Threads may share the store; requests run concurrently.

    `settings` say how tables are created and written; by default they are this process's. `sleep` waits between
    attempts.

    Raises UsageError when there are no AWS credentials.
    """

    def __init__(
        self,
        region: str,
        prefix: str,
        *,
        settings: "Settings | None" = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._region = region
        self._prefix = prefix
        self._given = settings
        self._sleep = sleep
        self._client: DynamoDBClient = open_session(region).client("dynamodb", config=_HTTP)
        # The stubs say that handlers return None, but this event uses what they return.
        self._client.meta.events.register("needs-retry.dynamodb", _retry_if_cut)  # type: ignore[arg-type]
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="dynamodb")
        # Cached per table, to save a request per shard.
        self._active: set[str] = set()
        self._prepared: set[str] = set()
        self._limits: dict[str, RateLimit] = {}

    def create_table(self, table: str) -> None:
        """Create a table and wait until it can be used. Waits first if a table of this name is being deleted.

        Safe to call concurrently. An existing table stays as it is, except that point-in-time recovery is switched on
        if the settings ask for it.
        """
        if table in self._prepared:
            return
        with self._errors(table):
            status = self._status(table)
            if status == "DELETING":
                self._wait_until("table_not_exists", table)
                status = None
            if status is None:
                self._create(table)
            if status not in _USABLE:
                self._wait_until("table_exists", table)
            if self._settings.table_recovery:
                self._switch_recovery_on(table)
        self._active.add(table)
        self._prepared.add(table)

    def drop_table(self, table: str) -> None:
        """Delete a table and wait until it is gone. Raises TableError if it is protected against deletion."""
        self._forget(table)
        name = self._name(table)
        with self._errors(table):
            status = self._status(table)
            if status is None:
                return
            if status != "DELETING":
                try:
                    self._client.delete_table(TableName=name)
                except self._client.exceptions.ResourceNotFoundException:
                    return  # Another process deleted it first.
                except ClientError as error:
                    if "protected" not in error.response["Error"].get("Message", ""):
                        raise
                    raise TableError(
                        f"table {name} in {self._region} is protected against deletion (PRECALC_TABLE_PROTECTION);"
                        f" to delete it, run `aws dynamodb update-table --region {self._region}"
                        f" --table-name {name} --no-deletion-protection-enabled`, then drop it again"
                    ) from error
            self._wait_until("table_not_exists", table)

    def has_table(self, table: str) -> bool:
        """Return whether the table exists and can be used. A yes is cached."""
        if table not in self._active:
            with self._errors(table):
                if self._status(table) not in _USABLE:
                    return False
            self._active.add(table)
        return True

    def list_tables(self) -> list[str]:
        """Return the names of all tables under the prefix, sorted."""
        with self._errors("*"):
            pages = self._client.get_paginator("list_tables").paginate()
            names = [name for page in pages for name in page["TableNames"]]
        tables = [name.removeprefix(f"{self._prefix}-") for name in names if name.startswith(f"{self._prefix}-")]
        # Tables of a longer prefix can begin with this one.
        return sorted(table for table in tables if table in {LIBRARY, REGISTRY} or is_model_id(table))

    def put_many(self, table: str, items: Iterable[Item]) -> Consumed:
        """Write items, no faster than the settings allow. Memory holds some 16 MB of them."""
        puts = (_Write(i.key, {"PutRequest": {"Item": _attributes(i)}}, item_bytes(i)) for i in items)
        return self._write(table, puts)

    def get_many(self, table: str, keys: Sequence[str], *, consistent: bool = False) -> Found:
        """Return the items at the keys, a hundred per request, with concurrent requests."""
        return self._get_many(table, keys, consistent, {})

    def missing_keys(self, table: str, keys: Sequence[str]) -> tuple[list[str], Consumed]:
        """Return the keys that have no item. What an eventually consistent read does not find is read consistently."""
        missing, consumed = list(keys), Consumed()
        for consistent in (False, True):
            found = self._get_many(table, missing, consistent, _KEYS_ONLY)
            missing = [key for key in missing if key not in found]
            consumed += found.consumed
        return missing, consumed

    def put_if(self, table: str, item: Item, expected: str | None) -> ConditionalPut:
        """Write an item if the stored one's version equals `expected`, or if there is none when `expected` is None."""
        with self._errors(table):
            try:
                answer = self._client.put_item(
                    TableName=self._name(table),
                    Item=_attributes(item),
                    ReturnConsumedCapacity="TOTAL",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **_condition(expected),
                )
            except self._client.exceptions.ConditionalCheckFailedException as refusal:
                # If the answer to a put got lost, the retry finds what the first attempt wrote.
                retried = refusal.response["ResponseMetadata"]["RetryAttempts"] > 0
                stored: Any = refusal.response.get("Item")
                written = retried and stored is not None and _item(stored) == item
                units: float = write_units(item)
            else:
                written, units = True, answer["ConsumedCapacity"]["CapacityUnits"]
        return ConditionalPut(written, Consumed(write_units=units, items=int(written)))

    def delete_many(self, table: str, keys: Iterable[str]) -> Consumed:
        """Delete the items at the keys, no faster than the settings allow."""
        return self._write(table, (_Write(key, {"DeleteRequest": {"Key": {"key": {"S": key}}}}, 0) for key in keys))

    def close(self) -> None:
        """Shut down the threads and the connections."""
        self._pool.shutdown()
        self._client.close()

    @cached_property
    def _settings(self) -> "Settings":
        # Readers need no settings, and the Lambda does not carry what reads them.
        from precalc_assets.settings import load_settings

        return self._given or load_settings()

    def _name(self, table: str) -> str:
        return f"{self._prefix}-{table}"

    def _forget(self, table: str) -> None:
        self._active.discard(table)
        self._prepared.discard(table)

    def _status(self, table: str) -> str | None:
        try:
            return self._client.describe_table(TableName=self._name(table))["Table"]["TableStatus"]
        except self._client.exceptions.ResourceNotFoundException:
            return None

    def _create(self, table: str) -> None:
        # Another process may create it first.
        with suppress(self._client.exceptions.ResourceInUseException):
            self._client.create_table(
                TableName=self._name(table),
                KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=self._settings.table_protection,
                Tags=[{"Key": key, "Value": value} for key, value in self._settings.table_tags.items()],
            )

    def _switch_recovery_on(self, table: str) -> None:
        """Switch point-in-time recovery on. Retries, since DynamoDB refuses it for a moment after creation."""

        def switch(_: list[str]) -> list[str]:
            with suppress(self._client.exceptions.ContinuousBackupsUnavailableException):
                self._client.update_continuous_backups(
                    TableName=self._name(table), PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
                )
                return []
            return [table]

        self._send_all(table, switch, [table])

    def _wait_until(self, waiter: Literal["table_exists", "table_not_exists"], table: str) -> None:
        try:
            self._client.get_waiter(waiter).wait(
                TableName=self._name(table), WaiterConfig={"Delay": 1, "MaxAttempts": _WAIT_SECONDS}
            )
        except WaiterError as error:
            status = self._status(table)
            raise TableError(
                f"table {self._name(table)} in {self._region} is still {status} after {_WAIT_SECONDS} s; try again"
            ) from error

    def _write(self, table: str, writes: Iterable[_Write]) -> Consumed:
        queued: deque[Future[Consumed]] = deque()
        consumed = Consumed()
        with self._errors(table):
            try:
                for batch in _batches(writes):
                    if len(queued) == _MAX_QUEUED:
                        consumed += queued.popleft().result()
                    queued.append(self._pool.submit(self._write_batch, table, batch))
                while queued:
                    consumed += queued.popleft().result()
            finally:
                # After a failure, no write may continue once the caller has the error.
                for future in queued:
                    future.cancel()
                wait(queued)
        return consumed

    def _write_batch(self, table: str, batch: list[_Write]) -> Consumed:
        name = self._name(table)
        limit = self._limits.setdefault(table, RateLimit(self._settings.table_write_units, sleep=self._sleep))
        expected = sum(max(1, -(-write.bytes // WRITE_UNIT_BYTES)) for write in batch)
        consumed = 0.0

        def send(requests: list["WriteRequestTypeDef"]) -> list["WriteRequestTypeDef"]:
            nonlocal consumed
            answer = self._client.batch_write_item(RequestItems={name: requests}, ReturnConsumedCapacity="TOTAL")
            consumed += sum(entry["CapacityUnits"] for entry in answer["ConsumedCapacity"])
            return cast("list[WriteRequestTypeDef]", answer["UnprocessedItems"].get(name, []))

        limit.take(expected)
        self._send_all(table, send, [write.request for write in batch])
        # The units of a deletion, or of a put over a larger item, are only known from the answer.
        limit.correct(consumed - expected)
        return Consumed(write_units=consumed, items=len(batch))

    def _get_many(self, table: str, keys: Sequence[str], consistent: bool, options: Mapping[str, Any]) -> Found:
        distinct = list(dict.fromkeys(keys))
        batches = [distinct[at : at + _KEYS_PER_REQUEST] for at in range(0, len(distinct), _KEYS_PER_REQUEST)]

        def read(batch: list[str]) -> Found:
            return self._read_batch(table, batch, consistent, options)

        with self._errors(table):
            # One request is not worth a thread.
            answers = list(map(read, batches) if len(batches) == 1 else self._pool.map(read, batches))
        consumed = sum((found.consumed for found in answers), Consumed())
        return Found((item for found in answers for item in found.values()), consumed)

    def _read_batch(self, table: str, keys: list[str], consistent: bool, options: Mapping[str, Any]) -> Found:
        name = self._name(table)
        items: list[Item] = []
        reported: list[float] = []

        def send(keys: list[str]) -> list[str]:
            request: Any = {"Keys": [{"key": {"S": key}} for key in keys], "ConsistentRead": consistent, **options}
            answer = self._client.batch_get_item(RequestItems={name: request}, ReturnConsumedCapacity="TOTAL")
            items.extend(map(_item, answer["Responses"].get(name, ())))
            reported.extend(entry["CapacityUnits"] for entry in answer.get("ConsumedCapacity", ()))
            left = answer["UnprocessedKeys"].get(name)
            return [key["key"]["S"] for key in left["Keys"]] if left else []

        self._send_all(table, send, keys)
        # Some emulators report no consumed capacity for batch reads.
        units = sum(reported) if reported else units_to_read(len(keys), items, consistent=consistent)
        return Found(items, Consumed(read_units=units))

    def _send_all(self, table: str, send: Callable[[list[_T]], list[_T]], work: list[_T]) -> None:
        """Send work, and resend what `send` returns as unprocessed. Raises TableError if there is no progress."""
        attempts = 0
        while left := send(work):
            attempts = 0 if len(left) < len(work) else attempts + 1
            if attempts == _ATTEMPTS:
                raise TableError(
                    f"table {self._name(table)} in {self._region}: DynamoDB left {len(left)} requests unprocessed,"
                    f" {attempts} times in a row; lower PRECALC_TABLE_WRITE_UNITS, or try again later"
                )
            work = left
            self._sleep(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempts)))  # noqa: S311

    @contextmanager
    def _errors(self, table: str) -> Iterator[None]:
        """Turn botocore's errors into TableError, naming the table and the setting to check."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            code = error.response["Error"].get("Code") if isinstance(error, ClientError) else None
            if code == "ResourceNotFoundException":
                self._forget(table)
                where = f" in {self._region}, the region in PRECALC_TABLES_URL"
                raise missing_table(table, where) from None
            raise TableError(f"table {self._name(table)} in {self._region}: {explain(error)}") from error


def _retry_if_cut(
    response: tuple[AWSResponse, dict[str, Any]] | None, attempts: int, request_dict: dict[str, Any], **_: object
) -> float | None:
    """Make botocore retry a request whose answer broke off in its headers, which it takes for an empty success.

    No request made here has an empty answer. Raises ConnectionClosedError when the attempts are used up.
    """
    if response is None or response[0].status_code != HTTPStatus.OK or response[1].keys() - {"ResponseMetadata"}:
        return None
    if attempts == _ATTEMPTS_PER_REQUEST:
        raise ConnectionClosedError(endpoint_url=request_dict["url"])
    return _FIRST_PAUSE


def _attributes(item: Item) -> dict[str, "AttributeValueTypeDef"]:
    attributes: dict[str, AttributeValueTypeDef] = {"key": {"S": item.key}, "value": {"B": item.value}}
    if item.version:
        attributes["version"] = {"S": item.version}
    return attributes


def _item(attributes: Mapping[str, Any]) -> Item:
    value = attributes.get("value", {}).get("B", b"")
    return Item(attributes["key"]["S"], value, attributes.get("version", {}).get("S", ""))


def _condition(expected: str | None) -> dict[str, Any]:
    """Return the condition of a put. Names are aliased because `key` is a reserved word of DynamoDB."""
    if expected is None:
        return {"ConditionExpression": "attribute_not_exists(#key)", "ExpressionAttributeNames": {"#key": "key"}}
    if not expected:
        return {
            "ConditionExpression": "attribute_exists(#key) AND attribute_not_exists(#version)",
            "ExpressionAttributeNames": {"#key": "key", "#version": "version"},
        }
    return {
        "ConditionExpression": "#version = :expected",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":expected": {"S": expected}},
    }


def _batches(writes: Iterable[_Write]) -> Iterator[list[_Write]]:
    """Yield the writes of each request: bounded in number and bytes, and no key twice, which DynamoDB refuses."""
    batch: dict[str, _Write] = {}
    size = 0
    for write in writes:
        if batch and (len(batch) == _WRITES_PER_REQUEST or size + write.bytes > _REQUEST_BYTES):
            yield list(batch.values())
            batch, size = {}, 0
        batch[write.key] = write
        size += write.bytes
    if batch:
        yield list(batch.values())

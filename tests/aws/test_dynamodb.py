"""The DynamoDB store beyond the contract: creation of tables, throttling, failures and errors.

Handlers of botocore's events give the answers that no emulator gives; the rest is ministack over HTTP.
"""

import json
import subprocess
import sys
import threading
import time
from itertools import count
from types import SimpleNamespace

import pytest
from aws_emulator import REGION, tables_url
from botocore.exceptions import EndpointConnectionError
from cutting_proxy import CuttingProxy
from dynamodb_hooks import answer, check_batches, error, leave_half, register

from precalc_assets.aws import explain
from precalc_assets.platform_errors import TableError, UsageError
from precalc_assets.settings import Settings
from precalc_assets.tables import Consumed, Item, dynamodb, open_tables
from precalc_assets.tables.dynamodb import DynamoDBStore
from precalc_assets.tables.rate_limit import RateLimit

TABLE = "eos0abc"
ITEMS = [Item(f"{i:03}", bytes([i % 256]) * 1_500, f"v{i}") for i in range(60)]
KEYS = [item.key for item in ITEMS]


class Pauses(list[float]):
    """A `sleep` that records its durations and does not wait."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def pauses():
    return Pauses()


@pytest.fixture
def botocore_pauses(monkeypatch):
    """The pauses between botocore's attempts, recorded and skipped."""
    pauses = Pauses()
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses, time=time.time))
    return pauses


@pytest.fixture
def store(aws, pauses):
    prefix = tables_url().rpartition("/")[2]
    store = DynamoDBStore(REGION, prefix, settings=Settings(table_write_units=1e9), sleep=pauses)
    check_batches(store)
    store.create_table(TABLE)
    yield store
    store.close()


def stored(store) -> list[Item]:
    return [item for _, item in sorted(store.get_many(TABLE, KEYS, consistent=True).items())]


def every_second(failure):
    """Return a handler that answers every second request with a failure."""
    requests = count()
    return lambda _request: failure if next(requests) % 2 == 0 else None


def test_a_table_is_created_with_the_settings(aws, monkeypatch):
    monkeypatch.setenv("PRECALC_TABLE_TAGS", "project=precalc, owner=chemistry")
    monkeypatch.setenv("PRECALC_TABLE_RECOVERY", "true")
    monkeypatch.setenv("PRECALC_TABLE_PROTECTION", "true")
    url = tables_url()
    open_tables(url).create_table(TABLE)
    client, name = aws.client("dynamodb"), f"{url.rpartition('/')[2]}-{TABLE}"
    made = client.describe_table(TableName=name)["Table"]
    assert made["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert made["KeySchema"] == [{"AttributeName": "key", "KeyType": "HASH"}]
    assert {tag["Key"]: tag["Value"] for tag in client.list_tags_of_resource(ResourceArn=made["TableArn"])["Tags"]} == {
        "project": "precalc",
        "owner": "chemistry",
    }
    backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    with pytest.raises(TableError, match=rf"{name}.*PRECALC_TABLE_PROTECTION.*--no-deletion-protection-enabled"):
        open_tables(url).drop_table(TABLE)
    client.update_table(TableName=name, DeletionProtectionEnabled=False)
    open_tables(url).drop_table(TABLE)
    assert open_tables(url).list_tables() == []


def test_recovery_is_switched_on_once_a_table_is_ready(aws, pauses):
    prefix = tables_url().rpartition("/")[2]
    store = DynamoDBStore(REGION, prefix, settings=Settings(table_recovery=True), sleep=pauses)
    answer(store, "UpdateContinuousBackups", every_second(error(400, "ContinuousBackupsUnavailableException")))
    # Also when the process that created the table was killed before that.
    DynamoDBStore(REGION, prefix).create_table(TABLE)
    assert store.has_table(TABLE)
    store.create_table(TABLE)
    backups = aws.client("dynamodb").describe_continuous_backups(TableName=f"{prefix}-{TABLE}")
    status = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    assert status == "ENABLED"
    assert len(pauses) == 1


@pytest.mark.slow
def test_concurrent_creations_of_a_table_succeed(aws):
    url = tables_url()
    stores = [open_tables(url) for _ in range(4)]
    barrier = threading.Barrier(4)
    wrong = []

    def make(store):
        barrier.wait()
        try:
            store.create_table(TABLE)
            store.put_many(TABLE, [Item("k", b"")])
        except TableError as failure:
            wrong.append(failure)

    threads = [threading.Thread(target=make, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tables_of_a_longer_prefix_are_not_listed(aws):
    url = tables_url()
    for name in (url, f"{url}-dev"):
        open_tables(name).create_table(TABLE)
    assert open_tables(url).list_tables() == open_tables(f"{url}-dev").list_tables() == [TABLE]


def test_the_status_of_a_table_is_cached(store):
    asked = []
    register(store, "before-call", "*", lambda model, **_: asked.append(model.name))
    for _ in range(50):
        assert store.has_table(TABLE)
        store.create_table(TABLE)
    assert asked == []


def test_a_table_dropped_by_another_process_is_recreated(store):
    DynamoDBStore(REGION, store._prefix).drop_table(TABLE)
    with pytest.raises(TableError, match=TABLE):
        store.put_many(TABLE, ITEMS)
    assert not store.has_table(TABLE)
    store.create_table(TABLE)
    store.put_many(TABLE, ITEMS)
    assert stored(store) == ITEMS


DELETING = (200, {"Table": {"TableStatus": "DELETING"}})


def test_a_table_under_deletion_is_awaited_and_recreated(store):
    store.drop_table(TABLE)
    answers = iter([DELETING, DELETING])
    answer(store, "DescribeTable", lambda _request: next(answers, None))
    store.create_table(TABLE)
    assert store.has_table(TABLE)
    store.put_many(TABLE, ITEMS)
    assert stored(store) == ITEMS


def test_an_endless_deletion_of_a_table_is_an_error(store, monkeypatch):
    monkeypatch.setattr(dynamodb, "_WAIT_SECONDS", 2)
    store.drop_table(TABLE)
    answer(store, "DescribeTable", lambda _request: DELETING)
    assert not store.has_table(TABLE)
    for use in (store.create_table, store.drop_table):
        with pytest.raises(TableError, match=rf"{store._prefix}-{TABLE} in {REGION} is still DELETING after 2 s"):
            use(TABLE)


def test_unprocessed_items_are_resent_and_counted_once(store, pauses):
    leave_half(store)
    assert store.put_many(TABLE, ITEMS) == Consumed(write_units=120, items=60)
    assert stored(store) == ITEMS
    assert store.delete_many(TABLE, KEYS) == Consumed(write_units=120, items=60)
    assert stored(store) == []
    assert pauses
    assert max(pauses) <= dynamodb._FIRST_PAUSE  # Every attempt made progress, so the pauses did not grow.


@pytest.mark.parametrize("operation", ["BatchWriteItem", "BatchGetItem"])
def test_endlessly_unprocessed_items_are_an_error(store, pauses, operation):
    def take_nothing(request):
        asked = json.loads(request.body)["RequestItems"]
        return (200, {"Responses": {}, "UnprocessedKeys": asked, "UnprocessedItems": asked, "ConsumedCapacity": []})

    answer(store, operation, take_nothing)
    use = store.put_many if operation == "BatchWriteItem" else store.get_many
    with pytest.raises(
        TableError, match=rf"{store._prefix}-{TABLE}.*20 requests unprocessed.*PRECALC_TABLE_WRITE_UNITS"
    ):
        use(TABLE, (ITEMS if operation == "BatchWriteItem" else KEYS)[:20])
    assert len(pauses) == dynamodb._ATTEMPTS - 1
    bounds = [dynamodb._FIRST_PAUSE * 2**i for i in range(1, dynamodb._ATTEMPTS)]
    assert all(0 <= pause <= min(bound, dynamodb._LONGEST_PAUSE) for pause, bound in zip(pauses, bounds, strict=True))


@pytest.mark.parametrize(
    "failure",
    [
        error(400, "ThrottlingException"),
        error(400, "ProvisionedThroughputExceededException"),
        error(500, "InternalServerError"),
        error(503, "ServiceUnavailable"),
    ],
    ids=lambda failure: failure[1]["__type"].rpartition("#")[2],
)
def test_throttling_and_failures_lose_nothing(store, failure, botocore_pauses):
    for operation in ("BatchWriteItem", "BatchGetItem", "PutItem"):
        answer(store, operation, every_second(failure))
    assert store.put_many(TABLE, ITEMS) == Consumed(write_units=120, items=60)
    assert store.put_if(TABLE, Item("000", b"new", "w"), "v0")
    assert not store.put_if(TABLE, Item("000", b"newer", "x"), "v0")
    assert stored(store) == [Item("000", b"new", "w"), *ITEMS[1:]]


def test_endless_throttling_is_an_error_with_the_setting(store, botocore_pauses):
    answer(store, "BatchWriteItem", lambda _request: error(400, "ThrottlingException"))
    with pytest.raises(TableError, match=rf"{store._prefix}-{TABLE}.*ThrottlingException.*PRECALC_TABLE_WRITE_UNITS"):
        store.put_many(TABLE, ITEMS)
    assert sum(botocore_pauses) > 1


def test_cut_connections_lose_nothing(aws, monkeypatch, botocore_pauses):
    url = tables_url()
    open_tables(url).create_table(TABLE)
    with CuttingProxy(aws.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_tables(url)
        # Cut some requests, and some answers to requests that were carried out. These are fewer than the attempts per
        # request, since one request may meet them all.
        proxy.cut(requests=2, answers=3)
        assert store.put_many(TABLE, ITEMS).items == 60
        assert stored(store) == ITEMS
        store.close()
        assert proxy.cuts == 5


def test_an_answer_cut_in_its_headers_is_retried(store, botocore_pauses):
    """Botocore turns such an answer into an empty 200."""
    cut = iter([(200, {})] * 3)
    for operation in ("BatchWriteItem", "BatchGetItem", "DescribeTable"):
        answer(store, operation, lambda _request: next(cut, None))
    assert store.put_many(TABLE, ITEMS) == Consumed(write_units=120, items=60)
    assert stored(store) == ITEMS
    answer(store, "BatchWriteItem", lambda _request: (200, {}))
    with pytest.raises(TableError, match=rf"{store._prefix}-{TABLE}.*Connection was closed.*AWS_ENDPOINT_URL"):
        store.put_many(TABLE, ITEMS)


def test_a_put_with_a_lost_answer_counts_once(aws, monkeypatch, botocore_pauses):
    url = tables_url()
    open_tables(url).create_table(TABLE)
    with CuttingProxy(aws.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_tables(url)
        for expected, version in ((None, "v1"), ("v1", "v2")):
            proxy.cut(answers=1)
            assert store.put_if(TABLE, Item("k", b"x", version), expected)
        proxy.cut(answers=1)
        assert not store.put_if(TABLE, Item("k", b"x", "v4"), "v3")
        store.close()
        assert proxy.cuts == 3


def test_a_generator_is_not_read_far_ahead_of_the_writes(store):
    taken, go = [], threading.Event()
    answer(store, "BatchWriteItem", lambda _request: go.wait(30) and None)

    def items():
        for i in range(2_000):
            taken.append(i)
            yield Item(str(i), b"x")

    writer = threading.Thread(target=store.put_many, args=(TABLE, items()))
    writer.start()
    time.sleep(0.3)
    ahead = len(taken)
    go.set()
    writer.join()
    assert ahead <= (dynamodb._MAX_QUEUED + 1) * 25 + 1
    assert len(taken) == 2_000


def test_nothing_is_written_after_a_failure_was_reported(store):
    sent = []
    answer(store, "BatchWriteItem", lambda _request: sent.append(1))

    def items():
        yield from (Item(str(i), b"x") for i in range(300))
        raise ValueError

    with pytest.raises(ValueError):
        store.put_many(TABLE, items())
    at_the_time = len(sent)
    time.sleep(0.1)
    assert len(sent) == at_the_time


def test_units_are_spent_within_the_rate_limit():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    limit = RateLimit(100, clock=lambda: now[0], sleep=sleep)
    for _ in range(40):
        limit.take(25)
    # The last one waited for the 39 before it.
    assert now[0] == pytest.approx(39 * 25 / 100)
    limit.correct(50)
    limit.take(1)
    assert now[0] == pytest.approx((40 * 25 + 50) / 100)
    now[0] += 60  # A pause allows a burst of a tenth of a second's units, not of a minute's.
    before = now[0]
    for _ in range(3):
        limit.take(10)
    assert now[0] - before == pytest.approx(0.1)


@pytest.mark.slow
def test_a_process_writes_a_table_within_its_setting(aws, monkeypatch):
    monkeypatch.setenv("PRECALC_TABLE_WRITE_UNITS", "400")
    store = open_tables(tables_url())
    store.create_table(TABLE)
    started = time.monotonic()
    assert store.put_many(TABLE, (Item(str(i), b"x") for i in range(250))).write_units == 250
    assert time.monotonic() - started >= (250 - 25) / 400 - 0.1


def test_reading_imports_boto3_only_for_aws(store, tmp_path):
    store.put_many(TABLE, ITEMS)
    large = ["boto3", "numpy", "pyarrow", "pandas", "polars", "rdkit", "dagster"]
    code = f"""
import sys
from precalc_assets.tables import open_tables
open_tables(sys.argv[1]).{{}}
print([name for name in {large} if name in sys.modules])
"""
    places = {
        f"sqlite:///{tmp_path}/tables.db": ("list_tables()", "[]\n"),
        f"dynamodb://{REGION}/{store._prefix}": (f"get_many({TABLE!r}, {KEYS[:1]})", "['boto3']\n"),
    }
    for url, (use, imported) in places.items():
        command = [sys.executable, "-c", code.format(use), url]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == imported


def test_missing_credentials_are_an_error_with_the_variables(aws, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match=r"no AWS credentials.*AWS_PROFILE.*AWS_ACCESS_KEY_ID"):
        open_tables(tables_url())


def test_an_error_names_a_missing_profile(aws, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match=r"profile \(nobody\).*AWS_PROFILE"):
        open_tables(tables_url())


def test_credentials_of_a_profile_are_used(aws, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile lab]\naws_access_key_id = lab\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = open_tables(tables_url())
    seen = []
    register(store, "before-send", "*", lambda request, **_: seen.append(request.headers["Authorization"]))
    store.create_table(TABLE)
    assert all(b"Credential=lab/" in header for header in seen)


def test_the_error_of_a_missing_table_names_the_region(store):
    elsewhere = DynamoDBStore("eu-west-1", store._prefix)
    with pytest.raises(TableError, match=rf"{TABLE}.*in eu-west-1, the region in PRECALC_TABLES_URL.*precalc load"):
        elsewhere.get_many(TABLE, KEYS)


def test_an_error_names_the_setting_of_a_missing_endpoint():
    assert "AWS_ENDPOINT_URL" in explain(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))


def test_an_error_names_the_action_that_a_role_lacks(strict_ministack, monkeypatch):
    for name, value in strict_ministack.user_who_may().items():
        monkeypatch.setenv(name, value)
    store = open_tables(tables_url())
    with pytest.raises(TableError, match=rf"-{TABLE} in {REGION}: AccessDenied.*dynamodb:DescribeTable.*role's policy"):
        store.create_table(TABLE)


def test_the_error_of_an_unknown_key_names_the_variables(strict_ministack, monkeypatch):
    for name, value in (strict_ministack.environment | {"AWS_ACCESS_KEY_ID": "unknown"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TableError, match=rf"-{TABLE} in {REGION}.*AWS_ACCESS_KEY_ID"):
        open_tables(tables_url()).get_many(TABLE, ["k"])

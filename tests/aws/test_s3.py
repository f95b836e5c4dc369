"""The object store on S3: the same calls as on disk, and errors that name the setting to check."""

import hashlib
from contextlib import contextmanager

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from precalc_assets.outcomes import reason
from precalc_assets.platform_errors import UsageError
from precalc_assets.storage import list_sizes, open_store


def set_environment(monkeypatch, environment):
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@contextmanager
def refused(*words):
    """Expect an error of one line that contains the setting's value and these words."""
    with pytest.raises(UsageError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    assert "Debug source" not in text
    for word in words:
        assert word in text


def test_objects_are_written_listed_read_and_deleted(aws):
    bucket = aws.make_bucket()
    store = open_store(f"s3://{bucket}/some/prefix")
    obstore.put(store, "raw/a.csv", b"1,2\n")
    assert list_sizes(store, "raw") == {"raw/a.csv": 4}
    assert obstore.get(store, "raw/a.csv").bytes() == b"1,2\n"
    listed = aws.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["Key"] for entry in listed] == ["some/prefix/raw/a.csv"]
    assert list_sizes(open_store(f"s3://{bucket}"), "some") == {"some/prefix/raw/a.csv": 4}
    obstore.delete(store, ["raw/a.csv"])
    assert list_sizes(store, "raw") == {}
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "raw/a.csv")


def test_one_of_two_creations_of_an_object_is_refused(aws):
    store = open_store(f"s3://{aws.make_bucket()}")
    obstore.put(store, "claim.json", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "claim.json", b"2", mode="create")
    assert obstore.get(store, "claim.json").bytes() == b"1"


def test_a_large_file_is_put_in_parts_and_streamed(aws, tmp_path):
    bucket = aws.make_bucket()
    store = open_store(f"s3://{bucket}")
    content = hashlib.shake_256(b"molecules").digest(12_000_000)
    (tmp_path / "file").write_bytes(content)
    obstore.put(store, "file", tmp_path / "file")
    assert aws.client("s3").head_object(Bucket=bucket, Key="file")["ETag"].strip('"').endswith("-3")
    assert b"".join(map(bytes, obstore.get(store, "file").stream(min_chunk_size=1 << 20))) == content


def test_credentials_and_region_of_a_profile_are_used(aws, monkeypatch, tmp_path):
    bucket = aws.make_bucket("us-west-2")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = us-west-2\naws_access_key_id = lab\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    obstore.put(open_store(f"s3://{bucket}"), "a", b"1")


def test_a_missing_bucket_is_refused_when_it_is_opened(aws):
    with refused("PRECALC_STORE_URL='s3://no-such-bucket/x'", "NoSuchBucket", "create the bucket"):
        open_store("s3://no-such-bucket/x")


def test_a_bucket_of_another_region_is_refused_with_a_remedy(aws):
    bucket = aws.make_bucket("us-west-2")
    with refused(f"PRECALC_STORE_URL='s3://{bucket}'", "AWS_DEFAULT_REGION"):
        open_store(f"s3://{bucket}")


def test_missing_credentials_are_refused_with_the_variables(aws, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with refused("no AWS credentials", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket")


def test_an_expired_sso_login_is_refused_with_the_command(aws, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        "[profile lab]\nsso_start_url = https://lab.awsapps.com/start\nsso_region = eu-central-1\n"
        "sso_account_id = 123456789012\nsso_role_name = chemist\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with refused("no AWS credentials", "aws sso login"):
        open_store("s3://bucket")


def test_a_denied_bucket_is_refused_with_action_and_policy(strict_ministack, monkeypatch):
    bucket = strict_ministack.make_bucket()
    set_environment(monkeypatch, strict_ministack.user_who_may())
    with refused(f"PRECALC_STORE_URL='s3://{bucket}'", "AccessDenied", "s3:GetObject", "role's policy"):
        open_store(f"s3://{bucket}")


def test_an_unknown_key_is_refused_with_the_variables(strict_ministack, monkeypatch):
    set_environment(monkeypatch, strict_ministack.environment | {"AWS_ACCESS_KEY_ID": "unknown"})
    with refused("PRECALC_STORE_URL='s3://bucket'", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket")


def test_a_write_by_a_role_that_may_only_read_is_refused(strict_ministack, monkeypatch):
    bucket = strict_ministack.make_bucket()
    set_environment(monkeypatch, strict_ministack.user_who_may("s3:GetObject", "s3:ListBucket"))
    store = open_store(f"s3://{bucket}")
    with pytest.raises(obstore.exceptions.PermissionDeniedError) as denied:
        obstore.put(store, "a", b"1")
    assert reason(denied.value).startswith(f"PUT {strict_ministack.endpoint}/{bucket}/a: AccessDenied: User: ")
    assert "s3:PutObject" in reason(denied.value)


@pytest.mark.slow  # obstore retries for ten seconds
def test_a_missing_endpoint_is_refused_with_its_setting(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with refused("Connection refused", "AWS_ENDPOINT_URL"):
        open_store("s3://bucket")


def test_a_wrong_url_is_refused_by_name(aws):
    with refused("PRECALC_STORE_URL='s3://'"):
        open_store("s3://")

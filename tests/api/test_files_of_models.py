"""Links to files: only to loaded files, and only until they expire."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from aws_emulator import REGION
from botocore.credentials import RefreshableCredentials
from hypothesis import example, given
from hypothesis import strategies as st
from made_up import MODEL, serve
from serving import KEYS, Api, predictions

from precalc_assets.api.files import FILES, QUARANTINE, BucketLinks, FolderLinks, open_links
from precalc_assets.platform_errors import UsageError
from precalc_assets.storage import predictions as predictions_name
from precalc_assets.storage import quarantine as quarantine_name

SHARDS = ("00", "02", "03")


@pytest.fixture
def credentials(monkeypatch):
    """Credentials of a role, as a Lambda has them in its environment."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    given = {"ACCESS_KEY_ID": "AKIDEXAMPLE", "SECRET_ACCESS_KEY": "secret", "SESSION_TOKEN": "token"}
    for name, value in {**given, "DEFAULT_REGION": REGION, "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def files_api(tables, links) -> Api:
    serve(tables, predictions(KEYS), shards=SHARDS)
    return Api(tables, links)


def test_files_have_the_size_checksum_and_rows_of_their_shards(tables, tmp_path):
    answer = files_api(tables, FolderLinks(tmp_path)).get(f"/models/{MODEL}/files")
    assert answer.headers["Cache-Control"] == "no-store"
    said = answer.json
    assert (said["model"], said["releases"], said["expires_at"]) == (MODEL, ["v1.0.0"], None)
    assert said["deterministic"] is None
    assert [file["shard"] for file in said["files"]] == list(SHARDS)
    assert sum(file["rows"] for file in said["files"]) == len(
        [row for row in Api(tables).predictions(KEYS).json["predictions"] if row]
    )
    last = said["files"][-1]
    assert (last["name"], last["bytes"], last["sha256"], last["release"]) == (
        "shard=03.parquet",
        len(b"file of shard 03"),
        sha256(b"file of shard 03").hexdigest(),
        "v1.0.0",
    )


def test_bucket_link_is_signed_for_one_object_and_one_hour(tables, credentials):
    before = datetime.now(UTC).replace(microsecond=0)
    said = files_api(tables, open_links("s3://precalc-1/a/prefix/")).get(f"/models/{MODEL}/files").json
    for file in said["files"]:
        url = urlsplit(file["url"])
        asked = parse_qs(url.query)
        assert (url.scheme, url.netloc) == ("https", f"precalc-1.s3.{REGION}.amazonaws.com")
        assert unquote(url.path) == f"/a/prefix/{predictions_name(MODEL, file['shard'])}"
        assert asked["X-Amz-Expires"] == ["3600"]
        assert asked["X-Amz-Security-Token"] == ["token"]
        assert f"/{REGION}/s3/aws4_request" in asked["X-Amz-Credential"][0]
    expires = datetime.fromisoformat(said["expires_at"])
    assert before + timedelta(hours=1) <= expires <= datetime.now(UTC) + timedelta(hours=1)
    signed = datetime.strptime(asked["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z")
    assert expires <= signed + timedelta(hours=1)


@pytest.mark.parametrize(
    ("bucket", "endpoint", "host", "path"),
    [
        ("with.dots", "", f"s3.{REGION}.amazonaws.com", "/with.dots/predictions/"),
        ("bucket", "http://localhost:4566", "localhost:4566", "/bucket/predictions/"),
    ],
)
def test_bucket_that_is_no_hostname_goes_into_the_path(credentials, monkeypatch, bucket, endpoint, host, path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    (url,) = open_links(f"s3://{bucket}").link(MODEL, ["00"]).urls
    assert urlsplit(url).netloc == host
    assert urlsplit(url).path.startswith(path)


def test_link_expires_with_its_credentials():
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=30)
    short = RefreshableCredentials("AKIDEXAMPLE", "secret", "token", end, refresh_using=dict, method="test")
    links = BucketLinks("bucket", "")
    client = boto3.client("s3", region_name=REGION, aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secret")
    links._signer = (client, short)
    (url,), expires = links.link(MODEL, ["00"])
    assert expires == end
    assert 1_790 <= int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0]) <= 1_800


def test_files_without_credentials_are_unavailable(tables, credentials, monkeypatch):
    api = files_api(tables, open_links("s3://bucket"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    assert api.get(f"/models/{MODEL}/files").error == (503, "unavailable")
    link = open_links("s3://bucket")
    ended = RefreshableCredentials(
        "AKIDEXAMPLE", "secret", "token", datetime.now(UTC), refresh_using=dict, method="test"
    )
    link._signer = (None, ended)
    with pytest.raises(UsageError, match="no AWS credentials to sign links with"):
        link.link(MODEL, ["00"])


def test_quarantine_lists_are_linked_for_loaded_shards(tables, credentials):
    answer = files_api(tables, open_links("s3://precalc-1/a/")).get(f"/models/{MODEL}/quarantine")
    assert answer.headers["Cache-Control"] == "no-store"
    paths = {entry["shard"]: unquote(urlsplit(entry["url"]).path) for entry in answer.json["lists"]}
    assert paths == {shard: f"/a/{quarantine_name(MODEL, shard)}" for shard in SHARDS}


@pytest.mark.parametrize("route", ["files", "quarantine"])
def test_without_a_store_there_are_no_files(tables, route):
    assert files_api(tables, None).get(f"/models/{MODEL}/{route}").error == (404, "no_files")


@pytest.mark.parametrize(
    "model", ["eos9zzz", "library", "models", "..", "%2e%2e", "eos3b5e%2F..", "EOS3B5E", "eos3b5e\n"]
)
def test_unknown_model_has_no_files(tables, tmp_path, model):
    status, code = files_api(tables, FolderLinks(tmp_path)).get(f"/models/{model}/files").error
    assert (status, code in {"unknown_model", "unknown_route"}) == (404, True)


@pytest.mark.parametrize("links", [FolderLinks(Path("/store")), BucketLinks("bucket", "")])
@pytest.mark.parametrize("model", ["..", "eos3b5e/../eos4e40", "", "library"])
def test_malformed_model_id_gets_no_link(credentials, links, model):
    with pytest.raises(UsageError, match="not a model id"):
        links.link(model, ["00"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> FolderLinks:
    """A store with one file to give away, and some to keep."""
    root = tmp_path_factory.mktemp("store")
    for name in (
        predictions_name(MODEL, "07"),
        quarantine_name(MODEL, "07"),
        "raw/part",
        "predictions/model=other/shard=07.parquet",
        "secret.parquet",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return FolderLinks(root)


def test_local_link_leads_to_its_file(folder):
    for kind, name in ((FILES, predictions_name), (QUARANTINE, quarantine_name)):
        (path,), expires = folder.link(MODEL, ["07"], kind)
        assert folder.find(path).read_text() == name(MODEL, "07")
        assert expires is None


WORDS = (
    *("", ".", "..", "%2e%2e", "~", "\n", "\0"),
    *(
        "models",
        MODEL,
        "files",
        "quarantine",
        "shard=07.csv",
        "shard=07.parquet",
        "shard=08.parquet",
        "shard=07.parquet\n",
        "shard=../07.parquet",
    ),
    *("predictions", "model=other", "raw", "part", "secret.parquet"),
)


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=7).map("/".join))
@example(f"/models/{MODEL}/files/../../../secret.parquet")
@example("/models/../files/shard=07.parquet")
@example(f"/models/{MODEL}/files/shard=07.parquet\n")
def test_no_other_path_leads_to_a_file(folder, path):
    found = folder.find(path)
    assert found is None or path in {
        f"/models/{MODEL}/{end}" for end in ("files/shard=07.parquet", "quarantine/shard=07.csv")
    }


@pytest.mark.parametrize("url", ["http://bucket", "s3://", "", "/folder", "memory:///"])
def test_url_of_no_store_is_refused_with_what_to_write(url):
    with pytest.raises(UsageError, match=r"is not a store; write file:///folder or s3://bucket"):
        open_links(url)


def test_answer_has_under_a_kilobyte_per_file(tables, credentials):
    text = files_api(tables, open_links("s3://precalc-1")).get(f"/models/{MODEL}/files").text
    assert len(text) / len(json.loads(text)["files"]) < 1_000

"""The platform deployed by the CDK's command onto an emulator that enforces TLS, signatures and policies.

All tests share one deployment and use it in order, each program with its own role.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest
from aws_emulator import REGION, run_ministack
from botocore.exceptions import ClientError
from deployment import Deployment
from stacks import DEPLOY_SUBJECT, REPOSITORY, SUBJECT, build_lambda, require_tools, run_cdk

from precalc import Client
from precalc.formats import LEADING
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import predictions, quarantine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PREFIX = "e2e"
MODEL, RUNNER_MODEL = "eos0aaa", "eos0bbb"
N_SHARDS = 50
VALUES_OF_A_REQUEST = 190_000
"""Slightly fewer than the API's limit for one answer."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Iterator[Deployment]:
    require_tools()
    folder = tmp_path_factory.mktemp("deployment")
    assembly, outputs, home = folder / "cdk.out", folder / "outputs.json", folder / "home"
    home.mkdir()
    with run_ministack(tmp_path_factory.mktemp("ministack"), auth=True, tls=True) as emulator:
        account = emulator.client("sts").get_caller_identity()["Account"]
        run_cdk("bootstrap", f"aws://{account}/{REGION}", environment=emulator.environment, folder=home)
        context = {
            "prefix": PREFIX,
            "keep": "false",
            "lambda_folder": build_lambda(folder / "lambda"),
            "repository": REPOSITORY,
            # The emulator cannot create a provider, but validates its tokens.
            "github_provider": "existing",
            "athena": "true",
        }
        chosen = [word for name, value in context.items() for word in ("-c", f"{name}={value}")]
        app = "PYTHONPATH=.. .venv/bin/python -m infra.app"
        command = ["deploy", "--all", "--require-approval", "never", "--app", app, "--output", assembly]
        run_cdk(*command, "--outputs-file", outputs, *chosen, environment=emulator.environment)
        by_stack = json.loads(outputs.read_text())
        merged = {name: value for stack in by_stack.values() for name, value in stack.items()}
        yield Deployment(emulator, assembly, merged, home, models_cache)


@pytest.fixture(scope="module")
def materialised(deployment: Deployment) -> Deployment:
    """The deployment after the machine with Dagster loaded the library and a model."""
    done = deployment.precalc(deployment.pipeline, "run", MODEL)
    assert done.returncode == 0, done.stderr
    return deployment


@pytest.fixture(scope="module")
def computed_on_github(materialised: Deployment) -> Deployment:
    """The deployment after a runner computed ten shards of another model."""
    runner = materialised.runner(SUBJECT)
    for command in (("predict", RUNNER_MODEL), ("load", RUNNER_MODEL)):
        done = materialised.precalc(runner, *command, "--shards", "00-09")
        assert done.returncode == 0, done.stderr
    return materialised


def read_parquet(deployment: Deployment, model: str, shards: list[str]) -> pl.DataFrame:
    s3 = deployment.pipeline.client("s3")
    objects = (s3.get_object(Bucket=deployment.bucket, Key=predictions(model, shard)) for shard in shards)
    return pl.concat(pl.read_parquet(found["Body"].read()) for found in objects)


def assert_served(deployment: Deployment, model: str, expected: pl.DataFrame) -> None:
    at_a_time = min(1_000, VALUES_OF_A_REQUEST // expected.width)
    for part in expected.drop("smiles").iter_slices(at_a_time):
        rows = part.rows()
        answer = deployment.ask(f"/models/{model}/predictions", [key for key, *_ in rows])
        assert answer.status == 200, answer.text
        assert answer.compressed
        assert answer.json["predictions"] == [values for _, *values in rows]


def assert_refused(*calls: Callable[[], object]) -> None:
    for call in calls:
        with pytest.raises(ClientError) as refusal:
            call()
        assert refusal.value.response["Error"]["Code"] in {"AccessDenied", "AccessDeniedException"}


def test_api_returns_every_prediction_as_in_the_parquet(materialised):
    expected = read_parquet(materialised, MODEL, shard_keys(N_SHARDS))
    assert len(expected) > 4_800
    assert_served(materialised, MODEL, expected)
    (listed,) = materialised.ask("/models").json["models"]
    assert (listed["model"], listed["molecules"]) == (MODEL, len(expected))


def test_readers_get_csv_on_request_and_reasons_for_nothing(materialised):
    expected = read_parquet(materialised, MODEL, ["00"]).drop("smiles")
    keys = expected["inchikey"].to_list()
    answer = materialised.ask(f"/models/{MODEL}/predictions", keys, accept="text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["inchikey"] for row in rows] == keys
    assert [float(row["logp"]) for row in rows] == expected["logp"].to_list()
    single = materialised.ask(f"/models/{MODEL}/predictions/{keys[0]}")
    assert single.json["inchikey"] == keys[0]
    unknown = "AAAAAAAAAAAAAA-AAAAAAAAAA-N"
    assert materialised.ask(f"/models/{MODEL}/predictions/{unknown}").error == (404, "not_in_library")
    assert materialised.ask(f"/models/eos9zzz/predictions/{keys[0]}").error == (404, "unknown_model")
    assert materialised.ask("/nothing").error == (404, "unknown_route")


def test_pages_need_no_key_and_all_else_does(materialised):
    pages = {
        "/": "text/html",
        f"/browse/{MODEL}": "text/html",
        "/screen": "text/html",
        "/docs": "text/html",
        "/openapi.json": "application/json",
        "/health": "application/json",
    }
    for path, kind in pages.items():
        answer = materialised.ask(path, key="")
        assert (answer.status, answer.header("content-type").split(";")[0]) == (200, kind), path
    assert MODEL in materialised.ask("/", key="").text
    assert materialised.ask("/openapi.json", key="").json["paths"].keys() >= {"/inchikeys", "/models/{model}/files"}

    molecule = read_parquet(materialised, MODEL, ["00"])["inchikey"][0]
    rest = {
        "/models": None,
        f"/models/{MODEL}": None,
        f"/models/{MODEL}/files": None,
        f"/models/{MODEL}/quarantine": None,
        f"/models/{MODEL}/predictions/{molecule}": None,
        f"/models/{MODEL}/predictions": {"inchikeys": [molecule]},
        f"/molecules/{molecule}": None,
        "/inchikeys": {"smiles": ["CCO"]},
        f"/screens?select={MODEL}.logp": None,
        "/predictions": {"modelId": MODEL, "inputKeyArray": [molecule]},
        "/nothing": None,
    }
    keys = materialised.emulator.client("apigateway")
    without_plan = keys.create_api_key(name="of another API", enabled=True)["value"]
    for path, body in rest.items():
        assert materialised.send(path, body).status == (404 if path == "/nothing" else 200), path
        for key in ("", "wrong", without_plan):
            assert materialised.send(path, body, key=key).error == (403, "invalid_api_key"), path


def test_signed_links_download_the_loaded_files(materialised):
    said = materialised.ask(f"/models/{MODEL}/files").json
    assert [file["shard"] for file in said["files"]] == shard_keys(N_SHARDS)
    left = datetime.fromisoformat(said["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=50) < left <= timedelta(hours=1)
    rows = []
    for file in said["files"]:
        found = materialised.fetch(file["url"])
        assert found.status == 200, found.content
        assert (len(found.content), sha256(found.content).hexdigest()) == (file["bytes"], file["sha256"])
        rows.append(pl.read_parquet(found.content))
        assert len(rows[-1]) == file["rows"]
    assert pl.concat(rows).equals(read_parquet(materialised, MODEL, shard_keys(N_SHARDS)))


def test_a_link_opens_nothing_else_and_not_for_longer(materialised):
    link = materialised.ask(f"/models/{MODEL}/files").json["files"][0]["url"]
    for other in (link.replace("shard%3D00", "shard%3D01"), link.replace("Expires=3600", "Expires=36000")):
        assert other != link
        assert materialised.fetch(other).status == 403
    # Links that the Lambda's role signs for other folders do not work.
    s3 = materialised.in_role("Reader").client("s3")
    for name, status in (
        (predictions(MODEL, "00"), 200),
        (quarantine(MODEL, "00"), 200),
        ("library/manifest.json", 403),
        (f"raw/model={MODEL}/shard=00/manifest.json", 403),
    ):
        signed = s3.generate_presigned_url("get_object", {"Bucket": materialised.bucket, "Key": name}, ExpiresIn=60)
        assert materialised.fetch(signed).status == status
    ends = s3.generate_presigned_url(
        "get_object", {"Bucket": materialised.bucket, "Key": predictions(MODEL, "00")}, ExpiresIn=1
    )
    time.sleep(2.5)
    assert materialised.fetch(ends).status == 403


def test_smiles_are_keyed_by_the_lambda_that_has_rdkit(materialised):
    expected = read_parquet(materialised, MODEL, ["00", "01"])
    said = materialised.send("/inchikeys", {"smiles": [*expected["smiles"], "C1CC"]}).json
    assert said["inchikeys"] == [*expected["inchikey"], None]
    assert [(error["index"], error["smiles"]) for error in said["errors"]] == [(len(expected), "C1CC")]
    assert materialised.send("/inchikeys", {"smiles": [1]}).error == (400, "bad_request")
    assert materialised.send("/inchikeys", {"smiles": ["C"] * 1_001}).error == (413, "too_many_smiles")


def test_the_old_contract_is_kept(materialised):
    expected = read_parquet(materialised, MODEL, ["00"])
    asked = {"modelId": MODEL, "inputKeyArray": expected["inchikey"].to_list()}
    said = materialised.send("/predictions", asked).json
    assert said["model_id"] == MODEL
    assert [row["smiles"] for row in said["output"]] == expected["smiles"].to_list()
    values = expected.drop("inchikey", "smiles").rows()
    assert [row["value"] for row in said["output"]] == [list(row) for row in values]
    assert materialised.send("/predictions", asked, method="GET").json == said
    assert materialised.ask("/predictions").status == 204


def test_screens_have_the_answer_of_the_files(materialised):
    question = ("--where", f"{MODEL}.logp between 2 and 3", "--order", f"{MODEL}.logp desc", "--limit", "10000")
    local = materialised.precalc(materialised.pipeline, "screen", *question)
    there = materialised.precalc(materialised.pipeline, "screen", *question, "--api", materialised.url)
    for done in (local, there):
        assert done.returncode == 0, done.stderr
    assert there.stdout == local.stdout
    expected = read_parquet(materialised, MODEL, shard_keys(N_SHARDS)).filter(pl.col("logp").is_between(2, 3))
    found = list(csv.DictReader(io.StringIO(there.stdout)))
    expected = expected.sort("logp", "inchikey", descending=[True, False])
    assert [row["inchikey"] for row in found] == expected["inchikey"].to_list()
    asked = {"where": [{"column": f"{MODEL}.logp", "op": "between", "value": [2, 3]}], "limit": 0}
    assert materialised.send("/screens", asked).json["matched"] == len(found) > 100
    assert materialised.ask(f"/screens?where={MODEL}.mass>1").error == (400, "bad_screen")


def test_athena_answers_analysts_as_the_engine_does(materialised):
    # AWS knows the workgroup of a query, for which it checks these rights. The emulator asks for all of them.
    of_queries = [f"athena:{action}QueryExecution" for action in ("Get", "Stop")]
    analyst = materialised.user_with("AnalystPolicy", beyond=[*of_queries, "athena:GetQueryResults"])
    question = ("--where", f"{MODEL}.logp between 2 and 3", "--order", f"{MODEL}.logp desc", "--limit", "3000")
    here = materialised.precalc(materialised.pipeline, "screen", *question)
    there = materialised.precalc(analyst, "screen", *question, "--engine", "athena")
    assert there.returncode == 0, there.stderr
    assert (there.stdout, there.stderr) == (here.stdout, here.stderr)
    glue, s3 = analyst.client("glue"), analyst.client("s3")
    database = materialised.outputs["GlueDatabase"]
    table = glue.get_table(DatabaseName=database, Name=MODEL)["Table"]["StorageDescriptor"]
    assert table["Location"] == f"s3://{materialised.bucket}/predictions/model={MODEL}/"
    assert_refused(
        lambda: glue.delete_table(DatabaseName=database, Name=MODEL),
        lambda: s3.list_objects_v2(Bucket=materialised.bucket, Prefix="raw/"),
        lambda: s3.put_object(Bucket=materialised.bucket, Key=predictions(MODEL, "00"), Body=b""),
        lambda: s3.get_object(Bucket=materialised.bucket, Key="library/manifest.json"),
    )


@pytest.mark.parametrize("through", ["lambda", "precalc api"])
def test_the_client_reads_what_is_in_the_parquet(materialised, through, tmp_path, monkeypatch):
    for name, value in materialised.emulator.environment.items():
        if name.endswith("CERT_FILE"):
            monkeypatch.setenv(name, value)
    expected = read_parquet(materialised, MODEL, shard_keys(N_SHARDS))
    with ExitStack() as stack:
        url, key = materialised.url, materialised.key
        if through == "precalc api":
            url, key = stack.enter_context(materialised.local_api(materialised.pipeline)), None
        client = stack.enter_context(Client(url, key))
        assert list(client.models().index) == [MODEL]
        found = client.get(MODEL, expected["inchikey"].to_list(), smiles=True)
        assert (set(found["status"]), set(found["match"])) == ({"found"}, {"key"})
        assert pl.from_pandas(found.drop(columns=list(LEADING[1:]))).rows() == expected.drop("smiles").rows()
        assert found["library_smiles"].to_list() == expected["smiles"].to_list()
        downloaded = client.download(MODEL, tmp_path)
    assert pl.concat(map(pl.read_parquet, downloaded)).equals(expected)


def test_api_returns_what_a_runner_computed_and_loaded(computed_on_github):
    assert_served(
        computed_on_github, RUNNER_MODEL, read_parquet(computed_on_github, RUNNER_MODEL, shard_keys(N_SHARDS)[:10])
    )
    other = read_parquet(computed_on_github, MODEL, ["10"])["inchikey"][0]
    answer = computed_on_github.ask(f"/models/{RUNNER_MODEL}/predictions/{other}")
    assert answer.error == (404, "not_predicted_yet")


@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT,
        DEPLOY_SUBJECT,
        f"repo:{REPOSITORY}:ref:refs/heads/main",
        f"repo:{REPOSITORY}:environment:staging",
        f"repo:{REPOSITORY}-fork:environment:precalc",
        f"repo:{REPOSITORY}:environment:precalc:and-more",
    ],
)
def test_roles_are_bound_to_the_environments_of_github(deployment, subject):
    if subject != SUBJECT:
        assert_refused(lambda: deployment.runner(subject))
    if subject != DEPLOY_SUBJECT:
        assert_refused(lambda: deployment.deployer(subject))


def test_a_runner_is_refused_what_is_not_its_work(computed_on_github):
    deployment = computed_on_github
    administrator = deployment.emulator
    foreign = administrator.make_bucket()
    runner = deployment.runner(SUBJECT)
    s3, dynamodb = runner.client("s3"), runner.client("dynamodb")

    def put(name: str, bucket: str = deployment.bucket):
        return lambda: s3.put_object(Bucket=bucket, Key=name, Body=b"")

    def write(table: str):
        put = {"PutRequest": {"Item": {"key": {"S": "runner"}}}}
        return lambda: dynamodb.batch_write_item(RequestItems={table: [put]})

    assert_refused(*map(put, ("library/manifest.json", "library_source/0.csv", "requests/1.json", "dagster/log")))
    assert_refused(put("raw/part", foreign), lambda: s3.list_objects_v2(Bucket=foreign))
    assert_refused(lambda: s3.get_object(Bucket=deployment.bucket, Key="library_source/0.smi"))
    assert_refused(lambda: s3.delete_object(Bucket=deployment.bucket, Key="library/manifest.json"))
    assert_refused(*map(write, (f"{PREFIX}-library", "other-eos0aaa")))
    assert_refused(lambda: dynamodb.delete_table(TableName=f"{PREFIX}-{MODEL}"))

    put("raw/model=eos9abc/shard=00/part")()
    write(f"{PREFIX}-{RUNNER_MODEL}")()
    # A missing object must be a 404, not a 403.
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=deployment.bucket, Key="raw/model=eos9abc/shard=00/manifest.json")


@pytest.mark.parametrize("role", ["Reader", "ScreensRole"])
def test_lambdas_may_only_read_their_own_tables_and_files(materialised, role):
    administrator = materialised.emulator.client("dynamodb")
    other = f"other-{role}"
    administrator.create_table(
        TableName=other,
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    caller = materialised.in_role(role)
    dynamodb, s3 = caller.client("dynamodb"), caller.client("s3")
    own = f"{PREFIX}-{MODEL}"
    item = {"key": {"S": "00"}}

    assert_refused(
        lambda: dynamodb.put_item(TableName=own, Item=item),
        lambda: dynamodb.batch_write_item(RequestItems={own: [{"PutRequest": {"Item": item}}]}),
        lambda: dynamodb.delete_item(TableName=own, Key=item),
        lambda: dynamodb.scan(TableName=own),
        lambda: dynamodb.delete_table(TableName=own),
        lambda: dynamodb.batch_get_item(RequestItems={other: {"Keys": [item]}}),
        lambda: s3.get_object(Bucket=materialised.bucket, Key="library/manifest.json"),
        lambda: s3.put_object(Bucket=materialised.bucket, Key=predictions(MODEL, "00"), Body=b""),
        lambda: s3.delete_object(Bucket=materialised.bucket, Key=predictions(MODEL, "00")),
        lambda: s3.list_objects_v2(Bucket=materialised.bucket),
    )
    assert dynamodb.batch_get_item(RequestItems={own: {"Keys": [item]}})["Responses"][own]
    if role == "ScreensRole":
        assert_refused(
            lambda: dynamodb.batch_get_item(RequestItems={f"{PREFIX}-library": {"Keys": [item]}}),
            lambda: s3.get_object(Bucket=materialised.bucket, Key=quarantine(MODEL, "00")),
        )


def test_the_bucket_is_refused_to_whoever_comes_without_tls(materialised):
    s3 = materialised.pipeline.client("s3")
    s3.get_object(Bucket=materialised.bucket, Key=predictions(MODEL, "00"))
    # The emulator listens only for TLS; a proxy's header marks a request as plain HTTP.
    s3.meta.events.register(
        "before-sign.s3", lambda request, **_: request.headers.add_header("X-Forwarded-Proto", "http")
    )
    assert_refused(lambda: s3.get_object(Bucket=materialised.bucket, Key=predictions(MODEL, "00")))


def test_unchanged_deployment_is_a_no_op_and_destroy_is_complete(computed_on_github):
    deployment = computed_on_github
    # This role's only right is to assume the CDK's roles.
    environment = deployment.deployer(DEPLOY_SUBJECT).environment
    assert "Number of stacks with differences: 0" in run_cdk(
        "diff", "--all", "--app", deployment.assembly, environment=environment
    )

    glue, database = deployment.emulator.client("glue"), deployment.outputs["GlueDatabase"]
    assert [table["Name"] for table in glue.get_tables(DatabaseName=database)["TableList"]] == [MODEL, RUNNER_MODEL]
    dropped = [deployment.precalc(deployment.pipeline, "drop", model, "--yes") for model in (MODEL, RUNNER_MODEL)]
    assert {done.returncode for done in dropped} == {0}
    assert not glue.get_tables(DatabaseName=database)["TableList"]
    s3 = deployment.pipeline.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=deployment.bucket):
        s3.delete_objects(
            Bucket=deployment.bucket, Delete={"Objects": [{"Key": found["Key"]} for found in page["Contents"]]}
        )
    results = deployment.emulator.client("s3")
    for bucket in (each["Name"] for each in results.list_buckets()["Buckets"] if f"{PREFIX}-athena-" in each["Name"]):
        for found in results.list_objects_v2(Bucket=bucket).get("Contents", []):
            results.delete_object(Bucket=bucket, Key=found["Key"])
    run_cdk("destroy", "--all", "--force", "--app", deployment.assembly, environment=environment)

    administrator = deployment.emulator.client
    assert deployment.bucket not in {bucket["Name"] for bucket in administrator("s3").list_buckets()["Buckets"]}
    tables = administrator("dynamodb").list_tables()["TableNames"]
    assert [table for table in tables if table.startswith(f"{PREFIX}-")] == [f"{PREFIX}-library"]
    assert not administrator("lambda").list_functions()["Functions"]
    assert not administrator("apigateway").get_rest_apis()["items"]

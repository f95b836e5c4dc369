"""The synthesised templates: resources, rights, limits and alarms."""

import json
import os
import re
import subprocess

import pytest
from stacks import (
    CFN_LINT,
    DEPLOY_SUBJECT,
    REPOSITORY,
    SUBJECT,
    listed,
    load_templates,
    require_tools,
    run_app,
    run_cdk,
)

from infra.lambda_asset import ASSETS, INCHIKEYS

pytestmark = pytest.mark.slow

BUCKET = "arn:<AWS::Partition>:s3:::precalc-<AWS::AccountId>-<AWS::Region>"
GLUE = "arn:<AWS::Partition>:glue:<AWS::Region>:<AWS::AccountId>"
TABLE = "arn:<AWS::Partition>:dynamodb:<AWS::Region>:<AWS::AccountId>:table/precalc-"


def resources_of(statements, action):
    return {resource for s in statements if action in s["Action"] for resource in s["Resource"]}


def test_no_template_names_an_account_or_a_region(stacks):
    assert stacks.keys() == {"storage", "api", "athena", "github"}
    for template in stacks.values():
        text = template.path.read_text()
        assert not re.search(r"(?<![0-9a-f])\d{12}(?![0-9a-f])", text)
        assert not re.search(r"\b[a-z]{2}(-gov)?-(north|south|east|west|central)[a-z]*-\d\b", text)


def test_cfn_lint_has_nothing_to_say(stacks):
    # W3005: the CDK writes dependencies that references already imply.
    command = [CFN_LINT, "--ignore-checks", "W3005", "--", *(template.path for template in stacks.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_bucket_is_closed_encrypted_and_reached_by_tls_alone(stacks):
    bucket = stacks["storage"].only("S3::Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert "VersioningConfiguration" not in bucket
    (statement,) = stacks["storage"].only("S3::BucketPolicy")["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"], statement["Principal"]) == ("Deny", "s3:*", {"AWS": "*"})
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_objects_grow_cheaper_and_leftovers_go(stacks):
    rules = stacks["storage"].only("S3::Bucket")["LifecycleConfiguration"]["Rules"]
    by_prefix = {rule.pop("Prefix", ""): rule for rule in rules}
    assert by_prefix["raw/"]["Transitions"] == [{"StorageClass": "STANDARD_IA", "TransitionInDays": 30}]
    assert by_prefix["quarantine/"]["ExpirationInDays"] == by_prefix["emptied/"]["ExpirationInDays"] == 180
    assert by_prefix["dagster/"]["ExpirationInDays"] == 90
    assert by_prefix[""]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    expiring = {prefix for prefix, rule in by_prefix.items() if "ExpirationInDays" in rule}
    assert expiring == {"quarantine/", "emptied/", "dagster/"}


def test_registry_has_the_pipelines_schema_and_can_be_recovered(stacks):
    table = stacks["storage"].only("DynamoDB::Table")
    assert table["TableName"] == "precalc-models"
    assert table["KeySchema"] == [{"AttributeName": "key", "KeyType": "HASH"}]
    assert table["AttributeDefinitions"] == [{"AttributeName": "key", "AttributeType": "S"}]
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_data_outlives_the_stack_unless_it_is_to_be_thrown_away(stacks, tmp_path):
    done = run_app(tmp_path / "cdk.out", keep="false", prefix="try-out")
    assert done.returncode == 0, done.stderr
    thrown_away = load_templates(tmp_path / "cdk.out")
    assert thrown_away.keys() == {"storage", "api"}
    for templates, policy in ((stacks, "Retain"), (thrown_away, "Delete")):
        data = templates["storage"].all("S3::Bucket") + templates["storage"].all("DynamoDB::Table")
        assert {resource["DeletionPolicy"] for resource in data} == {policy}
        assert {resource["UpdateReplacePolicy"] for resource in data} == {policy}
    assert thrown_away["storage"].only("DynamoDB::Table")["TableName"] == "try-out-models"
    assert not thrown_away["api"].all("SNS::Topic")


def test_no_policy_allows_more_than_it_names(stacks):
    for template in stacks.values():
        for statement in template.statements():
            assert statement["Effect"] == "Allow"
            assert not [action for action in statement["Action"] if "*" in action]
            if statement["Action"] not in (["dynamodb:ListTables"], ["sts:AssumeRole"]):
                for resource in statement["Resource"]:
                    assert resource != "*"
                    assert "*" not in resource[:-1]


@pytest.mark.parametrize(
    ("role", "tables", "folders"),
    [
        ("Reader", ("eos*", "library", "models"), ("predictions", "quarantine")),
        ("ScreensRole", ("eos*", "models"), ("predictions",)),
    ],
)
def test_lambda_reads_its_own_tables_and_files(stacks, role, tables, folders):
    (policy,) = stacks["api"].named("IAM::Role", role)["Policies"]
    allowed = {
        (tuple(listed(s["Action"])), tuple(listed(s["Resource"]))) for s in policy["PolicyDocument"]["Statement"]
    }
    assert allowed == {
        (("dynamodb:BatchGetItem", "dynamodb:DescribeTable"), tuple(f"{TABLE}{name}" for name in tables)),
        (("dynamodb:ListTables",), ("*",)),
        (("s3:GetObject",), tuple(f"{BUCKET}/{folder}/*" for folder in folders)),
    }


def test_lambda_with_rdkit_may_only_write_its_log(stacks):
    api = stacks["api"]
    role = api.named("IAM::Role", "InChIKeysRole")
    assert not {"Policies", "ManagedPolicyArns"} & role.keys()
    granted = [
        statement
        for policy in api.all("IAM::Policy")
        if any("InChIKeysRole" in name for name in policy["Properties"]["Roles"])
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
    ]
    assert {action for s in granted for action in s["Action"]} == {"logs:CreateLogStream", "logs:PutLogEvents"}
    function = api.named("Lambda::Function", "InChIKeys")
    assert function["Handler"] == INCHIKEYS.handler
    assert "Environment" not in function
    assert (function["MemorySize"], function["Timeout"]) == (1769, 29)
    assert "InChIKeysRole" in function["Role"]


def test_athena_is_limited_encrypted_and_its_results_expire(stacks):
    athena = stacks["athena"]
    database, workgroup = athena.only("Glue::Database"), athena.only("Athena::WorkGroup")
    assert database["DatabaseInput"]["Name"] == workgroup["Name"] == "precalc"
    configuration = workgroup["WorkGroupConfiguration"]
    assert configuration["EnforceWorkGroupConfiguration"] is True
    assert configuration["BytesScannedCutoffPerQuery"] == 50 * 10**9
    results = configuration["ResultConfiguration"]
    assert results["EncryptionConfiguration"] == {"EncryptionOption": "SSE_S3"}
    assert re.fullmatch(r"s3://<Results[0-9A-F]{8}>/", results["OutputLocation"])
    bucket = athena.only("S3::Bucket")
    assert [rule["ExpirationInDays"] for rule in bucket["LifecycleConfiguration"]["Rules"]] == [7]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}


def test_analysts_read_predictions_and_write_only_results(stacks):
    statements = [
        statement | {key: listed(statement[key]) for key in ("Action", "Resource")}
        for statement in stacks["athena"].named("IAM::ManagedPolicy", "Analyst")["PolicyDocument"]["Statement"]
    ]
    results = "arn:<AWS::Partition>:s3:::precalc-athena-<AWS::AccountId>-<AWS::Region>"
    assert resources_of(statements, "s3:GetObject") == {f"{BUCKET}/predictions/*", f"{results}/*"}
    assert resources_of(statements, "s3:PutObject") == {f"{results}/*"}
    (listing,) = (s for s in statements if s["Action"] == ["s3:ListBucket"])
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "predictions/*"}}
    changing = {a for s in statements for a in s["Action"] if re.search(r":(Create|Update|Delete|BatchWrite)", a)}
    assert not changing


def test_a_runner_computes_and_loads_shards_and_nothing_else(stacks):
    statements = list(stacks["github"].statements())
    folders = {"emptied", "executions", "predictions", "quarantine", "raw", "samples"}
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert resources_of(statements, action) == {f"{BUCKET}/{folder}/*" for folder in folders}
    assert resources_of(statements, "s3:GetObject") == {f"{BUCKET}/{folder}/*" for folder in {*folders, "library"}}
    assert resources_of(statements, "dynamodb:BatchWriteItem") == {f"{TABLE}eos*", f"{TABLE}models"}
    assert not resources_of(statements, "dynamodb:DeleteTable")
    assert resources_of(statements, "glue:UpdateTable") >= {f"{GLUE}:table/precalc/*"}


def test_environments_separate_computing_from_deploying_jobs(stacks):
    issuer = "token.actions.githubusercontent.com"
    trusted = {}
    for role in (resource["Properties"] for resource in stacks["github"].all("IAM::Role")):
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
        condition = statement["Condition"]["StringEquals"]
        trusted[condition.pop(f"{issuer}:sub")] = role
        assert condition == {f"{issuer}:aud": "sts.amazonaws.com"}
    assert trusted.keys() == {SUBJECT, DEPLOY_SUBJECT}
    assert trusted[SUBJECT]["MaxSessionDuration"] == 7 * 3600
    (policy,) = trusted[DEPLOY_SUBJECT]["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Resource"] == "arn:<AWS::Partition>:iam::<AWS::AccountId>:role/cdk-*-<AWS::Region>"
    assert stacks["github"].only("IAM::OIDCProvider")["Url"] == f"https://{issuer}"


def methods_by_path(api):
    """Return the methods of an API by verb and path."""
    resources = {f"<{name}>": r["Properties"] for name, r in api.resources.items() if "PathPart" in r["Properties"]}

    def path(reference):
        found = resources.get(reference)
        return f"{path(found['ParentId'])}/{found['PathPart']}" if found else ""

    methods = [resource["Properties"] for resource in api.all("ApiGateway::Method")]
    return {(method["HttpMethod"], path(method["ResourceId"]) or "/"): method for method in methods}


RDKIT = {("POST", path) for path in ("/inchikeys", "/rows", "/drawings")}
SCREENS = {("GET", "/screens"), ("POST", "/screens")}
OPEN = {("GET", path) for path in ("/", "/browse/{proxy+}", "/docs", "/health", "/openapi.json", "/screen")}


def test_all_routes_but_pages_need_a_key_with_limits(stacks):
    api = stacks["api"]
    methods = methods_by_path(api)
    with_key = {("ANY", "/"), ("ANY", "/{proxy+}"), *RDKIT, *SCREENS}
    assert methods.keys() == OPEN | with_key
    for name, method in methods.items():
        assert method["ApiKeyRequired"] is (name in with_key)
        assert method["Integration"]["Type"] == "AWS_PROXY"
        function = "InChIKeys" if name in RDKIT else "Screens" if name in SCREENS else "Function"
        assert re.search(rf"<{function}[0-9A-F]{{8}}\.Arn>", method["Integration"]["Uri"])
    plan = api.only("ApiGateway::UsagePlan")
    assert plan["Throttle"]["RateLimit"] < plan["Throttle"]["BurstLimit"]
    assert plan["Quota"]["Period"] == "MONTH"
    assert len(plan["ApiStages"]) == 1
    assert "Value" not in api.only("ApiGateway::ApiKey")


def test_the_api_is_of_one_region_compressed_limited_and_logged(stacks):
    api = stacks["api"]
    rest_api = api.only("ApiGateway::RestApi")
    assert rest_api["EndpointConfiguration"] == {"Types": ["REGIONAL"]}
    assert rest_api["BinaryMediaTypes"] == ["*/*"]
    stage = api.only("ApiGateway::Stage")
    # A slash within a path is written ~1.
    paths = ("/" + settings["ResourcePath"].replace("~1", "/").lstrip("/") for settings in stage["MethodSettings"])
    limits = {(s["HttpMethod"], path): s for s, path in zip(stage["MethodSettings"], paths, strict=True)}
    of_all = limits.pop(("*", "/*"))
    assert of_all["ThrottlingRateLimit"] > api.only("ApiGateway::UsagePlan")["Throttle"]["RateLimit"]
    assert limits.keys() == {*RDKIT, *SCREENS, *OPEN}
    for settings in (of_all, *limits.values()):
        assert settings["DataTraceEnabled"] is False
        assert settings["LoggingLevel"] == "ERROR"
        assert settings["MetricsEnabled"] is True
    # They have no quota, so the rate limits their costs.
    assert max(limits[path]["ThrottlingRateLimit"] for path in OPEN) == 5
    for route in RDKIT | SCREENS:
        assert limits[route]["ThrottlingRateLimit"] < of_all["ThrottlingRateLimit"]
    assert "requestId" in stage["AccessLogSetting"]["Format"]
    assert {log["Properties"]["RetentionInDays"] for log in api.all("Logs::LogGroup")} == {90}


def test_what_api_gateway_refuses_has_the_form_of_all_answers(stacks):
    responses = [resource["Properties"] for resource in stacks["api"].all("ApiGateway::GatewayResponse")]
    assert {"INVALID_API_KEY", "THROTTLED", "DEFAULT_4XX", "DEFAULT_5XX"} <= {r["ResponseType"] for r in responses}
    for response in responses:
        body = json.loads(response["ResponseTemplates"]["application/json"])
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"code", "message"}
        waits = "gatewayresponse.header.Retry-After" in response.get("ResponseParameters", {})
        assert waits == (response["ResponseType"] in {"THROTTLED", "QUOTA_EXCEEDED", "DEFAULT_5XX"})


def test_browsers_of_named_origins_may_ask_without_a_key(stacks, tmp_path):
    def preflights(template):
        methods = [resource["Properties"] for resource in template.all("ApiGateway::Method")]
        return [method for method in methods if method["HttpMethod"] == "OPTIONS"]

    assert preflights(stacks["api"]) == []
    done = run_app(tmp_path / "cdk.out", cors_origins="https://lab.example")
    assert done.returncode == 0, done.stderr
    api = load_templates(tmp_path / "cdk.out")["api"]
    # Of the root, the routes below it, those with RDKit, and screens.
    assert [method["ApiKeyRequired"] for method in preflights(api)] == [False] * 6
    for name in ("Function", "InChIKeys", "Screens"):
        variables = api.named("Lambda::Function", name)["Environment"]["Variables"]
        assert variables["PRECALC_CORS_ORIGINS"] == "https://lab.example"


@pytest.mark.parametrize("name", ["Function", "Screens"])
def test_lambda_environment_has_urls_and_no_secret(stacks, name):
    function = stacks["api"].named("Lambda::Function", name)
    assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
    assert function["Environment"]["Variables"] == {
        "PRECALC_TABLES_URL": "dynamodb://<AWS::Region>/precalc",
        "PRECALC_STORE_URL": "s3://precalc-<AWS::AccountId>-<AWS::Region>",
    }
    assert function["Timeout"] <= 29


def test_somebody_hears_of_errors_throttles_and_slow_answers(stacks):
    alarms = [resource["Properties"] for resource in stacks["api"].all("CloudWatch::Alarm")]
    watched = sorted(alarm["MetricName"] for alarm in alarms)
    assert watched == ["5XXError", *["Errors"] * 3, "Latency", *["Throttles"] * 3]
    (topic,) = {action for alarm in alarms for action in alarm["AlarmActions"]}
    subscription = stacks["api"].only("SNS::Subscription")
    assert (subscription["TopicArn"], subscription["Protocol"]) == (topic, "email")
    assert {alarm["TreatMissingData"] for alarm in alarms} == {"notBreaching"}


def test_every_output_says_what_it_is_for(stacks):
    outputs = {name: output for template in stacks.values() for name, output in template.outputs.items()}
    wanted = "StoreUrl TablesUrl LogsBucket PipelinePolicy Url KeyId RoleArn DeployRoleArn Region"
    wanted += " GlueDatabase AnalystPolicy PublisherPolicy"
    assert outputs.keys() == set(wanted.split())
    assert all(output["Description"] for output in outputs.values())


def test_cdk_nag_stops_what_it_finds(assembly, tmp_path):
    script = (
        "from aws_cdk import aws_s3 as s3; from infra.app import build_app; app = build_app();"
        "s3.Bucket(app.node.find_child('precalc-storage'), 'Open'); app.synth()"
    )
    done = run_app(tmp_path / "cdk.out", "-c", script)
    assert done.returncode != 0
    assert "AwsSolutions-S10" in done.stderr
    assert "precalc-storage/Open/Resource" in done.stderr


def test_a_malformed_parameter_is_named(tmp_path):
    require_tools()
    malformed = {"prefix": "Precalc_", "repository": "precalc", "keep": "no", "alarm_email": "nobody"}
    script = f"""
from infra.parameters import Parameters
for name, value in {malformed}.items():
    try:
        Parameters.from_context({{name: value}}.get)
    except ValueError as error:
        print(error)
"""
    said = run_app(tmp_path / "cdk.out", "-c", script).stdout.splitlines()
    for (name, value), line in zip(malformed.items(), said, strict=True):
        assert line.startswith(f"-c {name}={value} does not match ")


def test_cdk_command_synthesises_the_stacks_with_the_lambda(tmp_path):
    require_tools()
    run_cdk("synth", "--quiet", "--output", tmp_path, "-c", f"repository={REPOSITORY}", environment=os.environ)
    assert load_templates(tmp_path).keys() == {"storage", "api", "github"}
    made = list(tmp_path.glob("asset.*"))
    handlers = [asset.handler.rpartition(".")[0].replace(".", "/") + ".py" for asset in ASSETS]
    assert sorted(name for name in handlers for folder in made if (folder / name).is_file()) == sorted(handlers)
    assert all(list(folder.glob("pydantic_core/*aarch64*.so")) for folder in made)

"""The API's Lambdas: one reads the tables and signs links, one has RDKit, one has Arrow and answers screens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.access import acknowledge_wildcards, reader_statements, screener_statements
from infra.lambda_asset import INCHIKEYS, READER, SCREENS, Asset
from infra.parameters import Parameters

RETENTION = logs.RetentionDays.THREE_MONTHS

_TIMEOUT = Duration.seconds(29)
"""API Gateway's longest wait ("Amazon API Gateway quotas")."""
_READER_MB = 1024
"""A Lambda's share of a core grows with its memory; this is 0.58 of one ("Configure Lambda function memory")."""
_RDKIT_MB = 1769
"""One core, by the same page: RDKit uses one, and its process may take 1 GB of memory."""
_SCREENS_MB = 3008
"""The most that a new account may have, with 1.7 cores. Over 1.4 million molecules, a screen that joins two models took
0.5 GB and 2 s of a core; one that answered 10,000 molecules with a hundred columns, 0.5 GB and 10 s."""


def make_reader(scope: Construct, parameters: Parameters) -> lambda_.Function:
    """Return the Lambda that answers all routes that read the tables."""
    statements = reader_statements(parameters.prefix, parameters.bucket)
    role = _make_role(scope, "Reader", "What the Lambda needs to read predictions", statements)
    return _make_function(
        scope,
        "Function",
        READER,
        parameters,
        role,
        description="Reads predictions by InChIKey",
        memory_mb=_READER_MB,
        log_group=_make_log(scope, "Log", role),
        environment=_stores(parameters) | _origins(parameters),
    )


def make_inchikeys(scope: Construct, parameters: Parameters) -> lambda_.Function:
    """Return the Lambda that answers `POST /inchikeys`; it may only write its log."""
    role = _make_role(scope, "InChIKeysRole", "What the Lambda with RDKit needs: nothing but its log", [])
    return _make_function(
        scope,
        "InChIKeys",
        INCHIKEYS,
        parameters,
        role,
        description="Makes InChIKeys of SMILES, by RDKit",
        memory_mb=_RDKIT_MB,
        log_group=_make_log(scope, "InChIKeysLog", role),
        environment=_origins(parameters),
    )


def make_screens(scope: Construct, parameters: Parameters) -> lambda_.Function:
    """Return the Lambda that answers `/screens`."""
    statements = screener_statements(parameters.prefix, parameters.bucket)
    role = _make_role(scope, "ScreensRole", "What the Lambda needs to screen predictions", statements)
    return _make_function(
        scope,
        "Screens",
        SCREENS,
        parameters,
        role,
        description="Answers screens, by Arrow",
        memory_mb=_SCREENS_MB,
        log_group=_make_log(scope, "ScreensLog", role),
        environment=_stores(parameters) | _origins(parameters),
    )


def _stores(parameters: Parameters) -> dict[str, str]:
    return {"PRECALC_TABLES_URL": parameters.tables_url, "PRECALC_STORE_URL": parameters.store_url}


def _origins(parameters: Parameters) -> dict[str, str]:
    return {"PRECALC_CORS_ORIGINS": parameters.cors_origins} if parameters.cors_origins else {}


def _make_role(scope: Construct, name: str, description: str, statements: Sequence[iam.PolicyStatement]) -> iam.Role:
    policies = {"reader": iam.PolicyDocument(statements=list(statements))} if statements else None
    role = iam.Role(
        scope,
        name,
        description=description,
        assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
        inline_policies=policies,
    )
    acknowledge_wildcards(role, statements)
    return role


def _make_log(scope: Construct, name: str, role: iam.Role) -> logs.LogGroup:
    group = logs.LogGroup(scope, name, retention=RETENTION, removal_policy=RemovalPolicy.DESTROY)
    group.grant_write(role)
    return group


def _make_function(
    scope: Construct,
    name: str,
    asset: Asset,
    parameters: Parameters,
    role: iam.Role,
    *,
    description: str,
    memory_mb: int,
    log_group: logs.LogGroup,
    environment: Mapping[str, str],
) -> lambda_.Function:
    function = lambda_.Function(
        scope,
        name,
        description=description,
        runtime=lambda_.Runtime.PYTHON_3_13,
        architecture=lambda_.Architecture.ARM_64,
        handler=asset.handler,
        code=lambda_.Code.from_asset(str(Path(parameters.lambda_folder) / asset.name)),
        memory_size=memory_mb,
        timeout=_TIMEOUT,
        role=role,
        log_group=log_group,
        environment=dict(environment),
    )
    Validations.of(function).acknowledge(
        Acknowledgment(
            id="AwsSolutions-L1",
            reason="The asset's compiled wheels are those of infra.lambda_asset.LAMBDA, Python 3.13.",
        )
    )
    return function

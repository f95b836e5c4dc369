"""Who may do what: the statements of each kind of program.

A reader is the Lambda behind the API, a runner a rented machine that computes shards, the pipeline the machine with
Dagster, a deployer a job that deploys. None is allowed more than its own work; `tests/infra` tries that out.
"""

from collections.abc import Iterable

from aws_cdk import Acknowledgment, Aws, Validations
from aws_cdk.aws_iam import Effect, PolicyStatement
from constructs import IConstruct

_OBJECTS_OF_A_RUNNER = ("executions", "predictions", "quarantine", "raw", "samples")
"""Folders in the bucket that a runner reads and writes; of the library it only reads."""

_READ_TABLE = ("dynamodb:BatchGetItem", "dynamodb:DescribeTable")
_LOAD_TABLE = (
    *_READ_TABLE,
    "dynamodb:BatchWriteItem",
    "dynamodb:CreateTable",
    "dynamodb:PutItem",
    "dynamodb:TagResource",
    "dynamodb:UpdateContinuousBackups",
)
_READ_OBJECT = ("s3:GetObject",)
_WRITE_OBJECT = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject")


def reader_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what the API needs: to read the tables and their names, and the files that it signs links to.

    A link lets its bearer do what the role may do. It may not list: to whoever has a link, S3 tells nothing of others.
    """
    return [
        _allow(_READ_TABLE, _tables(prefix, "eos*", "library", "models")),
        _list_tables(),
        _allow(_READ_OBJECT, _objects(bucket, "predictions")),
    ]


def runner_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what a rented machine needs: to compute shards of models, load them into their tables and publish cards.

    It drops no table, and does not touch the library, its source and what readers have asked for.
    """
    return [
        _list_bucket(bucket),
        _allow(_READ_OBJECT, _objects(bucket, "library")),
        _allow(_WRITE_OBJECT, _objects(bucket, *_OBJECTS_OF_A_RUNNER)),
        _allow(_LOAD_TABLE, _tables(prefix, "eos*", "models")),
    ]


def pipeline_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what the machine with Dagster needs: everything in the bucket and in the tables, and nothing else."""
    change_table = (*_LOAD_TABLE, "dynamodb:DeleteTable")
    return [
        _list_bucket(bucket),
        _allow(_WRITE_OBJECT, [f"{_bucket_arn(bucket)}/*"]),
        _allow(change_table, _tables(prefix, "eos*", "library", "models")),
        _list_tables(),
    ]


def deployer_statements() -> list[PolicyStatement]:
    """Return what a job needs to deploy: the CDK's own roles do the rest, with what `cdk bootstrap` gave them."""
    return [_allow(["sts:AssumeRole"], [f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/cdk-*-{Aws.REGION}"])]


def acknowledge_wildcards(construct: IConstruct, statements: Iterable[PolicyStatement]) -> None:
    """Tell cdk-nag why the resources of these statements have a star."""
    reasons = {
        ":table/": "A table is made for each model when it is first loaded; its name is the prefix and the model's id.",
        ":role/": "The CDK's roles have the names of what they do, and of a qualifier that can be chosen.",
        ":s3:::": "Objects are made at run time; the names of those of one kind begin with the same folder.",
        "*": "Tables can only be listed as a whole (Service Authorization Reference, DynamoDB, ListTables).",
    }
    resources = [_as_cdk_nag_writes(r) for statement in statements for r in statement.resources if "*" in r]
    Validations.of(construct).acknowledge(
        *(
            Acknowledgment(
                id=f"AwsSolutions-IAM5[Resource::{resource}]",
                reason=next(reason for part, reason in reasons.items() if part in resource),
            )
            for resource in resources
        )
    )


def _as_cdk_nag_writes(resource: str) -> str:
    for name, token in (("Partition", Aws.PARTITION), ("Region", Aws.REGION), ("AccountId", Aws.ACCOUNT_ID)):
        resource = resource.replace(token, f"<AWS::{name}>")
    return resource


def _list_bucket(bucket: str) -> PolicyStatement:
    # Of the whole bucket, since a request for one object has no prefix that a condition could look at; and without
    # this right, S3 answers 403 instead of 404 when asked for a manifest that is not there yet.
    return _allow(["s3:ListBucket"], [_bucket_arn(bucket)])


def _list_tables() -> PolicyStatement:
    return _allow(["dynamodb:ListTables"], ["*"])


def _allow(actions: Iterable[str], resources: Iterable[str]) -> PolicyStatement:
    return PolicyStatement(effect=Effect.ALLOW, actions=list(actions), resources=list(resources))


def _bucket_arn(bucket: str) -> str:
    return f"arn:{Aws.PARTITION}:s3:::{bucket}"


def _objects(bucket: str, *folders: str) -> list[str]:
    return [f"{_bucket_arn(bucket)}/{folder}/*" for folder in folders]


def _tables(prefix: str, *names: str) -> list[str]:
    return [f"arn:{Aws.PARTITION}:dynamodb:{Aws.REGION}:{Aws.ACCOUNT_ID}:table/{prefix}-{name}" for name in names]

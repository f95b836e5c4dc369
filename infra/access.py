"""The IAM policy statements of each kind of program.

A reader is the Lambda behind the API, a screener the Lambda that answers screens, an analyst a person who asks Athena,
a publisher what keeps its tables, a runner a rented machine that computes shards, the pipeline the machine with
Dagster, a deployer a job that deploys. Each is allowed only its own work, which `tests/infra` tests.
"""

from collections.abc import Iterable

from aws_cdk import Acknowledgment, Aws, Validations
from aws_cdk.aws_iam import Effect, PolicyStatement
from constructs import IConstruct

_OBJECTS_OF_A_RUNNER = ("emptied", "executions", "predictions", "quarantine", "raw", "samples")
"""The bucket's folders that a runner reads and writes; it only reads the library."""

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
    """Return what the API needs: to read the tables and their names, and the files and lists that it signs links to.

    A link's bearer may do what the role may do. The role may not list objects, so a link reveals no others.
    """
    return [
        _allow(_READ_TABLE, _tables(prefix, "eos*", "library", "models")),
        _list_tables(),
        _allow(_READ_OBJECT, _objects(bucket, "predictions", "quarantine")),
    ]


def screener_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what screens need: to read predictions, and from tables the models and the files that are served."""
    return [
        _allow(_READ_TABLE, _tables(prefix, "eos*", "models")),
        _list_tables(),
        _allow(_READ_OBJECT, _objects(bucket, "predictions")),
    ]


def publisher_statements(database: str) -> list[PolicyStatement]:
    """Return what keeps the tables of a Glue database as the models are, for the pipeline and for runners."""
    return [_allow(["glue:CreateTable", "glue:DeleteTable", "glue:UpdateTable"], _glue(database))]


def analyst_statements(prefix: str, bucket: str, database: str, results: str) -> list[PolicyStatement]:
    """Return what questions to Athena need: what screens need, its workgroup and tables, and a bucket of results."""
    listed = _allow(["s3:ListBucket"], [_bucket_arn(bucket)])
    listed.add_conditions({"StringLike": {"s3:prefix": "predictions/*"}})
    asking = ("GetQueryExecution", "GetQueryResults", "GetWorkGroup", "StartQueryExecution", "StopQueryExecution")
    workgroup = f"arn:{Aws.PARTITION}:athena:{Aws.REGION}:{Aws.ACCOUNT_ID}:workgroup/{database}"
    return [
        *screener_statements(prefix, bucket),
        listed,
        _allow([f"athena:{action}" for action in asking], [workgroup]),
        _allow(["glue:GetDatabase", "glue:GetPartitions", "glue:GetTable", "glue:GetTables"], _glue(database)),
        _allow(["s3:GetBucketLocation"], [_bucket_arn(bucket), _bucket_arn(results)]),
        _allow(["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], [f"{_bucket_arn(results)}/*"]),
        _allow(["s3:ListBucketMultipartUploads"], [_bucket_arn(results)]),
    ]


def runner_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what a rented machine needs: to compute a model's shards, load them into its table and publish its card.

    It cannot drop a table, or change the library, its source or readers' requests.
    """
    return [
        _list_bucket(bucket),
        _allow(_READ_OBJECT, _objects(bucket, "library")),
        _allow(_WRITE_OBJECT, _objects(bucket, *_OBJECTS_OF_A_RUNNER)),
        _allow(_LOAD_TABLE, _tables(prefix, "eos*", "models")),
    ]


def pipeline_statements(prefix: str, bucket: str) -> list[PolicyStatement]:
    """Return what the machine with Dagster needs: everything in the bucket and the tables, and nothing else."""
    change_table = (*_LOAD_TABLE, "dynamodb:DeleteTable")
    return [
        _list_bucket(bucket),
        _allow(_WRITE_OBJECT, [f"{_bucket_arn(bucket)}/*"]),
        _allow(change_table, _tables(prefix, "eos*", "library", "models")),
        _list_tables(),
    ]


def deployer_statements() -> list[PolicyStatement]:
    """Return what a job needs to deploy: to assume the CDK's roles, which `cdk bootstrap` made."""
    return [_allow(["sts:AssumeRole"], [f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/cdk-*-{Aws.REGION}"])]


def acknowledge_wildcards(construct: IConstruct, statements: Iterable[PolicyStatement]) -> None:
    """Tell cdk-nag why these statements' resources have wildcards."""
    reasons = {
        ":glue:": "A model's table in Glue is made when the model is first published.",
        ":role/": "The names of the CDK's roles hold their purpose and a configurable qualifier.",
        ":s3:::": "Objects are made at run time; those of one kind are in one folder.",
        ":table/": "A model's table is made when it is first loaded; its name is the prefix and the model's id.",
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
    # For the whole bucket, since a request for one object has no prefix that a condition could check. Without this
    # right, S3 answers 403 instead of 404 for a manifest that does not exist yet.
    return _allow(["s3:ListBucket"], [_bucket_arn(bucket)])


def _list_tables() -> PolicyStatement:
    return _allow(["dynamodb:ListTables"], ["*"])


def _allow(actions: Iterable[str], resources: Iterable[str]) -> PolicyStatement:
    return PolicyStatement(effect=Effect.ALLOW, actions=list(actions), resources=list(resources))


def _bucket_arn(bucket: str) -> str:
    return f"arn:{Aws.PARTITION}:s3:::{bucket}"


def _glue(database: str) -> list[str]:
    """Return a database and its tables: Glue wants the right to a table's database and catalog, too."""
    glue = f"arn:{Aws.PARTITION}:glue:{Aws.REGION}:{Aws.ACCOUNT_ID}"
    return [f"{glue}:catalog", f"{glue}:database/{database}", f"{glue}:table/{database}/*"]


def _objects(bucket: str, *folders: str) -> list[str]:
    return [f"{_bucket_arn(bucket)}/{folder}/*" for folder in folders]


def _tables(prefix: str, *names: str) -> list[str]:
    return [f"arn:{Aws.PARTITION}:dynamodb:{Aws.REGION}:{Aws.ACCOUNT_ID}:table/{prefix}-{name}" for name in names]

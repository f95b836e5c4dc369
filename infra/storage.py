"""The storage stack: the bucket of molecules and predictions, and the registry of models. It outlives the others.

The models' tables are not here: the pipeline creates a table when a model is first loaded.
"""

from aws_cdk import Acknowledgment, CfnOutput, Duration, Stack, Validations
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.access import acknowledge_wildcards, pipeline_statements
from infra.parameters import Parameters


class StorageStack(Stack):
    """The bucket, the registry table, and the policy of the machine with Dagster."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters) -> None:
        super().__init__(scope, name, description="precalc: molecules, predictions and the registry of models")
        self._make_bucket(parameters)
        self._make_registry(parameters)
        policy = self._make_policy(parameters)
        outputs = {
            "StoreUrl": (parameters.store_url, "PRECALC_STORE_URL in .env, and a variable of the repository in GitHub"),
            "TablesUrl": (
                parameters.tables_url,
                "PRECALC_TABLES_URL in .env, and a variable of the repository in GitHub",
            ),
            "LogsBucket": (parameters.bucket, "PRECALC_LOGS_BUCKET on the machine with Dagster"),
            "PipelinePolicy": (policy.managed_policy_arn, "attach it to the role of the machine with Dagster"),
        }
        for output, (value, description) in outputs.items():
            CfnOutput(self, output, value=value, description=description)

    def _make_bucket(self, parameters: Parameters) -> None:
        bucket = s3.Bucket(
            self,
            "Bucket",
            bucket_name=parameters.bucket,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            # Every object can be derived from raw predictions, which are written once.
            versioned=False,
            lifecycle_rules=[
                s3.LifecycleRule(id="abandoned-uploads", abort_incomplete_multipart_upload_after=Duration.days(7)),
                # Raw predictions hold the reasons and the emptied cells, too.
                s3.LifecycleRule(id="quarantine", prefix="quarantine/", expiration=Duration.days(180)),
                s3.LifecycleRule(id="emptied", prefix="emptied/", expiration=Duration.days(180)),
                # Output of programs in Dagster's runs: `compute_logs` in deploy/dagster.yaml.
                s3.LifecycleRule(id="logs", prefix="dagster/", expiration=Duration.days(90)),
                s3.LifecycleRule(
                    id="raw-to-infrequent-access",
                    prefix="raw/",
                    transitions=[
                        s3.Transition(
                            storage_class=s3.StorageClass.INFREQUENT_ACCESS, transition_after=Duration.days(30)
                        )
                    ],
                ),
            ],
            removal_policy=parameters.removal,
        )
        Validations.of(bucket).acknowledge(
            Acknowledgment(
                id="AwsSolutions-S1",
                reason="Server access logs need a second bucket. Four roles can reach this one; CloudTrail's data"
                " events can log what they do.",
            )
        )

    def _make_registry(self, parameters: Parameters) -> None:
        dynamodb.Table(
            self,
            "Registry",
            table_name=f"{parameters.prefix}-models",
            partition_key=dynamodb.Attribute(name="key", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=parameters.removal,
        )

    def _make_policy(self, parameters: Parameters) -> iam.ManagedPolicy:
        statements = pipeline_statements(parameters.prefix, parameters.bucket)
        policy = iam.ManagedPolicy(
            self,
            "Pipeline",
            managed_policy_name=f"{parameters.prefix}-pipeline",
            description="What the machine with Dagster needs of the bucket and the tables",
            statements=statements,
        )
        acknowledge_wildcards(policy, statements)
        return policy

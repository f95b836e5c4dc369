"""The Athena stack: a Glue database with a workgroup, a bucket of results, and the policies of those who use them.

It is opt-in. The tables are not here: publishing a model's card makes its table in the database.
"""

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_athena as athena
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.access import acknowledge_wildcards, analyst_statements, publisher_statements
from infra.parameters import Parameters

_MOST_BYTES = 50 * 10**9
"""Bytes that a query may scan: a quarter of a dollar at $5 a TB. A column of 1.4 million numbers is 11 MB."""
_RESULTS_KEPT = Duration.days(7)


class AthenaStack(Stack):
    """A Glue database, Athena's workgroup of the same name, the bucket of its results, and two policies to attach."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters) -> None:
        super().__init__(scope, name, description="precalc: questions to predictions by Amazon Athena")
        database, results = parameters.glue_database, f"{parameters.prefix}-athena-{Aws.ACCOUNT_ID}-{Aws.REGION}"
        glue.CfnDatabase(
            self,
            "Database",
            catalog_id=Aws.ACCOUNT_ID,
            database_input=glue.CfnDatabase.DatabaseInputProperty(
                name=database, description="Predictions, a table for each model"
            ),
        )
        self._make_workgroup(database, self._make_bucket(results))
        analyst = self._make_policy(
            "Analyst",
            "What a person needs who asks Athena",
            analyst_statements(parameters.prefix, parameters.bucket, database, results),
        )
        publisher = self._make_policy(
            "Publisher", "What keeps the tables of the Glue database", publisher_statements(database)
        )
        outputs = {
            "GlueDatabase": (database, "PRECALC_GLUE_DATABASE in .env, and a variable of the repository in GitHub"),
            "AnalystPolicy": (analyst.managed_policy_arn, "attach it to the roles of people who ask Athena"),
            "PublisherPolicy": (publisher.managed_policy_arn, "attach it to the role of the machine with Dagster"),
        }
        for output, (value, description) in outputs.items():
            CfnOutput(self, output, value=value, description=description)

    def _make_bucket(self, name: str) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Results",
            bucket_name=name,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="results",
                    expiration=_RESULTS_KEPT,
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                )
            ],
            removal_policy=RemovalPolicy.DESTROY,
        )
        reason = "Results are kept for a week; Athena's history and CloudTrail say who asked what."
        Validations.of(bucket).acknowledge(Acknowledgment(id="AwsSolutions-S1", reason=reason))
        return bucket

    def _make_workgroup(self, name: str, results: s3.Bucket) -> None:
        configuration = athena.CfnWorkGroup.WorkGroupConfigurationProperty(
            bytes_scanned_cutoff_per_query=_MOST_BYTES,
            # Otherwise whoever asks could choose another place or no encryption.
            enforce_work_group_configuration=True,
            engine_version=athena.CfnWorkGroup.EngineVersionProperty(selected_engine_version="Athena engine version 3"),
            publish_cloud_watch_metrics_enabled=True,
            result_configuration=athena.CfnWorkGroup.ResultConfigurationProperty(
                output_location=f"s3://{results.bucket_name}/",
                encryption_configuration=athena.CfnWorkGroup.EncryptionConfigurationProperty(
                    encryption_option="SSE_S3"
                ),
            ),
        )
        athena.CfnWorkGroup(
            self,
            "Workgroup",
            name=name,
            description="Questions to predictions",
            recursive_delete_option=True,
            work_group_configuration=configuration,
        )

    def _make_policy(self, name: str, description: str, statements: list[iam.PolicyStatement]) -> iam.ManagedPolicy:
        policy = iam.ManagedPolicy(
            self,
            name,
            managed_policy_name=f"{self.stack_name}-{name.lower()}",
            description=description,
            statements=statements,
        )
        acknowledge_wildcards(policy, statements)
        return policy

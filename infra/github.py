"""The GitHub stack: roles that jobs assume by OIDC, without a stored secret.

It is a separate stack, since a deployment may not use GitHub, and an account has GitHub's provider only once.
"""

from aws_cdk import Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.access import acknowledge_wildcards, deployer_statements, publisher_statements, runner_statements
from infra.parameters import Parameters

_ISSUER = "token.actions.githubusercontent.com"
_AUDIENCE = "sts.amazonaws.com"

_SESSION = Duration.hours(7)
"""Credentials last longer than a job, which uploads until its end: GitHub ends it after six hours."""


class GitHubStack(Stack):
    """Two roles for jobs of a repository: one computes in one environment, the other deploys in another."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters) -> None:
        super().__init__(scope, name, description="precalc: the roles of GitHub's jobs")
        self._provider = self._provider_arn(parameters)
        self._repository = parameters.repository
        runner = self._make_role(
            "Runner",
            "What a job needs to compute shards and to load them",
            parameters.environment,
            [
                *runner_statements(parameters.prefix, parameters.bucket),
                *(publisher_statements(parameters.glue_database) if parameters.athena else ()),
            ],
            _SESSION,
        )
        deployer = self._make_role(
            "Deployer",
            "What a job needs to deploy: to assume the roles that cdk bootstrap made",
            parameters.deploy_environment,
            deployer_statements(),
        )
        outputs = {
            "RoleArn": (runner.role_arn, "AWS_ROLE_ARN, a variable of the repository in GitHub"),
            "DeployRoleArn": (
                deployer.role_arn,
                "AWS_DEPLOY_ROLE_ARN, a variable of the repository in GitHub if it deploys",
            ),
            "Region": (Aws.REGION, "AWS_REGION, a variable of the repository in GitHub"),
        }
        for output, (value, explanation) in outputs.items():
            CfnOutput(self, output, value=value, description=explanation)

    def _provider_arn(self, parameters: Parameters) -> str:
        if parameters.github_provider == "existing":
            return f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:oidc-provider/{_ISSUER}"
        provider = iam.OidcProviderNative(self, "Provider", url=f"https://{_ISSUER}", client_ids=[_AUDIENCE])
        return str(provider.oidc_provider_arn)

    def _make_role(
        self,
        name: str,
        description: str,
        environment: str,
        statements: list[iam.PolicyStatement],
        session: Duration | None = None,
    ) -> iam.Role:
        subject = f"repo:{self._repository}:environment:{environment}"
        role = iam.Role(
            self,
            name,
            description=description,
            max_session_duration=session,
            assumed_by=iam.WebIdentityPrincipal(
                self._provider, {"StringEquals": {f"{_ISSUER}:aud": _AUDIENCE, f"{_ISSUER}:sub": subject}}
            ),
            inline_policies={name.lower(): iam.PolicyDocument(statements=statements)},
        )
        acknowledge_wildcards(role, statements)
        return role

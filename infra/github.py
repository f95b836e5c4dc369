"""The GitHub stack: how runners get credentials, with no secret that anybody could copy.

It is a stack of its own: not everybody computes on GitHub, and an account knows GitHub as a provider once.
"""

from aws_cdk import Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.access import acknowledge_wildcards, runner_statements
from infra.parameters import Parameters

_ISSUER = "token.actions.githubusercontent.com"
_AUDIENCE = "sts.amazonaws.com"

_SESSION = Duration.hours(7)
"""Parts are uploaded all through a job, and GitHub ends a job after six hours."""


class GitHubStack(Stack):
    """The role of a runner: for jobs of one repository that run in one of its environments."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters) -> None:
        super().__init__(scope, name, description="precalc: the role of GitHub's runners")
        statements = runner_statements(parameters.prefix, parameters.bucket)
        role = iam.Role(
            self,
            "Runner",
            description="What a GitHub runner needs to compute shards and to load them",
            max_session_duration=_SESSION,
            assumed_by=iam.WebIdentityPrincipal(
                self._provider_arn(parameters),
                {
                    "StringEquals": {
                        f"{_ISSUER}:aud": _AUDIENCE,
                        f"{_ISSUER}:sub": f"repo:{parameters.repository}:environment:{parameters.environment}",
                    }
                },
            ),
            inline_policies={"runner": iam.PolicyDocument(statements=statements)},
        )
        acknowledge_wildcards(role, statements)
        CfnOutput(self, "RoleArn", value=role.role_arn, description="AWS_ROLE_ARN, a variable of GitHub's environment")
        CfnOutput(self, "Region", value=Aws.REGION, description="AWS_REGION, a variable of GitHub's environment")

    def _provider_arn(self, parameters: Parameters) -> str:
        if parameters.github_provider == "existing":
            return f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:oidc-provider/{_ISSUER}"
        provider = iam.OidcProviderNative(self, "Provider", url=f"https://{_ISSUER}", client_ids=[_AUDIENCE])
        return str(provider.oidc_provider_arn)

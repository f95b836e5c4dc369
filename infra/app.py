"""The CDK app: the stacks of one deployment, checked by cdk-nag at synthesis. `cdk.json` starts it."""

from aws_cdk import App, Tags, Validations
from cdk_nag import AwsSolutionsChecks

from infra.api import ApiStack
from infra.athena import AthenaStack
from infra.github import GitHubStack
from infra.parameters import Parameters
from infra.storage import StorageStack


def build_app() -> App:
    """Return the app with the stacks of the deployment that the context describes."""
    app = App()
    parameters = Parameters.from_context(app.node.try_get_context)
    StorageStack(app, f"{parameters.prefix}-storage", parameters)
    ApiStack(app, f"{parameters.prefix}-api", parameters)
    if parameters.athena:
        AthenaStack(app, f"{parameters.prefix}-athena", parameters)
    if parameters.repository:
        GitHubStack(app, f"{parameters.prefix}-github", parameters)
    Tags.of(app).add("project", parameters.prefix)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build_app().synth()

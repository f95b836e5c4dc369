"""Synthesising, deploying and reading the stacks of infra/ in tests.

The CDK has its own environment, so it always runs in another process.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
INFRA = PROJECT / "infra"
PYTHON = INFRA / ".venv" / "bin" / "python"
CFN_LINT = INFRA / ".venv" / "bin" / "cfn-lint"
CDK = INFRA / "node_modules" / ".bin" / "cdk"

REPOSITORY = "ersilia-os/precalc"
SUBJECT = f"repo:{REPOSITORY}:environment:precalc"
DEPLOY_SUBJECT = f"repo:{REPOSITORY}:environment:aws"
"""The subjects in GitHub's tokens for jobs of the repository in the environments `precalc` and `aws`."""

_APP = ("-m", "infra.app")


def require_tools() -> None:
    """Fail if the CDK is not installed; nobody would notice a skip."""
    missing = [str(tool.relative_to(PROJECT)) for tool in (PYTHON, CDK) if not tool.exists()]
    assert not missing, f"{' and '.join(missing)} is missing; run `make infra`, which needs npm"


def run_app(folder: Path, *arguments: str, **context: str) -> subprocess.CompletedProcess[str]:
    """Synthesise the stacks into a folder without the CDK's command; `arguments` are Python's (default: the app)."""
    lambda_folder = folder.parent / "lambda"
    for name in ("reader", "inchikeys", "screens"):
        (lambda_folder / name).mkdir(parents=True, exist_ok=True)
    given = {"lambda_folder": str(lambda_folder), **context}
    return subprocess.run(
        [PYTHON, *(arguments or _APP)],
        cwd=PROJECT,
        env={**os.environ, "CDK_OUTDIR": str(folder), "CDK_CONTEXT_JSON": json.dumps(given)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def run_cdk(*arguments: str | Path, environment: Mapping[str, str], folder: Path = INFRA) -> str:
    """Run the CDK's command in a folder and return its output; fail with the output if the command fails."""
    done = subprocess.run(
        [CDK, *arguments, "--no-color", "--no-notices", "--ci"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_lambda(folder: Path) -> Path:
    """Build the Lambdas' folders for this Python, which the emulator uses."""
    subprocess.run([sys.executable, "-m", "infra.lambda_asset", "--this-python", folder], cwd=PROJECT, check=True)
    return folder


class Template:
    """A synthesised stack. Pseudo parameters read `<AWS::Region>`, references `<LogicalId>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = json.loads(path.read_text())
        self.resources: dict[str, dict[str, Any]] = _flat(content["Resources"])
        self.outputs: dict[str, dict[str, Any]] = _flat(content["Outputs"])

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return the resources of a kind, `S3::Bucket`."""
        return [resource for resource in self.resources.values() if resource["Type"] == f"AWS::{kind}"]

    def only(self, kind: str) -> dict[str, Any]:
        """Return the properties of the one resource of a kind."""
        (resource,) = self.all(kind)
        return resource["Properties"]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """Return the properties of the one resource of a kind whose logical id begins with a name."""
        found = [r for logical_id, r in self.resources.items() if re.fullmatch(rf"{name}[0-9A-F]{{8}}", logical_id)]
        (resource,) = (resource for resource in found if resource["Type"] == f"AWS::{kind}")
        return resource["Properties"]

    def statements(self) -> Iterator[dict[str, Any]]:
        """Yield the statements of all policies, with lists of actions and resources."""
        for kind in ("IAM::Role", "IAM::Policy", "IAM::ManagedPolicy"):
            for resource in self.all(kind):
                properties = resource["Properties"]
                documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
                if "PolicyDocument" in properties:
                    documents.append(properties["PolicyDocument"])
                for statement in (s for document in documents for s in document["Statement"]):
                    yield statement | {key: listed(statement[key]) for key in ("Action", "Resource")}


def load_templates(folder: Path) -> dict[str, Template]:
    """Return the synthesised stacks by their name after the prefix."""
    paths = folder.glob("*.template.json")
    return {re.sub(r".*-|\.template\.json$", "", path.name): Template(path) for path in paths}


def listed(value: str | list[str]) -> list[str]:
    """Return a list, of which CloudFormation writes one entry as a text."""
    return [value] if isinstance(value, str) else value


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return [_flat(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return separator.join(map(_flat, parts))
    return {key: _flat(item) for key, item in value.items()}

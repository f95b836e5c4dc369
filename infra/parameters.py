"""A deployment's parameters, from its context (`cdk deploy -c name=value`), and the names that follow from them.

Account and region are those of the deploying credentials. No file has them: names that need them use CloudFormation's
pseudo parameters.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import Aws, RemovalPolicy

_PATTERNS = {
    # The bucket is <prefix>-<account>-<region>, of 63 characters at most; the longest region has 14.
    "prefix": r"[a-z][a-z0-9-]{1,32}[a-z0-9]",
    # Repositories made since July 2026 have immutable ids in their names, ORG@ID/REPO@ID.
    "repository": r"[A-Za-z0-9-]+(@\d+)?/[A-Za-z0-9._-]+(@\d+)?",
    "environment": r"[A-Za-z0-9._-]+",
    "deploy_environment": r"[A-Za-z0-9._-]+",
    "alarm_email": r"[^@\s]+@[^@\s]+",
    "cors_origins": r"\*|https?://[^/\s,]+(,https?://[^/\s,]+)*",
    "keep": "true|false",
    "github_provider": "create|existing",
    "athena": "true|false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of one deployment; infra/README.md lists them."""

    prefix: str = "precalc"
    keep: bool = True
    lambda_folder: Path = Path("lambda.out")
    alarm_email: str | None = None
    cors_origins: str | None = None
    repository: str | None = None
    environment: str = "precalc"
    deploy_environment: str = "aws"
    github_provider: str = "create"
    athena: bool = False

    @classmethod
    def from_context(cls, find: Callable[[str], Any]) -> "Parameters":
        """Read the parameters by `find`, which returns the value of a name, None if there is none.

        Raises ValueError for a malformed value.
        """
        given = {name: find(name) for name in cls.__slots__}
        text = {name: str(value) for name, value in given.items() if value is not None}
        for name, pattern in _PATTERNS.items():
            if name in text and not re.fullmatch(pattern, text[name]):
                raise ValueError(f"-c {name}={text[name]} does not match {pattern}; correct it and try again")
        typed: dict[str, Any] = dict(text)
        typed |= {name: text[name] == "true" for name in ("keep", "athena") if name in text}
        if "lambda_folder" in text:
            typed["lambda_folder"] = Path(text["lambda_folder"])
        return cls(**typed)

    @property
    def bucket(self) -> str:
        """The globally unique name of the bucket."""
        return f"{self.prefix}-{Aws.ACCOUNT_ID}-{Aws.REGION}"

    @property
    def store_url(self) -> str:
        """The value of PRECALC_STORE_URL."""
        return f"s3://{self.bucket}"

    @property
    def tables_url(self) -> str:
        """The value of PRECALC_TABLES_URL."""
        return f"dynamodb://{Aws.REGION}/{self.prefix}"

    @property
    def glue_database(self) -> str:
        """The value of PRECALC_GLUE_DATABASE; AWS recommends names without hyphens."""
        return self.prefix.replace("-", "_")

    @property
    def removal(self) -> RemovalPolicy:
        """Whether molecules and predictions are kept when the storage stack is destroyed."""
        return RemovalPolicy.RETAIN if self.keep else RemovalPolicy.DESTROY

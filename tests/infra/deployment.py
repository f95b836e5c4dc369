"""A deployment on an emulated AWS, and its programs, each with its role's credentials."""

import base64
import gzip
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from aws_emulator import REGION, Emulator
from botocore import UNSIGNED
from botocore.config import Config
from stacks import PROJECT

ISSUER = "https://token.actions.githubusercontent.com"
_OURS = ("AWS_", "DAGSTER_", "PRECALC_")
_PRECALC = Path(sys.executable).parent / "precalc"


@dataclass(frozen=True)
class Caller:
    """A user or job with credentials."""

    emulator: Emulator
    key: str
    secret: str
    token: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return self.emulator.environment | own | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})

    def client(self, service: str):
        return boto3.client(
            service,
            endpoint_url=self.emulator.endpoint,
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            aws_session_token=self.token,
            verify=str(self.emulator.certificates),
        )


@dataclass(frozen=True)
class Deployment:
    """A deployed app: its emulator, assembly and outputs, and the folder in which commands run."""

    emulator: Emulator
    assembly: Path
    outputs: dict[str, str]
    home: Path
    models_cache: Path

    @property
    def bucket(self) -> str:
        return self.outputs["LogsBucket"]

    @property
    def tables(self) -> str:
        """The prefix of the tables' names."""
        return self.outputs["TablesUrl"].rpartition("/")[2]

    @cached_property
    def pipeline(self) -> Caller:
        """The machine with Dagster."""
        return self.user_with("PipelinePolicy", "PublisherPolicy")

    def user_with(self, *policies: str, beyond: Sequence[str] = ()) -> Caller:
        """Return a user with the policies of these outputs, who may do some actions on every resource."""
        user, iam = self._new_user(), self.emulator.client("iam")
        for policy in policies:
            iam.attach_user_policy(UserName=user, PolicyArn=self.outputs[policy])
        if beyond:
            allow = {"Effect": "Allow", "Action": beyond, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
            iam.put_user_policy(UserName=user, PolicyName="beyond", PolicyDocument=document)
        return self._caller(user)

    def in_role(self, name: str) -> Caller:
        """Return a user with the policies of a Lambda's role, `Reader`, which only Lambda can assume."""
        iam = self.emulator.client("iam")
        resources = self.emulator.client("cloudformation").describe_stack_resources(StackName=f"{self.tables}-api")
        (role,) = (
            resource["PhysicalResourceId"]
            for resource in resources["StackResources"]
            if resource["ResourceType"] == "AWS::IAM::Role" and resource["LogicalResourceId"].startswith(name)
        )
        user = self._new_user()
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            document = json.dumps(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
            iam.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=document)
        return self._caller(user)

    def runner(self, subject: str) -> Caller:
        """Return a GitHub job with this subject in the computing role. Raises ClientError if it may not assume it."""
        return self._job(subject, "RoleArn", seconds=7 * 3600)

    def deployer(self, subject: str) -> Caller:
        """Return a GitHub job with this subject in the deploying role. Raises ClientError if it may not assume it."""
        return self._job(subject, "DeployRoleArn", seconds=3600)

    def precalc(self, caller: Caller, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the settings from the stacks' outputs."""
        shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", self.home)
        return subprocess.run(
            [_PRECALC, *arguments],
            env=self._environment(caller),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    @contextmanager
    def local_api(self, caller: Caller) -> Iterator[str]:
        """Run `precalc api` with these settings; yield its URL."""
        with subprocess.Popen(
            [_PRECALC, "api", "--port", "0"],
            env=self._environment(caller),
            cwd=self.home,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                yield server.stdout.readline().split()[0]
            finally:
                server.terminate()

    def _environment(self, caller: Caller) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        settings = {
            "DAGSTER_HOME": str(self.home),
            "PRECALC_API_KEY": self.key,
            "PRECALC_CACHE_DIR": str(self.models_cache),
            "PRECALC_GLUE_DATABASE": self.outputs["GlueDatabase"],
            "PRECALC_STORE_URL": self.outputs["StoreUrl"],
            "PRECALC_TABLES_URL": self.outputs["TablesUrl"],
        }
        return inherited | caller.environment | settings

    @cached_property
    def key(self) -> str:
        """A reader's key."""
        api = self.emulator.client("apigateway")
        return api.get_api_key(apiKey=self.outputs["KeyId"], includeValue=True)["value"]

    @property
    def url(self) -> str:
        """The URL of the API."""
        # ministack serves APIs under this path instead of the hostname of the output `Url`.
        api, stage = self.outputs["Url"].removeprefix("https://").rstrip("/").split("/")
        return f"{self.emulator.endpoint}/restapis/{api.split('.')[0]}/{stage}/_user_request_"

    def ask(self, path: str, inchikeys: Sequence[str] = (), **options: Any) -> "Answer":
        """POST InChIKeys to the API, or GET without any."""
        return self.send(path, {"inchikeys": list(inchikeys)} if inchikeys else None, **options)

    def send(
        self, path: str, body: object = None, *, key: str | None = None, accept: str = "*/*", method: str | None = None
    ) -> "Answer":
        """Send a request to the API over HTTPS, by POST if it has a body; an empty key sends no header."""
        headers = {"accept": accept, "accept-encoding": "gzip", "x-api-key": self.key if key is None else key}
        content = None if body is None else json.dumps(body).encode()
        given = {name: value for name, value in headers.items() if value}
        given |= {"content-type": "application/json"}
        return self.fetch(urllib.request.Request(self.url + path, content, given, method=method))

    def fetch(self, request: urllib.request.Request | str) -> "Answer":
        """Return the answer of a URL of the emulator."""
        trusted = ssl.create_default_context(cafile=self.emulator.certificates)
        try:
            with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def _job(self, subject: str, role: str, seconds: int) -> Caller:
        sts = self.emulator.client("sts", config=Config(signature_version=UNSIGNED))
        given = sts.assume_role_with_web_identity(
            RoleArn=self.outputs[role],
            RoleSessionName="job",
            WebIdentityToken=_token(subject),
            DurationSeconds=seconds,
        )["Credentials"]
        return Caller(self.emulator, given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])

    def _new_user(self) -> str:
        name = f"user-{uuid4().hex}"
        self.emulator.client("iam").create_user(UserName=name)
        return name

    def _caller(self, user: str) -> Caller:
        key = self.emulator.client("iam").create_access_key(UserName=user)["AccessKey"]
        return Caller(self.emulator, key["AccessKeyId"], key["SecretAccessKey"])


@dataclass(frozen=True)
class Answer:
    """A raw answer of the API."""

    status: int
    headers: dict[str, str]
    content: bytes

    def header(self, name: str) -> str:
        return {key.lower(): value for key, value in self.headers.items()}.get(name, "")

    @property
    def compressed(self) -> bool:
        return self.header("content-encoding") == "gzip"

    @property
    def text(self) -> str:
        return (gzip.decompress(self.content) if self.compressed else self.content).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        return self.status, self.json["error"]["code"]


def _token(subject: str) -> str:
    """Return a GitHub job's token without a valid signature, which the emulator does not check."""
    claims = {"iss": ISSUER, "aud": "sts.amazonaws.com", "sub": subject}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims))
    return b".".join([*parts, b"unsigned"]).decode()

"""AWS on loopback for all tests: ministack in its own process, with clients, buckets and users."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

REGION = "eu-central-1"
_START_SECONDS = 60
_CERTIFICATES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""The variables that tell boto3, obstore and the CDK which certificates to trust."""


@dataclass(frozen=True)
class Emulator:
    """A running ministack and its administrator's credentials. Over TLS, also the certificates to trust."""

    endpoint: str
    certificates: Path | None = None
    key_id: str = "administrator"
    secret: str = "secret"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point AWS's programs to it, and hide the credentials of this machine."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name: str(self.certificates) for name in _CERTIFICATES if self.certificates},
        }

    def client(self, service: str, **options):
        """Return a boto3 client with the administrator's credentials."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            **{"region_name": REGION, "verify": self.certificates and str(self.certificates), **options},
        )

    def make_bucket(self, region: str = REGION) -> str:
        """Create a bucket with a new name and return the name."""
        name = f"bucket-{uuid4().hex}"
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self.client("s3", region_name=region).create_bucket(Bucket=name, **where)
        return name

    def user_who_may(self, *actions: str) -> dict[str, str]:
        """Return the environment of a new user whose policy allows only these actions."""
        iam = self.client("iam")
        name = f"user-{uuid4().hex}"
        iam.create_user(UserName=name)
        if actions:
            allow = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
            iam.put_user_policy(UserName=name, PolicyName="test", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        secret = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        return self.environment | secret


def tables_url() -> str:
    """Return the URL of tables that no other test uses."""
    return f"dynamodb://{REGION}/test-{uuid4().hex[:12]}"


@contextmanager
def run_ministack(folder: Path, *, auth: bool = False, tls: bool = False) -> Iterator[Emulator]:
    """Run ministack on a free port of loopback. With `auth`, it checks signatures and policies."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    emulator = (
        Emulator(f"https://127.0.0.1:{port}", folder / "trusted.pem") if tls else Emulator(f"http://127.0.0.1:{port}")
    )
    environment = {
        # Without this machine's certificates, a Lambda in it trusts the emulator's own.
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PRECALC_", "SSL_CERT_"))},
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "AUTH": str(auth).lower(),
        "USE_SSL": str(tls).lower(),
        "AWS_ACCESS_KEY_ID": emulator.key_id,
        "AWS_SECRET_ACCESS_KEY": emulator.secret,
        "LOG_LEVEL": "ERROR",
        "TMPDIR": str(folder),
        "S3_DATA_DIR": str(folder / "s3"),
        "DOCKER_HOST": "unix:///nonexistent.sock",
        # These would listen on all addresses.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    log = folder / "ministack.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait_for(emulator, process, log)
            yield emulator
        finally:
            # Kill it with its Lambdas: on SIGTERM, it would wait half a minute for open TLS connections.
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(emulator: Emulator, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            trusted = emulator.certificates and _trust(emulator.certificates)
            with urllib.request.urlopen(f"{emulator.endpoint}/_ministack/health", timeout=5, context=trusted):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"ministack does not answer: {log.read_text()[-2_000:]}")


def _trust(bundle: Path) -> ssl.SSLContext:
    """Write a bundle of this machine's trusted certificates and the one that ministack makes at its start."""
    usual = ssl.get_default_verify_paths().cafile
    made = bundle.parent / "ministack-tls" / "server.crt"
    bundle.write_text("\n".join(Path(path).read_text() for path in (usual, made) if path))
    return ssl.create_default_context(cafile=bundle)


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An AWS that allows everything. Tests share it, with their own buckets and table prefixes."""
    with run_ministack(tmp_path_factory.mktemp("ministack")) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def strict_ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An AWS that checks signatures and policies."""
    with run_ministack(tmp_path_factory.mktemp("ministack"), auth=True) as emulator:
        yield emulator


@pytest.fixture
def aws(ministack: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with the environment set to it."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in ministack.environment.items():
        monkeypatch.setenv(name, value)
    return ministack

"""All settings, each an environment variable (or a line of `.env`) with the prefix PRECALC_."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from precalc_assets.platform_errors import UsageError

BUILT_IN_MODELS = Path(__file__).parents[1] / "models"


class Settings(BaseSettings):
    """The settings of one installation. The defaults need no cloud account."""

    model_config = SettingsConfigDict(env_prefix="PRECALC_", env_file=".env", extra="ignore", frozen=True)

    store_url: str = "file://./data"
    """The object store: file://… or s3://bucket/prefix. A file URL that starts with a dot is relative to the working
    directory."""

    tables_url: str = "sqlite:///./data/tables.db"
    """The key-value store of the prediction tables: sqlite:///path or dynamodb://region/prefix."""

    table_write_units: Annotated[float, Field(gt=0)] = 3_000
    """Write units per second that a process may spend on one DynamoDB table. A new on-demand table takes 4,000."""

    table_tags: Annotated[dict[str, str], NoDecode] = {}
    """Tags of new DynamoDB tables, e.g. project=precalc,owner=chemistry."""

    table_recovery: bool = False
    """Switches on point-in-time recovery of DynamoDB tables: 35 days, for $0.20 per GB and month."""

    table_protection: bool = False
    """Protects new DynamoDB tables against deletion, including by `precalc drop`."""

    n_shards: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Shards of the library. After a change, drop the tables built with another number: `precalc drop`."""

    models_dir: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders that contain model folders, separated as in PATH. Searched before the built-in models."""

    hub_url: str = "https://github.com/ersilia-os"
    """Base URL of the git repositories of models that are in no local folder. The model's id is appended."""

    allow_online: bool = False
    """Allows models that send each molecule to a third party's server."""

    model_backend: Literal["framework", "ersilia"] = "framework"
    """How models are run: by their own `run.sh`, or served by the ersilia CLI (from images if Docker is present)."""

    cache_dir: Path = Path("~/.cache/precalc")
    """The folder for fetched models, and for the environments of models and of the ersilia CLI."""

    processes: Annotated[int, Field(ge=1)] = os.cpu_count() or 1
    """Processes that parse molecules when the library is built."""

    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Molecules per part: the most that a killed worker loses when the model is slow."""

    batch_timeout: Annotated[float, Field(gt=0)] = 1_800.0
    """Timeout in seconds for one batch of a model."""

    restart_batches: Annotated[int, Field(ge=1)] = 20
    """Batches after which a served model is restarted, since servers have died after some thousands of molecules."""

    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of a shard's molecules that may be quarantined before the shard fails."""

    machines: Annotated[int, Field(ge=1)] = 50
    """Machines that compute shards at the same time, for the canary's estimate of wall time."""

    runner_price: Annotated[float, Field(ge=0)] = 0.0
    """Dollars per machine and hour. GitHub's runners are free for public repositories."""

    max_runner_hours: Annotated[float, Field(gt=0)] = 300.0
    """The most machine hours that a full run of a model may take by the canary's estimate."""

    compute: Literal["local", "github"] = "local"
    """Where Dagster computes raw predictions: in its own run, or on GitHub's runners."""

    github_repository: str = ""
    """The repository whose workflow runs models on GitHub's runners: owner/name."""

    github_workflow: str = "predict-parallel.yml"
    """The workflow's file in that repository's .github/workflows."""

    github_ref: str = "main"
    """The branch or tag whose workflow is run. GitHub does not accept commits."""

    github_token: SecretStr = SecretStr("")
    """A fine-grained token that may write Actions and read Contents, for a single user. Teams use a GitHub App."""

    github_app_id: str = ""
    """The id of a GitHub App with the same permissions, in place of a token."""

    github_private_key: SecretStr = SecretStr("")
    r"""The App's private key in PEM. Its lines may be separated by \n."""

    github_installation: Annotated[int, Field(ge=0)] = 0
    """The id of the App's installation in the repository's account."""

    github_api_url: str = "https://api.github.com"
    """The URL of GitHub's API. Change it for GitHub Enterprise Server."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose web pages may read the API's answers: https://lab.example,https://other.example, or * for all."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(origin.strip() for origin in value.split(",") if origin.strip())
        if not all(re.fullmatch(r"\*|https?://[^/\s]+", origin) for origin in origins):
            raise ValueError("write https://host,https://host:port without a path")
        return origins

    @field_validator("models_dir", mode="before")
    @classmethod
    def _split_path(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(Path(p).expanduser().absolute() for p in value.split(os.pathsep) if p)
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @field_validator("table_tags", mode="before")
    @classmethod
    def _split_tags(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair]
        if any(not key.strip() or not equals for key, equals, _ in pairs):
            raise ValueError("write key=value,key=value")
        return {key.strip(): text.strip() for key, _, text in pairs}

    @field_validator("github_repository")
    @classmethod
    def _check_repository(cls, value: str) -> str:
        if value and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            raise ValueError("write owner/name")
        return value

    @field_validator("cache_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        """Make the path absolute, unless the user has no home. Commands that need it then raise the error."""
        try:
            return value.expanduser().absolute()
        except RuntimeError:
            return value

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders that contain models, in search order."""
        return (*self.models_dir, BUILT_IN_MODELS)


@cache
def load_settings() -> Settings:
    """Read the settings from the environment and `.env`, once per process.

    Raises UsageError that names the variable and what is wrong with its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = "PRECALC_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"{variable}={first['input']!r}: {first['msg']}; correct it and try again") from None

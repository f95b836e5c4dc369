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
    """Where things are, and how much is done at once. The defaults need no cloud account."""

    model_config = SettingsConfigDict(env_prefix="PRECALC_", env_file=".env", extra="ignore", frozen=True)

    store_url: str = "file://./data"
    """The object store: file://…, s3://bucket/prefix. A file URL that starts with a dot is relative to the cwd."""

    tables_url: str = "sqlite:///./data/tables.db"
    """The key-value store of the prediction tables: sqlite:///path, dynamodb://region/prefix."""

    table_write_units: Annotated[float, Field(gt=0)] = 3_000
    """Write units a second that a process spends on one table of DynamoDB. A new on-demand table takes 4,000."""

    table_tags: Annotated[dict[str, str], NoDecode] = {}
    """Tags of new tables of DynamoDB: project=precalc,owner=chemistry."""

    table_recovery: bool = False
    """Whether tables of DynamoDB can be recovered to any moment of the last 35 days, for $0.20 per GB and month."""

    table_protection: bool = False
    """Whether new tables of DynamoDB are protected against deletion, by `precalc drop` too."""

    n_shards: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Shards of the library. A table built with another number has to be dropped first: `precalc drop`."""

    models_dir: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders of model folders, separated like PATH, looked at before the built-in ones."""

    hub_url: str = "https://github.com/ersilia-os"
    """Where git finds the repositories of models that no local folder holds: a URL that each model's id is added to."""

    allow_online: bool = False
    """Whether models may be run that send each molecule to somebody else's server."""

    model_backend: Literal["framework", "ersilia"] = "framework"
    """How models are run: by their own `run.sh`, or served by the ersilia CLI, which takes images if Docker is here."""

    cache_dir: Path = Path("~/.cache/precalc")
    """Where fetched models are kept, and where their environments and the ersilia CLI's are made."""

    processes: Annotated[int, Field(ge=1)] = os.cpu_count() or 1
    """Processes that parse molecules when the library is built."""

    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Molecules per part: what a killed worker loses at most when the model is slow."""

    batch_timeout: Annotated[float, Field(gt=0)] = 1_800.0
    """Seconds that a model may take for one batch before it counts as hanging."""

    restart_batches: Annotated[int, Field(ge=1)] = 20
    """Batches after which a served model is restarted: servers have died after some thousands of molecules."""

    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of a shard's molecules that may be quarantined before the shard counts as failed."""

    machines: Annotated[int, Field(ge=1)] = 50
    """Machines that compute shards at the same time: what the canary's wall time is estimated for."""

    runner_price: Annotated[float, Field(ge=0)] = 0.0
    """Dollars for an hour of one such machine; GitHub's are free for public repositories."""

    max_runner_hours: Annotated[float, Field(gt=0)] = 300.0
    """What a full run of a model may cost by the canary's estimate, in hours of one machine."""

    compute: Literal["local", "github"] = "local"
    """Where Dagster computes raw predictions: in its own run, or on GitHub's runners."""

    github_repository: str = ""
    """The repository whose workflow runs models on GitHub's runners: owner/name."""

    github_workflow: str = "predict-parallel.yml"
    """The workflow's file, in that repository's .github/workflows."""

    github_ref: str = "main"
    """The branch or tag whose workflow is run; GitHub takes no commits."""

    github_token: SecretStr = SecretStr("")
    """A fine-grained token that may write Actions and read Contents, for a single user; several use an App."""

    github_app_id: str = ""
    """The id of a GitHub App that may do the same, in place of a token."""

    github_private_key: SecretStr = SecretStr("")
    r"""The App's private key, in PEM; its lines may be separated by \n."""

    github_installation: Annotated[int, Field(ge=0)] = 0
    """The id of the App's installation in the repository's account."""

    github_api_url: str = "https://api.github.com"
    """GitHub's API; another one for GitHub Enterprise Server."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose web pages may read the API's answers: https://lab.example,https://other.example; * is all."""

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
        """Leave it as it is for a user without a home: not every command needs it, and the others say so."""
        try:
            return value.expanduser().absolute()
        except RuntimeError:
            return value

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders that hold models, in the order in which they are looked at."""
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

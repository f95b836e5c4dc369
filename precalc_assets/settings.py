"""All settings, each an environment variable (or a line of `.env`) with the prefix PRECALC_."""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from precalc_assets.frozen_record import plain_reason
from precalc_assets.platform_errors import UsageError
from precalc_assets.store_urls import check_store_url, check_tables_url, is_server_url

BUILT_IN_MODELS = Path(__file__).parents[1] / "models"


def _url(*schemes: str) -> AfterValidator:
    def check(url: str) -> str:
        if not (url.startswith(schemes) and (url.startswith("file:///") or is_server_url(url))):
            raise ValueError("write a URL, such as https://host/path")
        return url

    return AfterValidator(check)


def _matching(pattern: str, remedy: str) -> AfterValidator:
    def check(value: str | SecretStr) -> str | SecretStr:
        if not re.fullmatch(pattern, value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise ValueError(remedy)
        return value

    return AfterValidator(check)


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _split_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    if not all(re.fullmatch(r"\*|https?://[^/\s]+", origin) for origin in origins):
        raise ValueError("write https://host,https://host:port without a path")
    return origins


def _split_owners(text: str) -> tuple[str, ...]:
    owners = tuple(owner.strip() for owner in text.split(",") if owner.strip())
    if not all(re.fullmatch(r"team:[\w.-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner) for owner in owners):
        raise ValueError("write name@host,team:name")
    return owners


def _split_path(text: str) -> tuple[Path, ...]:
    try:
        return tuple(Path(part).expanduser().absolute() for part in text.split(os.pathsep) if part)
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _split_tags(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if any(not key.strip() or not equals for key, equals, _ in pairs):
        raise ValueError("write key=value,key=value")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _absolute(folder: Path) -> Path:
    """Make the path absolute, unless the user has no home. Commands that need it then raise the error."""
    if folder == Path():
        raise ValueError("name a folder")
    try:
        return folder.expanduser().absolute()
    except RuntimeError:
        return folder


class Settings(BaseSettings):
    """The settings of one installation. The defaults need no cloud account."""

    model_config = SettingsConfigDict(env_prefix="PRECALC_", env_file=".env", extra="ignore", frozen=True)

    # The URLs are checked at the start; GitHub's workflow passes variables that are not set as empty texts.
    store_url: Annotated[str, AfterValidator(lambda url: url and check_store_url(url))] = "file://./data"
    """The object store: file:///folder or s3://bucket/prefix. file://./folder is below the working directory."""

    tables_url: Annotated[str, AfterValidator(lambda url: url and check_tables_url(url))] = "sqlite:///./data/tables.db"
    """The key-value store of the prediction tables: sqlite:///path or dynamodb://region/prefix."""

    table_write_units: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3_000
    """Write units per second that a process may spend on one DynamoDB table. A new on-demand table takes 4,000."""

    table_tags: Annotated[dict[str, str], NoDecode, _from_text(_split_tags)] = {}
    """Tags of new DynamoDB tables, e.g. project=precalc,owner=chemistry."""

    table_recovery: bool = False
    """Switches on point-in-time recovery of DynamoDB tables: 35 days, for $0.20 per GB and month."""

    table_protection: bool = False
    """Protects new DynamoDB tables against deletion, including by `precalc drop`."""

    glue_database: Annotated[str, _matching(r"[a-z0-9_]*", "write small letters, digits and _")] = ""
    """The Glue database in which publishing keeps a table for each model, and Athena's workgroup of the same name."""

    n_shards: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Shards of the library. After a change, drop the tables built with another number: `precalc drop`."""

    library_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """Days after which Dagster warns that the reference library was not built again; twice as many fail. 0: never."""

    models_dir: Annotated[tuple[Path, ...], NoDecode, _from_text(_split_path)] = ()
    """Folders that contain model folders, separated as in PATH. Searched before the built-in models."""

    hub_url: Annotated[str, _url("https://", "http://", "ssh://", "git://", "file:///")] = (
        "https://github.com/ersilia-os"
    )
    """Base URL of the git repositories of models that are in no local folder. The model's id is appended."""

    hub_registry: str = "https://ersilia-model-hub.s3.eu-central-1.amazonaws.com/models.json"
    """The hub's list of all its models: the URL or the path of a JSON file."""

    allow_online: bool = False
    """Allows models that send each molecule to a third party's server."""

    allow_variable: bool = False
    """Allows models whose predictions vary between runs, such as generators, when the whole hub is computed."""

    model_backend: Literal["framework", "ersilia", "image"] = "framework"
    """How models are run: by their own `run.sh`, served by the ersilia CLI (from images if Docker is present), or by
    the `run.sh` in the image that the hub publishes."""

    container_program: Literal["", "docker", "podman", "apptainer", "ch-run"] = ""
    """What runs images; by default the first of docker, podman, apptainer and ch-run that is on the PATH."""

    image_registry: Annotated[str, _matching(r"[\w.:/-]+", "write host/owner")] = "docker.io/ersiliaos"
    """Where images come from. The model's id and release are appended: docker.io/ersiliaos/eos3b5e:v1.0.0."""

    cache_dir: Annotated[Path, AfterValidator(_absolute)] = Path("~/.cache/precalc")
    """The folder for fetched models and images, and for the environments of models and of the ersilia CLI."""

    processes: Annotated[int, Field(ge=1)] = os.cpu_count() or 1
    """Processes that parse molecules when the library is built."""

    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Molecules per part: the most that a killed worker loses when the model is slow."""

    batch_timeout: Annotated[float, Field(gt=0, le=1_000_000)] = 1_800.0
    """Timeout in seconds for one batch of a model."""

    restart_batches: Annotated[int, Field(ge=1)] = 20
    """Batches after which a served model is restarted, since servers have died after some thousands of molecules."""

    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of a shard's molecules that may be quarantined before the shard fails."""

    required_values: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a model's columns in which a molecule must have a value, or it is quarantined. By default one value is
    enough: many descriptors are undefined for small molecules, and lists of hits are mostly empty."""

    machines: Annotated[int, Field(ge=1)] = 50
    """Machines that compute shards at the same time, for the canary's estimate of wall time."""

    runner_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Dollars per machine and hour. GitHub's runners are free for public repositories."""

    max_runner_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0
    """The most machine hours that a full run of a model may take by the canary's estimate."""

    compute: Literal["local", "github", "slurm"] = "local"
    """Where Dagster computes raw predictions: in its own run, on GitHub's runners, or on a SLURM cluster."""

    run_id: Annotated[int, Field(ge=0)] = 0
    """The run that a job of `precalc jobs` belongs to. The workflow and the job scripts set it."""

    run_url: str = ""
    """Where that run is to be seen; set with `PRECALC_RUN_ID`."""

    github_repository: Annotated[str, _matching(r"([\w.-]+/[\w.-]+)?", "write owner/name")] = ""
    """The repository whose workflow runs models on GitHub's runners: owner/name."""

    github_workflow: str = "predict-parallel.yml"
    """The workflow's file in that repository's .github/workflows."""

    github_ref: str = "main"
    """The branch or tag whose workflow is run. GitHub does not accept commits."""

    github_token: Annotated[SecretStr, _matching(r"[!-~]*", "a token has neither spaces nor letters beyond ASCII")] = (
        SecretStr("")
    )
    """A fine-grained token that may write Actions and read Contents, for a single user. Teams use a GitHub App."""

    github_app_id: str = ""
    """The id of a GitHub App with the same permissions, in place of a token."""

    github_private_key: SecretStr = SecretStr("")
    r"""The App's private key in PEM. Its lines may be separated by \n."""

    github_installation: Annotated[int, Field(ge=0)] = 0
    """The id of the App's installation in the repository's account."""

    github_api_url: Annotated[str, _url("https://", "http://")] = "https://api.github.com"
    """The URL of GitHub's API. Change it for GitHub Enterprise Server."""

    slurm_ssh: str = ""
    """How to reach the cluster: ssh's arguments, e.g. me@login.lab or "-J gate me@login.lab". Empty: SLURM is here."""

    slurm_folder: Annotated[str, _matching(r"[^~\s-]\S*", "write a path without ~ and spaces")] = "."
    """The folder on the cluster, visible to all its nodes, in which jobs run. Jobs read its `.env`, call the `precalc`
    of its `.venv` or else of PATH, and write their logs to its `slurm-logs`. With ssh, it is relative to the home."""

    slurm_partition: str = ""
    """The partition that jobs are submitted to. Empty: the cluster's default."""

    slurm_account: str = ""
    """The account that jobs are charged to."""

    slurm_qos: str = ""
    """The quality of service that jobs ask for."""

    slurm_memory: Annotated[int, Field(ge=1)] = 4_000
    """Megabytes that a job asks for while no canary has measured the model. Later: its peak, with headroom."""

    slurm_minutes: Annotated[int, Field(ge=3)] = 360
    """Time limit of a job in minutes. It stops computing 20 minutes before, and the next execution continues."""

    slurm_options: str = ""
    """More options of sbatch for each job, e.g. "--cpus-per-task=4 --gres=gpu:1"."""

    owners: Annotated[tuple[str, ...], NoDecode, _from_text(_split_owners)] = ()
    """Owners of the assets in Dagster: e-mail addresses and teams, e.g. me@lab.example,team:chemistry."""

    failure_webhook: Annotated[
        SecretStr, _matching(r"(https?://[^/\s]\S*)?", "write a URL, such as https://host/path")
    ] = SecretStr("")
    """A URL to which Dagster posts a message about each failed run, as Slack's incoming webhooks take it."""

    ui_url: Annotated[str, _matching(r"(https?://[^/\s]\S*)?", "write a URL, such as https://host/path")] = ""
    """The URL of Dagster's UI, for links in these messages."""

    cors_origins: Annotated[tuple[str, ...], NoDecode, _from_text(_split_origins)] = ()
    """Origins whose web pages may read the API's answers: https://lab.example,https://other.example, or * for all."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it contains a NUL character")
        return value

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Folders that contain models, in search order."""
        return (*self.models_dir, BUILT_IN_MODELS)


@cache
def load_settings() -> Settings:
    """Read the settings once per process. Raises UsageError that names the variable, or why `.env` cannot be read."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        is_secret = Settings.model_fields[name].annotation is SecretStr
        shown = "" if is_secret else f"={repr(first['input'])[:200]}"
        raise UsageError(
            f"PRECALC_{name.upper()}{shown}: {plain_reason(first['msg'])}; correct it and try again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"{Path('.env').absolute()} cannot be read: {why}; correct it or remove it") from None

"""Settings: their defaults, and the errors for bad values."""

import os
import re
from pathlib import Path

import pytest

from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import BUILT_IN_MODELS, load_settings
from precalc_assets.storage import open_store
from precalc_assets.tables import open_tables


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment's variables and `.env` from the test."""
    for name in os.environ:
        if name.upper().startswith("PRECALC_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_need_no_cloud_account() -> None:
    settings = load_settings()
    assert settings.store_url == "file://./data"
    assert settings.tables_url == "sqlite:///./data/tables.db"
    assert settings.n_shards == 50
    assert settings.model_folders == (BUILT_IN_MODELS,)
    assert "~" not in str(settings.cache_dir)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PRECALC_N_SHARDS", "0"),
        ("PRECALC_N_SHARDS", "10001"),
        ("PRECALC_N_SHARDS", "many"),
        ("PRECALC_N_SHARDS", ""),
        ("PRECALC_N_SHARDS", "5.5"),
        ("PRECALC_PROCESSES", "0"),
        ("PRECALC_BATCH_SIZE", "-1"),
        ("PRECALC_BATCH_SIZE", "100001"),
        ("PRECALC_BATCH_TIMEOUT", "0"),
        ("PRECALC_BATCH_TIMEOUT", "nan"),
        ("PRECALC_BATCH_TIMEOUT", "inf"),
        ("PRECALC_BATCH_TIMEOUT", "soon"),
        ("PRECALC_TABLE_WRITE_UNITS", "0"),
        ("PRECALC_TABLE_WRITE_UNITS", "nan"),
        ("PRECALC_TABLE_WRITE_UNITS", "inf"),
        ("PRECALC_RUNNER_PRICE", "inf"),
        ("PRECALC_TABLE_TAGS", "project"),
        ("PRECALC_TABLE_TAGS", "=chemistry"),
        ("PRECALC_TABLE_RECOVERY", "perhaps"),
        ("PRECALC_CORS_ORIGINS", "lab.example"),
        ("PRECALC_CORS_ORIGINS", "https://lab.example/path"),
        ("PRECALC_MAX_FAILURE_RATE", "1.1"),
        ("PRECALC_MAX_FAILURE_RATE", "-0.1"),
        ("PRECALC_MAX_FAILURE_RATE", "nan"),
    ],
)
def test_an_error_names_the_variable_and_its_bad_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as error:
        load_settings()
    assert f"{variable}={value!r}" in str(error.value)
    assert "\n" not in str(error.value)


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().cors_origins == ()
    load_settings.cache_clear()
    monkeypatch.setenv("PRECALC_CORS_ORIGINS", "https://lab.example, http://localhost:8080")
    assert load_settings().cors_origins == ("https://lab.example", "http://localhost:8080")


def test_the_environment_overrides_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PRECALC_N_SHARDS=7\nPRECALC_BATCH_SIZE=11\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PRECALC_BATCH_SIZE", "12")
    settings = load_settings()
    assert (settings.n_shards, settings.batch_size) == (7, 12)


def test_models_dir_is_split_like_path_before_built_in_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    monkeypatch.setenv("PRECALC_MODELS_DIR", f"{one}{os.pathsep}{two}{os.pathsep}")
    assert load_settings().model_folders == (one, two, BUILT_IN_MODELS)


@pytest.mark.parametrize(("variable", "name"), [("PRECALC_CACHE_DIR", "cache_dir"), ("PRECALC_MODELS_DIR", "models")])
def test_a_relative_folder_is_below_the_working_directory(
    variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models run in another folder, where a relative path would mean something else."""
    monkeypatch.setenv(variable, "below/it")
    settings = load_settings()
    path = settings.cache_dir if name == "cache_dir" else settings.models_dir[0]
    assert path == tmp_path / "below" / "it"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PRECALC_MODELS_DIR", "~nobody_at_all/models"), ("PRECALC_STORE_URL", "file://~nobody_at_all/store")],
)
def test_an_error_names_a_folder_in_an_unknown_home(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"{variable}='{value}'"):
        open_store(load_settings().store_url)


NO_STORES = [
    *("nonsense", "gopher://x/y", "/folder", "FILE:///x", "http://host/x"),
    *("memory://", "memory:///x", "gs://bucket", "az://container", "s3://", "s3:bucket", "s3://user:key@host"),
    *("file://", "file:///", "file://.", "file://./", "file:x", "file:./x", "file:/x", "file://host/x", "file:///a\nb"),
]


@pytest.mark.parametrize("url", [*NO_STORES, ""])
def test_an_error_names_a_wrong_store_url(url: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(url)
    assert f"PRECALC_STORE_URL={url!r}" in str(error.value)
    assert "\n" not in str(error.value)


NO_TABLES = [
    *("nonsense", "sqlite:///", "sqlite://x", "sqlite:x.db", "sqlite:///:memory:", "sqlite:///folder/", "postgres://x"),
    *("dynamodb://", "dynamodb://here/precalc", "dynamodb://eu-central-1", "dynamodb://eu-central-1/a/b"),
]


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        *(("PRECALC_STORE_URL", url) for url in NO_STORES),
        *(("PRECALC_TABLES_URL", url) for url in NO_TABLES),
        ("PRECALC_HUB_URL", "ext::sh -c id"),
        ("PRECALC_HUB_URL", ""),
        ("PRECALC_GITHUB_API_URL", "api.github.com"),
        ("PRECALC_GITHUB_API_URL", "file:///x"),
        ("PRECALC_GITHUB_API_URL", "http://[::1"),
        ("PRECALC_GITHUB_API_URL", "http://host:99999"),
        ("PRECALC_HUB_URL", "https://[::1"),
        ("PRECALC_CACHE_DIR", ""),
    ],
)
def test_wrong_urls_are_found_when_settings_are_read(
    variable: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no command changes the store before it finds out that the tables cannot be opened."""
    monkeypatch.setenv(variable, url)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{variable}={url!r}')}.* write |name a folder") as error:
        load_settings()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[::1", "http://host:99999", "http://a b"])
def test_an_endpoint_of_aws_that_is_no_url_is_named(variable: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", variable: url}.items():
        monkeypatch.setenv(name, value)
    for open_it, of in ((open_store, "s3://bucket"), (open_tables, "dynamodb://eu-central-1/precalc")):
        with pytest.raises(UsageError, match=f"^{re.escape(f'{variable}={url!r}')} is not the URL of an endpoint"):
            open_it(of)


@pytest.mark.parametrize("url", ["file:///a b/c", "file://./data", "file://../x", "file://~/x", "s3://b.c-d/e f/ä"])
def test_folders_and_buckets_are_stores(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALC_STORE_URL", url)
    assert load_settings().store_url == url


def test_an_error_never_shows_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECALC_GITHUB_TOKEN", "ghp_söcret")
    with pytest.raises(UsageError, match=r"^PRECALC_GITHUB_TOKEN: .*ASCII") as error:
        load_settings()
    assert "cret" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"PRECALC_CACHE_DIR=\0"])
def test_an_env_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(UsageError, match=r"^(.*/\.env cannot be read: |PRECALC_CACHE_DIR=.*NUL).*correct it"):
        load_settings()


@pytest.mark.parametrize("url", [*NO_TABLES, ""])
def test_an_error_names_a_wrong_tables_url(url: str) -> None:
    with pytest.raises(UsageError) as error:
        open_tables(url)
    assert f"PRECALC_TABLES_URL={url!r}" in str(error.value)


def test_an_error_names_a_store_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="PRECALC_STORE_URL"):
        open_store(f"file://{tmp_path / 'file' / 'store'}")


def test_a_dotted_file_url_is_relative_to_the_cwd(tmp_path: Path) -> None:
    open_store("file://./below").put("x", b"1")
    assert (tmp_path / "below" / "x").read_bytes() == b"1"

"""The packages of a model's environment: those of its recipe and packaging date, on any day and machine."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_packages import PYTHON, CondaChannels, PackageIndex, serve_index

from precalc_assets.models.environment import Environment, model_environment, remove_environments
from precalc_assets.models.folder import ModelFolder, find_model
from precalc_assets.platform_errors import InfrastructureError, ModelError, is_models_fault

PACKAGED = "2025-01-01"
MODEL = "eos9abc"

Make = Callable[..., Environment]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """The only package index, with the packages of every environment."""
    with serve_index(tmp_path / "wheels") as served:
        for name, version, uploaded in (
            ("pip", "24.0", "2024-02-03"),
            ("wheel", "0.42", "2023-11-26"),
            ("setuptools", "75.0", "2024-09-15"),
            ("setuptools", "80.9", "2025-05-27"),
            ("setuptools", "84.0", "2026-05-01"),
        ):
            served.add(name, version, uploaded)
        monkeypatch.setenv("UV_INDEX_URL", served.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
        yield served


@pytest.fixture
def channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CondaChannels:
    """Conda's channels; the default one has a Python."""
    made = CondaChannels(tmp_path / "channels")
    made.add_python(f"{PYTHON}.99")
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", made.url)
    return made


@pytest.fixture
def folder(world) -> Callable[..., ModelFolder]:
    """Write a model whose recipe has these lines."""

    def write(*lines: str, packaged: str | None = PACKAGED, python: str = PYTHON, more: str = "") -> ModelFolder:
        path = world.write_model(install=None)
        image = f"FROM bentoml/model-server:0.11.0-py{python.replace('.', '')}\n"
        (path / "Dockerfile").write_text(image + "".join(f"RUN {line}\n" for line in lines))
        with (path / "metadata.yml").open("a") as metadata:
            metadata.write(f"Last Packaging Date: '{packaged}'\n{more}" if packaged else more)
        return find_model(MODEL, [world.models_dir])

    return write


@pytest.fixture
def make(folder, tmp_path: Path) -> Make:
    """Make the environment of a model whose recipe has these lines, in a cache of that name."""

    def made(*lines: str, cache: str = "cache", skip_failed: bool = False, **about: str) -> Environment:
        return model_environment(folder(*lines, **about), tmp_path / cache, skip_failed=skip_failed)

    return made


def prefix(made: Environment) -> Path:
    return Path(made.variables["VIRTUAL_ENV"])


def versions(made: Environment, *names: str) -> dict[str, str]:
    """Return the installed versions of these packages."""
    found = {}
    for path in prefix(made).glob("lib/python*/site-packages/*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").partition("-")
        found[name] = version
    return {name: found[name] for name in names if name in found}


def add_alpha(index: PackageIndex, *, dated: bool = True) -> None:
    """Upload alpha 1.0 and its dependency beta, before and after the packaging date."""
    index.add("alpha", "1.0", "2024-06-01" if dated else None, requires=["beta"])
    index.add("beta", "1.0", "2024-06-01" if dated else None)
    index.add("beta", "2.0", "2025-06-01" if dated else None)


def test_packages_are_those_of_the_packaging_date(index: PackageIndex, make: Make) -> None:
    add_alpha(index)
    made = make("pip install alpha==1.0")
    assert versions(made, "alpha", "beta", "setuptools") == {"alpha": "1.0", "beta": "1.0", "setuptools": "75.0"}


def test_what_was_uploaded_on_the_packaging_date_counts(index: PackageIndex, make: Make) -> None:
    index.add("beta", "1.0", "2024-12-31")
    index.add("beta", "2.0", "2025-01-01")
    index.add("beta", "3.0", "2025-01-03")
    assert versions(make("pip install beta"), "beta") == {"beta": "2.0"}


def test_a_model_without_a_packaging_date_gets_todays_packages(
    index: PackageIndex, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    add_alpha(index)
    made = make("pip install alpha==1.0", packaged=None)
    assert versions(made, "alpha", "beta", "setuptools") == {"alpha": "1.0", "beta": "2.0", "setuptools": "80.9"}
    assert "eos9abc has no Last Packaging Date" in caplog.text


def test_an_index_without_times_gives_todays_packages(
    index: PackageIndex, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    add_alpha(index, dated=False)
    index.add("gamma", "1.0", "2024-06-01")
    index.add("gamma", "2.0", "2025-06-01")
    made = make("pip install alpha==1.0 gamma")
    assert versions(made, "alpha", "beta", "gamma") == {"alpha": "1.0", "beta": "2.0", "gamma": "1.0"}
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING][1:]
    assert "packaged on 2025-01-01, but alpha, beta of `pip install alpha==1.0 gamma`" in warning


def test_pinned_version_after_the_packaging_date_is_installed(
    index: PackageIndex, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    index.add("alpha", "1.0", "2025-02-01", requires=["beta"])
    index.add("beta", "1.0", "2024-06-01")
    index.add("beta", "2.0", "2025-06-01")
    assert versions(make("pip install alpha==1.0"), "alpha", "beta") == {"alpha": "1.0", "beta": "1.0"}
    assert "but alpha of `pip install alpha==1.0` cannot be installed as of that date" in caplog.text


def test_the_best_version_of_all_indexes_is_installed(index: PackageIndex, make: Make, tmp_path: Path) -> None:
    index.add("gamma", "1.0", "2024-06-01")
    with serve_index(tmp_path / "other") as other:
        other.add("gamma", "2.0", "2024-06-01")
        assert versions(make(f"pip install gamma --extra-index-url {other.url}"), "gamma") == {"gamma": "2.0"}


def test_an_index_url_is_for_its_own_line_alone(index: PackageIndex, make: Make, tmp_path: Path) -> None:
    index.add("gamma", "2.0", "2024-06-01")
    index.add("delta", "1.0", "2024-06-01")
    with serve_index(tmp_path / "other") as other:
        other.add("gamma", "1.0", "2024-06-01")
        made = make(f"pip install gamma --index-url {other.url}", "pip install delta")
        assert versions(made, "gamma", "delta") == {"gamma": "1.0", "delta": "1.0"}


def test_other_commands_run_inside_the_environment(index: PackageIndex, make: Make) -> None:
    made = make('python -c "import os, sys; print(sys.prefix, os.getcwd())" > "$HOME/places"')
    # The folder is not the model's, where a command's files would stay.
    assert (Path(made.variables["HOME"]) / "places").read_text().split() == [str(prefix(made))] * 2


def test_the_name_is_the_same_for_the_same_packages(index: PackageIndex, make: Make) -> None:
    add_alpha(index)
    lines = ("pip install alpha==1.0",)
    assert make(*lines).name == make(*lines, cache="other").name == make(*lines, packaged="2025-01-02").name
    assert make(*lines, packaged="2026-01-01").name != make(*lines).name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pip install alpha==7.7", "there is no version of alpha==7.7 and you require alpha==7.7"),
        ("bash -c 'echo a licence is needed; exit 3'", "exited 3: a licence is needed"),
    ],
    ids=["pip", "shell"],
)
def test_a_line_that_fails_is_named_with_the_way_out(index: PackageIndex, make: Make, line: str, said: str) -> None:
    add_alpha(index)
    with pytest.raises(ModelError) as error:
        make(line)
    assert is_models_fault(error.value)
    message = str(error.value)
    for words in (
        f"`{line}` of its Dockerfile failed",
        said,
        "PRECALC_MODEL_BACKEND=ersilia",
        f"{MODEL} --skip-failed",
    ):
        assert words in message
    assert "\n" not in message
    log = Path(message.partition("(full log: ")[2].partition(")")[0])
    assert said.rpartition(": ")[2] in " ".join(log.read_text().split())


@pytest.mark.parametrize(
    "line",
    [
        "pip install --index-url http://127.0.0.1:9/simple alpha",
        "pip install --index-url http://index.invalid/simple alpha",
        "pip install git+http://127.0.0.1:9/alpha.git",
        "git clone http://127.0.0.1:9/alpha.git",
        "conda install -c http://127.0.0.1:9/alpha alpha",
    ],
)
def test_server_that_is_not_reached_is_not_the_models_fault(
    index: PackageIndex, channels: CondaChannels, make: Make, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(InfrastructureError, match=r"^the environment of eos9abc could not be made: .*alpha"):
        make(line)


def test_lines_that_fail_can_be_passed_over_and_that_is_said(
    index: PackageIndex, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    add_alpha(index)
    lines = ("pip install alpha==1.0", "exit 3")
    made = make(*lines, skip_failed=True)
    assert versions(made, "alpha") == {"alpha": "1.0"}
    caplog.clear()
    assert make(*lines) == made
    assert caplog.messages == ["the environment of eos9abc lacks 'exit 3', which failed to install"]


def test_an_environment_too_large_for_the_disk_is_not_begun(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"eos9abc needs 999,999,\d+ MB, .* PRECALC_CACHE_DIR"):
        make("exit 3", more="Environment Size: 999999000\n")
    assert not list((tmp_path / "cache" / "environments").glob("*/"))


CONDA = "conda install -c lich "


def add_syba(channels: CondaChannels) -> None:
    """Build syba and its dependency data, before and after the packaging date."""
    activate = 'export SYBA_DATA="$CONDA_PREFIX/share"\n'
    channels.add("lich", "syba", "1.0.2.alpha", files={"etc/conda/activate.d/syba.sh": activate}, depends=["data"])
    for version, built in (("1.0", "2024-01-01"), ("1.0.1", "2024-02-01"), ("2.0", "2025-06-01")):
        channels.add("conda-forge", "data", version, files={"share/data": version}, built=built)


def test_conda_packages_and_pip_packages_share_a_python(
    index: PackageIndex, channels: CondaChannels, make: Make
) -> None:
    add_alpha(index)
    add_syba(channels)
    made = make("pip install alpha==1.0", CONDA + "syba=1.0.2.alpha", 'echo "$SYBA_DATA" > "$HOME/data"')
    assert versions(made, "alpha", "beta") == {"alpha": "1.0", "beta": "1.0"}
    assert (prefix(made) / "share" / "data").read_text() == "1.0.1"
    assert made.variables["SYBA_DATA"] == f"{prefix(made)}/share"
    assert (Path(made.variables["HOME"]) / "data").read_text() == f"{prefix(made)}/share\n"


@pytest.mark.parametrize(
    ("spec", "version"),
    [("data=1.0", "1.0.1"), ("data==1.0", "1.0"), ('"data 1.0"', "1.0"), ("data=2", "2.0"), ('"data<1.0.1"', "1.0")],
)
def test_specs_mean_what_they_mean_to_conda(
    index: PackageIndex, channels: CondaChannels, make: Make, spec: str, version: str
) -> None:
    add_syba(channels)
    made = make(f"conda install -c conda-forge {spec}", packaged="2026-01-01")
    assert (prefix(made) / "share" / "data").read_text() == version


def test_conda_package_after_the_packaging_date_is_installed(
    index: PackageIndex, channels: CondaChannels, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    add_syba(channels)
    made = make(CONDA + "data=2.0")
    assert (prefix(made) / "share" / "data").read_text() == "2.0"
    assert "was packaged on 2025-01-01, but all packages of" in caplog.text


@pytest.mark.parametrize("channel", ["lich", "nosuch"], ids=["no package", "no channel"])
def test_a_conda_line_that_fails_names_channel_and_package(
    index: PackageIndex, channels: CondaChannels, make: Make, channel: str
) -> None:
    add_syba(channels)
    with pytest.raises(
        ModelError, match=r"`conda install -c \w+ syba=7` of its Dockerfile failed: .*PRECALC_MODEL_BACKEND"
    ) as e:
        make(f"conda install -c {channel} syba=7")
    assert f"the conda channels {channel}, conda-forge" in str(e.value)


def test_without_conda_channels_its_lines_can_be_passed_over(
    index: PackageIndex, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", (tmp_path / "unreachable").as_uri())
    add_alpha(index)
    lines = (CONDA + "syba=1.0.2.alpha", "pip install alpha==1.0")
    with pytest.raises(ModelError, match="the conda channels conda-forge cannot be read"):
        make(*lines)
    assert versions(make(*lines, skip_failed=True), "alpha") == {"alpha": "1.0"}


def test_a_python_that_uv_lacks_comes_from_conda(index: PackageIndex, channels: CondaChannels, make: Make) -> None:
    channels.add_python("3.5.10")
    add_alpha(index)
    made = make("pip install alpha==1.0", python="3.5")
    assert (prefix(made) / "conda-meta" / "python-3.5.10-0.json").exists()
    assert versions(made, "alpha") == {"alpha": "1.0"}


def test_a_python_that_nobody_has_is_replaced_by_ours(
    index: PackageIndex, channels: CondaChannels, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    assert (prefix(make("true", python="3.5")) / "bin" / "python").exists()
    assert "eos9abc needs Python 3.5, which cannot be installed" in caplog.text
    with pytest.raises(ModelError, match=r"in Python 3\.1.*, used because Python 3\.5 is not on the PATH, failed"):
        make("false", python="3.5")


def test_removing_environments_leaves_none_and_frees_their_bytes(
    index: PackageIndex, make: Make, folder, tmp_path: Path
) -> None:
    index.add("alpha", "1.0", "2024-01-01")
    made = [make(), make("pip install alpha==1.0")]
    (prefix(made[0]) / "large").write_bytes(b"x" * 5_000_000)
    freed = remove_environments(MODEL, tmp_path / "cache")
    assert freed >= 5_000_000
    assert not any(prefix(each).exists() or Path(each.variables["HOME"]).exists() for each in made)
    assert remove_environments(MODEL, tmp_path / "cache") == 0
    assert prefix(make()).exists()


def test_removing_leaves_other_models_environments(index: PackageIndex, make: Make, tmp_path: Path) -> None:
    made = prefix(make())
    other = made.with_name(made.name.replace(MODEL, f"{MODEL}-v2"))
    shutil.copytree(made, other, symlinks=True)
    remove_environments(MODEL, tmp_path / "cache")
    assert other.exists()
    assert not made.exists()

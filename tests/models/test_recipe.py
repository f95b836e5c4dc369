"""Recipes: parsing the hub's forms of Dockerfile and install.yml."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalc_assets.models.recipe import CondaInstall, PipInstall, Recipe, ShellCommand, read_recipe
from precalc_assets.platform_errors import ModelError

FROM = "FROM bentoml/model-server:0.11.0-py310\n"

Asked = tuple[str, ...]


def of_dockerfile(folder: Path, content: str) -> Recipe:
    (folder / "Dockerfile").write_text(content, encoding="utf-8")
    return read_recipe(folder)


def of_commands(folder: Path, *commands: object) -> Recipe:
    content = json.dumps({"python": "3.10", "commands": commands})  # JSON is YAML
    (folder / "install.yml").write_text(content, encoding="utf-8")
    return read_recipe(folder)


def asked(recipe: Recipe) -> list[Asked]:
    """Return each step as its kind and its words."""
    found: list[Asked] = []
    for step in recipe.steps:
        match step:
            case PipInstall():
                found.append(("pip", *step.arguments))
            case CondaInstall():
                found.append(("conda", *step.channels, *step.specs))
            case ShellCommand():
                found.append(("bash", step.command))
    return found


@pytest.mark.parametrize(
    ("image", "python"),
    [
        ("bentoml/model-server:0.11.0-py38", "3.8"),
        ("bentoml/model-server:0.11.0-py37", "3.7"),
        ("bentoml/model-server:0.11.0-py310", "3.10"),
        ("bentoml/model-server:0.11.0-py3.12", "3.12"),
        ("--platform=linux/amd64 bentoml/model-server:0.11.0-py39 AS base", "3.9"),
        ("python:3.11-slim", "3.11"),
        ("python:3.7.17-slim-buster", "3.7"),
    ],
)
def test_a_base_image_gives_the_python(tmp_path: Path, image: str, python: str) -> None:
    assert of_dockerfile(tmp_path, f"FROM {image}\n").python == python


@pytest.mark.parametrize(("written", "python"), [("3.10", "3.10"), ("3.8.18", "3.8.18"), ("python3.12", "3.12")])
def test_install_yml_gives_the_python(tmp_path: Path, written: str, python: str) -> None:
    (tmp_path / "install.yml").write_text(f"python: {written}\n")
    assert read_recipe(tmp_path) == Recipe("install.yml", python, ())


LINES: list[tuple[str, list[Asked]]] = [
    ("pip install rdkit==2022.9.5", [("pip", "rdkit==2022.9.5")]),
    ("python -m pip install --no-cache-dir pandas==2.0.3", [("pip", "pandas==2.0.3")]),
    ("/usr/bin/python3 -m pip install -q six==1.16", [("pip", "six==1.16")]),
    ("pip3 install 'lazyqsar[descriptors]==2.1.1' # the newest", [("pip", "lazyqsar[descriptors]==2.1.1")]),
    ("pip install a==1 b==2", [("pip", "a==1", "b==2")]),
    ("pip install numpy>=1.2,<2", [("pip", "numpy>=1.2,<2")]),
    ('pip install "numpy>=1.2"', [("pip", "numpy>=1.2")]),
    ("pip install a==1 && pip install b==2; pip install c==3", [("pip", "a==1"), ("pip", "b==2"), ("pip", "c==3")]),
    ("pip install a==1 \\\n    b==2", [("pip", "a==1", "b==2")]),
    (
        "pip install torch==1.9.0 -f https://x.org/w.html",
        [("pip", "torch==1.9.0", "--find-links", "https://x.org/w.html")],
    ),
    ("pip install --index-url=https://x.org/a b==1", [("pip", "--index-url", "https://x.org/a", "b==1")]),
    ("pip install -U b==1 --no-deps", [("pip", "--upgrade", "b==1", "--no-deps")]),
    (
        "pip install --no-build-isolation git+https://x.org/a.git@d552#egg=a",
        [("pip", "--no-build-isolation", "git+https://x.org/a.git@d552#egg=a")],
    ),
    ("pip install -r requirements.txt", [("pip", "--requirements", "requirements.txt")]),
    ("conda install -c conda-forge openbabel=3.1.1 -y", [("conda", "conda-forge", "openbabel=3.1.1")]),
    ("conda install -y -c a --channel=b x=1 y==2", [("conda", "a", "b", "x=1", "y==2")]),
    ("mamba install --yes x=1.0=h1_0 -c a", [("conda", "a", "x=1.0=h1_0")]),
    ("conda install x==1.0", [("conda", "conda-forge", "x==1.0")]),
    ("conda clean --all -y && pip install a==1", [("pip", "a==1")]),
    ("lazyqsar setup --descriptors --only a,b", [("bash", "lazyqsar setup --descriptors --only a,b")]),
    ("set -ex; true && pip install a==1", [("pip", "a==1")]),
    ("cd /tmp && pip install .", [("bash", "cd /tmp && pip install .")]),
    ("curl -fsSL https://x.org/i.sh | bash", [("bash", "curl -fsSL https://x.org/i.sh | bash")]),
    ("pip install a==1 || true", [("bash", "pip install a==1 || true")]),
    ("X=$(date) && pip install a==$X", [("bash", "X=$(date) && pip install a==$X")]),
    ("pip install --config-settings a=b c==1", [("bash", "pip install --config-settings a=b c==1")]),
    ("echo 'it is ; not && two'", [("bash", "echo 'it is ; not && two'")]),
    ("rm -rf /var/lib/apt/lists/*", []),
    ("# nothing", []),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_a_shell_line_means_the_same_in_both_files(tmp_path: Path, line: str, expected: list[Asked]) -> None:
    for name in ("docker", "yml"):
        (tmp_path / name).mkdir()
    assert asked(of_dockerfile(tmp_path / "docker", f"{FROM}RUN {line}\n")) == expected
    assert asked(of_commands(tmp_path / "yml", line)) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["pip", "rdkit", "2025.3.1"], ("pip", "rdkit==2025.3.1")),
        (["pip", "rdkit", ""], ("pip", "rdkit")),
        (["pip", "rdkit"], ("pip", "rdkit")),
        (["pip", "numpy", ">=1.2"], ("pip", "numpy>=1.2")),
        (["pip", "torch", "2.5.1+cpu", "--index-url", "https://x.org"], ("pip", "torch==2.5.1+cpu", "--index-url", "https://x.org")),
        (["pip", "torch", "2.8.0", "--extra-index-url https://x.org"], ("pip", "torch==2.8.0", "--extra-index-url", "https://x.org")),
        (["pip", "torch", "2.2.1", "--index-url=https://x.org"], ("pip", "torch==2.2.1", "--index-url", "https://x.org")),
        (["pip", "git+https://x.org/a.git@v1"], ("pip", "git+https://x.org/a.git@v1")),
        (["pip", "install", "a==1"], ("pip", "a==1")),
        (["conda", "numpy", "2.2.6", "conda-forge"], ("conda", "conda-forge", "numpy=2.2.6")),
        (["conda", "dgl", "2.4.0", "dglteam/label/cpu", "-y"], ("conda", "dglteam/label/cpu", "dgl=2.4.0")),
        (["conda", "numpy", "2.2.6"], ("conda", "conda-forge", "numpy=2.2.6")),
        (["conda", "install", "-c", "a", "x=1"], ("conda", "a", "x=1")),
        (["lazyqsar-setup"], ("bash", "lazyqsar-setup")),
        (["lazyqsar setup --only a"], ("bash", "lazyqsar setup --only a")),
    ],
    ids=str,
)  # fmt: skip
def test_a_list_of_install_yml_is_one_step(tmp_path: Path, command: list[str], expected: Asked) -> None:
    assert asked(of_commands(tmp_path, command)) == [expected]


@pytest.mark.parametrize("command", [["true"], "true", "", [], [""]], ids=str)
def test_a_command_that_does_nothing_is_no_step(tmp_path: Path, command: object) -> None:
    assert asked(of_commands(tmp_path, command)) == []


def test_a_dockerfile_is_read_as_docker_reads_it(tmp_path: Path) -> None:
    recipe = of_dockerfile(
        tmp_path,
        "# syntax=docker/dockerfile:1\nARG V=1.2\n"
        f"{FROM}MAINTAINER somebody\nENV W 3\nWORKDIR /repo\n"
        "RUN --mount=type=cache,target=/x pip install a==$V \\\n  # why b\n  b==${W}\n"
        'run ["pip", "install", "c==1"]\nCOPY . /repo\n',
    )
    assert asked(recipe) == [("pip", "a==1.2", "b==3"), ("pip", "c==1")]
    assert recipe.source == "Dockerfile"


def test_the_first_stage_with_a_python_counts(tmp_path: Path) -> None:
    recipe = of_dockerfile(
        tmp_path,
        f"FROM alpine\nRUN pip install x==0\n{FROM}RUN pip install a==1\nFROM python:3.7\nRUN conda-pack -o x\n",
    )
    assert (recipe.python, asked(recipe)) == ("3.10", [("pip", "a==1")])


def test_the_dockerfile_counts_if_there_are_both_files(tmp_path: Path) -> None:
    of_commands(tmp_path, ["pip", "a", "1"])
    recipe = of_dockerfile(tmp_path, f"{FROM}RUN pip install a==2\n")
    assert asked(recipe) == [("pip", "a==2")]
    assert "install.yml" in recipe.warnings[0]


def test_system_packages_are_named_and_not_installed(tmp_path: Path) -> None:
    recipe = of_dockerfile(
        tmp_path, f"{FROM}RUN apt-get update && apt-get install -y --no-install-recommends gcc libx1\n"
    )
    assert recipe.steps == ()
    assert recipe.system_packages == ("gcc", "libx1")
    assert "gcc libx1" in recipe.warnings[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pip install rdkit", ["rdkit", "newest as of the packaging date"]),
        ("conda install -c a dgl", ["dgl", "newest as of the packaging date"]),
        ("conda install x=1", ["no channel", "conda-forge"]),
    ],
)
def test_unpinned_package_or_channel_is_a_warning(tmp_path: Path, line: str, words: list[str]) -> None:
    warnings = of_dockerfile(tmp_path, f"{FROM}RUN {line}\n").warnings
    assert len(warnings) == 1
    assert all(word in warnings[0] for word in words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("RUN pip install a==1\n", ["Dockerfile", "no FROM line"]),
        ("FROM alpine\n", ["no FROM line"]),
        (f"{FROM}RUN ersilia -v fetch x --from_github\n", ["`ersilia`", "PRECALC_MODEL_BACKEND=ersilia"]),
        (f"{FROM}RUN conda env create -f e.yml\n", ["conda env create", "only `conda install`"]),
        (f"{FROM}RUN conda install -c a --file x.txt\n", ["--file"]),
        (f"{FROM}RUN conda install -c a\n", ["names no package"]),
    ],
    ids=str,
)
def test_a_dockerfile_that_cannot_be_followed_says_why(tmp_path: Path, content: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as error:
        of_dockerfile(tmp_path, content)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("commands: []\n", ["names no Python version"]),
        ("python: two\n", ["'two' is not a Python version"]),
        ('python: "3.10"\ncommands: pip install a\n', ["must be a list"]),
        ('python: "3.10"\ncommands: [{pip: a}]\n', ["neither a list of words nor a shell line"]),
        ("just text\n", ["names no Python version"]),
        ("a: [1\n", ["cannot be read"]),
    ],
    ids=str,
)
def test_an_install_yml_that_cannot_be_followed_says_why(tmp_path: Path, content: str, words: list[str]) -> None:
    (tmp_path / "install.yml").write_text(content)
    with pytest.raises(ModelError) as error:
        read_recipe(tmp_path)
    assert all(word in str(error.value) for word in [*words, "install.yml"])
    assert "\n" not in str(error.value)


def test_a_folder_without_a_recipe_names_both_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither Dockerfile nor install\.yml"):
        read_recipe(tmp_path)


WORDS = st.from_regex(r"[a-z][a-z0-9._\[\]-]{0,7}", fullmatch=True)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_the_digest_is_of_what_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory, pins: list[tuple[str, str]]
) -> None:
    folders = [tmp_path_factory.mktemp("model") for _ in range(3)]
    docker = of_dockerfile(folders[0], FROM + "".join(f"RUN  pip install -q {name}=={of}  # a\n" for name, of in pins))
    yml = of_commands(folders[1], *(["pip", name, of] for name, of in pins))
    other = of_commands(folders[2], *(["pip", name, of] for name, of in pins), "echo")
    assert docker.digest == yml.digest
    assert docker.digest != other.digest


@pytest.mark.parametrize(
    "line",
    ["echo " + "x" * 900_000, "rm " + "/var/" * 180_000, "pip install " + "a==1 " * 150_000, "a&&" * 200_000],
    ids=["a word", "slashes", "packages", "commands"],
)
def test_a_command_without_end_is_refused_at_once(tmp_path: Path, line: str) -> None:
    started = time.process_time()
    with pytest.raises(ModelError, match="characters, and at most 32,768 are read") as error:
        of_dockerfile(tmp_path, f"{FROM}RUN {line}\n")
    assert len(str(error.value)) < 1_000
    assert time.process_time() - started < 2

"""Model folders: ids, metadata, declared columns, and errors of unusable folders."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc.identifiers import check_model_id
from precalc_assets.models.folder import find_model, list_models, parse_metadata
from precalc_assets.platform_errors import ModelError, UsageError
from precalc_assets.settings import BUILT_IN_MODELS

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "a_file.yml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize("model", ["eos3b5e", "eos0aaa", "eos9zzz", "eos4e40-v2", "eos4e40-v10"])
def test_a_model_id_is_taken_as_it_is(model: str) -> None:
    assert check_model_id(model) == model


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eos",
        "EOS3B5E",
        "eos3b5",
        "eos3b5ee",
        "eosab5e",
        "eos3b5e; rm -rf /",
        "../x",
        "eos3b5e/../x",
        "eos3b5e\n",
        " eos3b5e",
        "eos3b5e-v",
        "eos3b5e-2",
        "eos3b5é",
        "eos٣b5e",
        "$(id)",
        "eos3b5e|07",
    ],
)
def test_malformed_model_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as error:
        check_model_id(text)
    assert repr(text) in str(error.value)
    assert "eos3b5e" in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=12))
def test_whatever_passes_as_a_model_id_is_safe_as_a_name(text: str) -> None:
    try:
        check_model_id(text)
    except UsageError:
        return
    assert text.isascii()
    assert text.replace("-", "").isalnum()


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        find_model("eos9zzz", [BUILT_IN_MODELS])
    assert all(word in str(error.value) for word in ("eos9zzz", "eos0aaa", "eos0bbb", "PRECALC_MODELS_DIR"))


def test_a_models_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"PRECALC_MODELS_DIR names {tmp_path / 'none'}"):
        list_models([tmp_path / "none"])


def test_the_first_folder_of_a_name_is_the_one_that_is_used(world, new_world) -> None:
    other = new_world("other")
    world.write_model(release="v1")
    other.write_model(release="v2")
    assert find_model("eos9abc", [other.models_dir, world.models_dir]).metadata.release == "v2"
    assert list_models([other.models_dir, world.models_dir]) == ["eos9abc"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Title: x\n", ["Identifier"]),
        ("Identifier: eos9abc\n", ["Title"]),
        ("Identifier: eos9abc\nTitle:\n", ["Title"]),
        ("Identifier: [1, 2]\nTitle: x\n", ["Identifier"]),
        ("just text", ["its content"]),
        ("", ["its content"]),
        ("a: [1\nb: }", ["cannot be read"]),
        (b"\xff\xfe\0", ["cannot be read"]),
    ],
    ids=str,
)
def test_bad_metadata_is_one_line_that_names_file_and_field(
    write: Write, content: str | bytes, words: list[str]
) -> None:
    path = write(content)
    with pytest.raises(ModelError) as error:
        parse_metadata(path)
    assert all(word in str(error.value) for word in [str(path), *words])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("v1.0.0", "v1.0.0"),
        ("1.0", "1.0"),
        ("2", "2"),
        ("1.10", "1.10"),
        ("'1.10'", "1.10"),
        ("2026-01-02", "2026-01-02"),
    ],
    ids=str,
)
def test_a_release_is_the_text_that_the_model_reports(write: Write, release: str, text: str) -> None:
    assert parse_metadata(write(f"Identifier: eos9abc\nTitle: x\nRelease: {release}\n")).release == text


@pytest.mark.parametrize("number", ["1.10", "2"])
def test_a_release_in_json_is_the_text_of_its_number(tmp_path: Path, number: str) -> None:
    path = tmp_path / "metadata.json"
    path.write_text(f'{{\n\t"Identifier": "eos9abc",\n\t"Title": "\\ud83d\\ude00",\n\t"Release": {number}\n}}')
    metadata = parse_metadata(path)
    assert (metadata.release, metadata.title) == (number, "\N{GRINNING FACE}")


@pytest.mark.parametrize("empty", ["", "null", "~", "NULL", '""'], ids=repr)
def test_a_field_that_is_left_empty_is_as_good_as_absent(write: Write, empty: str) -> None:
    required = "Identifier: eos9abc\nTitle: x\n"
    optional = ("Description", "Interpretation", "Release", "Tag", "License", "Publication", "Source Code")
    left_empty = "".join(f"{name}: {empty}\n" for name in optional)
    assert parse_metadata(write(required + left_empty)) == parse_metadata(write(required))


def test_a_field_that_is_null_in_json_is_as_good_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text('{"Identifier": "eos9abc", "Title": "x", "License": null, "Release": null}')
    assert (parse_metadata(path).license, parse_metadata(path).release) == ("", "")


def test_metadata_may_be_json_with_a_string_for_a_list_of_one(write: Write) -> None:
    metadata = parse_metadata(write('{"Identifier": "eos9abc", "Title": "x", "Tag": "ADMET"}'))
    assert metadata.tags == ("ADMET",)
    assert metadata.release == ""


def test_a_folder_without_metadata_is_named(world) -> None:
    folder = world.write_model()
    (folder / "metadata.yml").unlink()
    with pytest.raises(ModelError, match="eos9abc has neither"):
        find_model("eos9abc", [world.models_dir])


@pytest.fixture
def unreleased(world) -> Callable[[], str]:
    """A function that returns the release of a folder whose metadata name none."""
    world.write_model(release="")
    return lambda: find_model("eos9abc", [world.models_dir]).metadata.release


@pytest.mark.parametrize(
    "name", ["model/checkpoints/weights.bin", "model/framework/code/main.py", "model/framework/run.sh", "Dockerfile"]
)
def test_folder_without_a_release_is_named_by_its_content(world, unreleased: Callable[[], str], name: str) -> None:
    named = unreleased()
    assert re.fullmatch(r"content-[0-9a-f]{12}", named)
    path = world.models_dir / "eos9abc" / name
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(b"# other content")
    assert unreleased() != named
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)
    assert unreleased() == named


@pytest.mark.parametrize("name", ["README.md", ".git/HEAD", "model/framework/code/__pycache__/main.pyc"])
def test_irrelevant_files_do_not_change_the_release(world, unreleased: Callable[[], str], name: str) -> None:
    named = unreleased()
    path = world.models_dir / "eos9abc" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("Something")
    assert unreleased() == named


def test_release_of_the_metadata_is_the_name(world) -> None:
    world.write_model(release="v1.2.3")
    assert find_model("eos9abc", [world.models_dir]).metadata.release == "v1.2.3"

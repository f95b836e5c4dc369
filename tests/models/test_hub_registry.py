"""The hub's registry: reading it, which models are refused, and `precalc models --hub`."""

import platform
from pathlib import Path

import pytest
from fake_hub import hub_entry, served, write_registry
from hypothesis import given
from hypothesis import strategies as st

from precalc_assets.models import hub_registry
from precalc_assets.models.hub_registry import HubModel, HubRegistry, list_changes, read_registry
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.settings import Settings

TWO = (hub_entry("eos9two"), hub_entry("eos1one"))


def read(source: str) -> HubRegistry:
    return read_registry(Settings(hub_registry=source))


def read_model(**fields: object) -> HubModel:
    return HubModel.model_validate(hub_entry("eos9abc", **fields))


def test_registry_at_a_path_is_read_in_order_of_ids(tmp_path: Path) -> None:
    registry = read(write_registry(tmp_path / "models.json", *TWO))
    assert [model.identifier for model in registry.models] == ["eos1one", "eos9two"]
    assert registry.unreadable == ()
    model = registry.models[0]
    assert (model.title, model.slug, model.release) == ("Title of eos1one", "slug-of-eos1one", "v1.0.0")
    assert (model.model_megabytes, model.environment_megabytes, model.image_megabytes) == (556, 8386, 10014.36)


def test_registry_at_a_url_is_read(tmp_path: Path) -> None:
    path = write_registry(tmp_path / "models.json", *TWO)
    with served(Path(path).read_bytes()) as url:
        assert read(url).models == read(path).models


def test_stored_registry_reads_back_the_same(tmp_path: Path) -> None:
    registry = read(write_registry(tmp_path / "models.json", *TWO, {"Identifier": "eos1"}))
    assert HubRegistry.model_validate_json(registry.model_dump_json()) == registry


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "Expecting value"),
        (b"", "Expecting value"),
        (b'{"models": []}', "not a list of models"),
        (b'"eos3b5e"', "not a list of models"),
        (b"\xff\xfe[]", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"[]" + b" " * 1000, "more than|1,002 bytes"),
    ],
    ids=["html", "empty", "object", "text", "utf16", "deep", "large"],
)
@pytest.mark.parametrize("by_url", [False, True], ids=["path", "url"])
def test_file_that_is_no_registry_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str, by_url: bool
) -> None:
    if said.startswith("more"):
        monkeypatch.setattr(hub_registry, "_MOST_BYTES", 1000)
    (tmp_path / "models.json").write_bytes(content)
    with served(content) as url, pytest.raises(PrecalcError, match=f"(?i){said}") as raised:
        read(url if by_url else str(tmp_path / "models.json"))
    assert str(raised.value).startswith("the hub's registry ")
    assert "PRECALC_HUB_REGISTRY" in str(raised.value)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_http_status_is_said(status: int) -> None:
    with served(b"[]", status) as url, pytest.raises(PrecalcError, match=f"HTTP status {status}"):
        read(url)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/nonexistent/models.json", "No such file"),
        ("/dev/zero", "not a regular file"),
        ("", "not a regular file"),
        ("http://127.0.0.1:1/models.json", "refused|connect"),
        ("http://", "URL|host|protocol"),
        ("http://[::1/models.json", "URL|IPv6|port"),
    ],
)
def test_registry_that_is_not_there_is_one_error(source: str, said: str) -> None:
    with pytest.raises(PrecalcError, match=f"(?i){said}"):
        read(source)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"Title": "x"}, "entry 2 (without identifier): Identifier"),
        (hub_entry("eos1"), "entry 2 (eos1): Identifier: it is not a model id"),
        (hub_entry("../../etc"), "entry 2 (../../etc): Identifier"),
        (hub_entry("eos9abc", Status=["Ready"]), "entry 2 (eos9abc): Status"),
        (hub_entry("eos1one", Title="Again"), "entry 2 (eos1one): an entry before it"),
        ("eos9abc", "entry 2 (not an object)"),
        (None, "entry 2 (not an object)"),
        ([], "entry 2 (not an object)"),
    ],
    ids=str,
)
def test_bad_entry_is_put_aside_with_its_reason(tmp_path: Path, entry: object, said: str) -> None:
    first, last = hub_entry("eos1one"), hub_entry("eos2two")
    registry = read(write_registry(tmp_path / "models.json", first, entry, last))
    assert [(model.identifier, model.title) for model in registry.models] == [
        ("eos1one", "Title of eos1one"),
        ("eos2two", "Title of eos2two"),
    ]
    (unreadable,) = registry.unreadable
    assert unreadable.startswith(said)


def test_entry_without_optional_fields_is_read(tmp_path: Path) -> None:
    (model,) = read(write_registry(tmp_path / "models.json", {"Identifier": "eos1one", "License": "None"})).models
    assert (model.title, model.release, model.license, model.seconds_per_molecule) == ("", "", "", None)


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.dictionaries(st.text(), st.text()))))
def test_any_list_is_read_with_each_entry_once(tmp_path_factory: pytest.TempPathFactory, entries: list) -> None:
    registry = read(write_registry(tmp_path_factory.mktemp("hub") / "models.json", *entries))
    assert len(registry.models) + len(registry.unreadable) == len(entries)


@pytest.mark.parametrize(
    ("fields", "allowed", "said"),
    [
        ({}, {}, ""),
        ({"Status": "In maintenance"}, {}, ""),
        ({"Status": "Archived"}, {}, "status in the hub is 'Archived'"),
        ({"Status": "In progress"}, {}, "status in the hub is 'In progress'"),
        ({"Status": None}, {}, "'missing'"),
        ({"Source": "Online"}, {}, "PRECALC_ALLOW_ONLINE=true"),
        ({"Source": "Online"}, {"allow_online": True}, ""),
        ({"Output_Consistency": "Variable"}, {}, "PRECALC_ALLOW_VARIABLE=true"),
        ({"Output_Consistency": "Variable"}, {"allow_variable": True}, ""),
        ({"Output_Consistency": "Variable", "Source": "Online"}, {"allow_variable": True}, "PRECALC_ALLOW_ONLINE"),
        ({"Status": "Archived"}, {"allow_online": True, "allow_variable": True}, "Archived"),
        ({"Docker_Architecture": ["PPC64"]}, {}, ""),
        ({"License": None}, {}, ""),
    ],
    ids=str,
)
def test_refusal_follows_the_policy(fields: dict[str, object], allowed: dict[str, bool], said: str) -> None:
    refusal = read_model(**fields).refusal(Settings(**allowed))
    assert said in refusal
    assert bool(refusal) == bool(said)


def test_another_architecture_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert read_model().row(Settings())["note"] == ""
    assert "this machine is ARM64" in read_model(Docker_Architecture="AMD64").row(Settings())["note"]


@pytest.mark.parametrize(
    ("of_100", "of_1000", "of_10000", "each"),
    [(-1, -1, -1, None), (50, -1, -1, 0.5), (50, 100, -1, 0.1), (50, 100, 500, 0.05), ("?", None, 0, None)],
)
def test_speed_is_that_of_the_longest_measurement(
    of_100: object, of_1000: object, of_10000: object, each: float | None
) -> None:
    model = read_model(
        Computational_Performance_3=of_100, Computational_Performance_4=of_1000, Computational_Performance_5=of_10000
    )
    assert model.seconds_per_molecule == each


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({}, {}, []),
        ({"Title": "Old"}, {"Title": "New"}, []),
        (None, {}, ["eos9abc is new: Ready, v1.0.0"]),
        ({}, None, ["eos9abc is gone"]),
        ({"Status": "In progress"}, {}, ["eos9abc is Ready, and was In progress"]),
        (
            {},
            {"Release": "v1.1.0"},
            ["eos9abc has release v1.1.0, after v1.0.0: by the hub's rule its predictions stay"],
        ),
        ({}, {"Release": "v2.0.0"}, ["eos9abc has release v2.0.0, after v1.0.0: its predictions may change"]),
        ({"Release": None}, {}, ["eos9abc has release v1.0.0, after none: its predictions may change"]),
    ],
    ids=str,
)
def test_changes_name_what_is_new(
    tmp_path: Path, before: dict[str, object] | None, after: dict[str, object] | None, lines: list[str]
) -> None:
    old, new = (
        read(
            write_registry(
                tmp_path / "models.json", *TWO, *([] if fields is None else [hub_entry("eos9abc", **fields)])
            )
        )
        for fields in (before, after)
    )
    assert list_changes(old, new) == lines


def test_command_lists_models_and_why_some_are_not_computed(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = write_registry(
        world.root / "models.json", hub_entry("eos1one"), hub_entry("eos2two", Status="Archived"), {"Title": "x"}
    )
    done = world.precalc("models", "--hub", hub_registry=path)
    assert (done.returncode, done.stderr) == (0, "")
    header, one, two, note, unreadable, counts = done.stdout.splitlines()
    assert header.split()[:3] == ["model", "title", "status"]
    assert one.split()[-3:] == ["556", "10,014", "422"]
    assert two.startswith("eos2two")
    assert note == "eos2two: not computed: its status in the hub is 'Archived'"
    assert unreadable == "entry 3 (without identifier): Identifier: Field required"
    assert counts == "2 models, of which 1 may be computed; entries that cannot be read: 1"


def test_command_without_a_registry_fails_in_one_line(world) -> None:
    done = world.precalc("models", "--hub")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "PRECALC_HUB_REGISTRY" in done.stderr

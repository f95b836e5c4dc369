"""Whatever bytes a file or an API holds, nothing comes of them but our own errors, in one line and little memory."""

import copy
import gzip
import hashlib
import io
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fake_api import DESCRIPTION, KEY, MODEL, PREDICTIONS, SUMMARY, URL
from httpx_retries import Retry
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from precalc import Client, PrecalcError
from precalc.cli import served_models
from precalc.downloading import download
from precalc.formats import JsonLinesFormat, find_format
from precalc.getting import Request, get_to_file
from precalc.molecules.molecule_input import read_list, read_rows, save_stream
from precalc.molecules.reading import read_table
from precalc.partial_files import PartialFiles
from precalc.remote import RemoteSource
from precalc.source import Answer

fuzz = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # so that a run in CI fails only for what changed
    phases=[Phase.generate],  # shrinking a failure would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Fail where a test makes the process larger than it was by much more than a batch and an answer."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KB on Linux
    assert grown < 300 << 10


def only_our_errors(use: Callable[[], object]) -> None:
    try:
        use()
    except PrecalcError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2_000


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([KEY, MODEL, "v1.0.0", "\ud800", "\x1b[2J", 10**400, 2**63, "../x", "http://[", "x://\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NOTHING = object()


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from places(child, (*path, name))


@st.composite
def changed(draw, whole: dict[str, object]) -> dict[str, object]:
    """The whole with a few values replaced or left out."""
    found = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        *way, name = draw(st.sampled_from([path for path in places(found) if path] or [("x",)]))
        inner = found
        for step in way:
            inner = inner[step]
        value = draw(st.just(NOTHING) | VALUES)
        if value is NOTHING:
            del inner[name]
        else:
            inner[name] = value
        if not found:
            break
    return found


SHA = hashlib.sha256(b"file").hexdigest()
FILE = {"shard": "00", "name": "shard=00.parquet", "url": f"{URL}/file", "bytes": 4, "sha256": SHA, "rows": 1}
TYPED = [{"name": name, "type": name, "direction": "", "description": ""} for name in ("float", "integer", "string")]
ANSWERS = {
    "/v1/models": {"models": [SUMMARY]},
    f"/v1/models/{MODEL}": DESCRIPTION | {"columns": TYPED, "varying": None},
    f"/v1/models/{MODEL}/files": {"releases": ["v1.0.0"], "library_digest": None, "files": [FILE | {"release": "v1"}]},
    f"/v1/models/{MODEL}/predictions": PREDICTIONS | {"columns": TYPED, "predictions": [[1.5, 2, "three"]]},
}


def api(answer: Callable[[str], bytes], status: int = 200, **headers: str) -> RemoteSource:
    def handle(request: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(answer(request.url.path))
        return httpx.Response(status, headers={"Content-Encoding": "identity"} | headers, stream=stream)

    return RemoteSource(URL, transport=httpx.MockTransport(handle), retry=Retry(total=0))


def use_all(source: RemoteSource, folder: Path) -> None:
    """Do everything that a reader can do with an API."""
    source.close = lambda: None  # the commands close it
    served_models.open_source = lambda _: source
    only_our_errors(lambda: served_models.list_models(None))
    only_our_errors(lambda: served_models.describe(MODEL, None, "", None))
    only_our_errors(lambda: Client(source=source).models())
    only_our_errors(lambda: Client(source=source).get(MODEL, [KEY], smiles=True))
    for suffix in ("csv", "jsonl", "parquet"):
        path = folder / f"out.{suffix}"
        only_our_errors(
            lambda path=path: get_to_file(
                Request(source.open(MODEL), read_list([KEY]), find_format(None, path), smiles=True), path
            )
        )
    only_our_errors(lambda: download(source, source.files(MODEL), folder / "files"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("precalc.downloading._SECONDS", 0.0)
    monkeypatch.setattr(served_models, "open_source", None)
    return tmp_path


def test_the_answers_that_are_changed_are_right_without_a_change(folder: Path) -> None:
    source = api(lambda path: b"file" if path == "/v1/file" else json.dumps(ANSWERS[path]).encode())
    use_all(source, folder)
    assert {path.name for path in folder.iterdir()} == {"out.csv", "out.jsonl", "out.parquet", "files"}
    assert (folder / "files" / "shard=00.parquet").read_bytes() == b"file"


@pytest.mark.slow
@pytest.mark.parametrize("path", ANSWERS)
@fuzz
@given(data=st.data())
def test_answers_with_other_json(folder: Path, path: str, data: st.DataObject) -> None:
    found = data.draw(changed(ANSWERS[path]))
    answers = {other: json.dumps(found if other == path else whole) for other, whole in ANSWERS.items()}
    use_all(api(lambda asked: answers.get(asked, "file").encode()), folder)


@st.composite
def damaged(draw, contents: st.SearchStrategy[bytes]) -> bytes:
    """Content with some bytes changed, left out or put in."""
    content = bytearray(draw(contents))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


WHOLE = st.sampled_from([json.dumps(answer).encode() for answer in ANSWERS.values()]) | st.sampled_from(
    [
        b"[" * 50_000,
        b'{"models":' * 50_000,
        b'{"models": [' + b"[]," * 9_999 + b"[]]}",
        b'{"a": 1' + b"0" * 9_999 + b"}",
    ]
)


@pytest.mark.parametrize("status", [200, 206, 301, 401, 404, 429, 503])
@settings(fuzz, max_examples=25)
@given(content=damaged(WHOLE | st.binary()), packed=st.booleans(), data=st.data())
def test_answers_with_other_bytes(folder: Path, status: int, content: bytes, packed: bool, data: st.DataObject) -> None:
    if packed:
        content = data.draw(damaged(st.just(gzip.compress(content))))
    place = data.draw(st.sampled_from(["bytes 0-3/4", "bytes 9-", "bytes " + "9" * 5_000 + "-", "x"]))
    headers = {"Content-Encoding": "gzip"} if packed else {}
    use_all(api(lambda _: content, status, **headers, location="//\x1b[2J", **{"content-range": place}), folder)


ROWS = st.sampled_from(
    [
        b"smiles\nCCO\nC1CC\n",
        b'name;smiles\n"a\nb";CCO\n',
        b"inchikey\tx\n" + KEY.encode() + b"\t1\n",
        "\ufeffCCO\r\nnaïve\r\n".encode(),
        b'"' * 9,
        b"CCO name\nC\n",
    ]
)


@pytest.mark.slow
@settings(fuzz, max_examples=200)
@given(
    content=damaged(ROWS | st.binary(max_size=40)), suffix=st.sampled_from([".csv", ".smi", ".csv.gz"]), data=st.data()
)
def test_files_of_molecules(folder: Path, content: bytes, suffix: str, data: st.DataObject) -> None:
    if suffix == ".csv.gz":
        content = data.draw(damaged(st.just(gzip.compress(content))))
    path = folder / f"molecules{suffix}"
    path.write_bytes(content)

    def read(path: Path) -> None:
        molecules = read_rows(read_table(path))
        read = [text for batch in molecules.batches(2) for text in batch.texts]
        assert len(read) <= molecules.total
        request = Request(api(lambda at: json.dumps(ANSWERS[at]).encode()).open(MODEL), molecules, JsonLinesFormat)
        request.model.read = lambda keys, **_: Answer([None] * len(keys), ["not_in_library"] * len(keys), {})
        get_to_file(request, folder / "out.jsonl")
        assert len((folder / "out.jsonl").read_text().splitlines()) == len(read)

    only_our_errors(lambda: read(path))
    only_our_errors(lambda: read(save_stream(io.BytesIO(content), folder)))


PLAN = {"model": MODEL}


@settings(fuzz, max_examples=150)
@given(data=st.data())
def test_journals_with_other_bytes_or_other_json_of_a_right_checksum(folder: Path, data: st.DataObject) -> None:
    for left in folder.iterdir():  # by an example that ended while it drew
        left.unlink()
    with PartialFiles(folder / "out.csv", [folder / "lost.csv"], PLAN) as files:
        files.append([b"abc\n", b"d\n"], {"rows": 1})
    journal = folder / ".out.csv.journal"
    if data.draw(st.booleans()):
        journal.write_bytes(data.draw(damaged(st.just(journal.read_bytes()))))
    else:
        line = json.dumps(data.draw(changed(json.loads(journal.read_bytes().splitlines()[0])) | VALUES)).encode()
        journal.write_bytes(line + b"\n" + hashlib.sha256(line).hexdigest().encode())
    with PartialFiles(folder / "out.csv", [folder / "lost.csv"], PLAN) as files:
        content = [path.read_bytes() for path in files.partials]
        assert content == ([b"abc\n", b"d\n"] if files.state else [b"", b""]) or not files.discarded
        files.remove()

"""Damaged and hostile bytes in all that models, recipes and the store hold: only our own errors, in bounded memory."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precalc_assets import storage
from precalc_assets.columns import Column, read_columns
from precalc_assets.inference.canary_checks import read_example
from precalc_assets.inference.ersilia.served_model import _records
from precalc_assets.inference.model_backend import BatchError
from precalc_assets.inference.output import read_output
from precalc_assets.inference.stored_parts import PartName, parse_part
from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.folder import find_model, parse_metadata, read_fetched
from precalc_assets.models.recipe import read_recipe
from precalc_assets.platform_errors import ColumnsError, ModelError, ShardError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.shard_manifest import find_manifest, manifest_name

MODEL = "eos9abc"
COLUMNS = (Column("score", "float", "", ""), Column("label", "string", "", ""))
SMILES = ("C", "CC", "CCO")
MOST = 100 << 20
"""Bytes that any of these parsers may take for the few kilobytes that they get here."""

fuzzed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORDS = (
    b"", b"\0", b"\n", b"\r", b",", b'"', b"'", b"[", b"]", b"{", b"}", b": ", b"- ", b"&a ", b"*a", b"\\", b"$A",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"nan", b"null", b"1e999", b"-" * 9, b"[" * 3_000,
    b"!!python/object/apply:os.system [id]", b"\x1f\x8b", b"RUN ", b"ENV A=", b"pip install ",
    b"x" * 20_000, b"2024-13-45", b"1" * 5000, b"..",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """Return a sample with up to four cuts, repetitions, and insertions of words that parsers stumble over."""
    content = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 200)))
        put = draw(st.one_of(st.sampled_from(WORDS), st.binary(max_size=8), st.just(content[start:end] * 20)))
        content = content[:start] + put + content[end:]
    return content


@pytest.fixture(autouse=True)
def _in_bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


def only_raises(work: Callable[[], object], *errors: type[Exception]) -> None:
    """Do the work; an error must be one of these, of one printable line."""
    try:
        work()
    except errors as error:
        assert "\n" not in str(error).strip()
        assert len(str(error)) < 2_000


@given(damaged([b"score,label\n1,a\n2,b\n3,c\n", b'"score",label,input\r\n1,"a, b",C\r\n2,"""",CC\r\n3,,CCO\r\n']))
@fuzzed
def test_outputs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "output.csv"
    path.write_bytes(content)
    only_raises(lambda: read_output(MODEL, path, COLUMNS, SMILES), BatchError, ColumnsError)


ROWS = [{"score": 1.5, "label": "a", "input": text} for text in SMILES]


@given(damaged([json.dumps(ROWS).encode(), b'[{"score":NaN,"label":[1,{"a":null}]},{},{"label":"\\u0000"}]']))
@fuzzed
def test_answers_of_servers(content: bytes) -> None:
    text = io.StringIO(content.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode("utf-8", "replace"))
    only_raises(lambda: _records(text, MODEL, COLUMNS, SMILES), BatchError, ColumnsError)


YAML = b"Identifier: eos9abc\nTitle: A model\nTag:\n  - a\n  - b\nRelease: v1.0.0\nLast Packaging Date: 2024-05-01\n"
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (b + 1, b + 1, *[b] * 9) for b in range(ord("a"), ord("i"))
)
METADATA = [
    YAML,
    b'{"Identifier": "eos9abc", "Title": "A model", "Tag": ["a"], "Image Size": 1.5}',
    BOMB,
    b"a: " * 9_000,
]


@given(damaged(METADATA), st.sampled_from(["metadata.yml", "metadata.json"]))
@fuzzed
def test_metadata(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    only_raises(lambda: parse_metadata(tmp_path / name), ModelError)


INSTALL = b"""python: "3.11"
commands:
  - [pip, rdkit, 2025.3.1]
  - [conda, openbabel, 3.1.1, conda-forge]
  - echo a && b
"""
COMMANDS = b"python: '3.11'\ncommands: [[*i]]\n"


@given(damaged([INSTALL, BOMB + COMMANDS, b'python: "3.10"\ncommands: []\n']))
@fuzzed
def test_install_yml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "install.yml").write_bytes(content)
    only_raises(lambda: read_recipe(tmp_path), ModelError)


DOCKERFILE = b"""FROM bentoml/model-server:0.11.0-py310
ENV A=1 B=2
RUN pip install rdkit==2025.3.1 \\
  numpy
RUN ["conda", "install", "-c", "conda-forge", "openbabel=3.1.1"]
RUN --mount=type=cache apt-get install -y x && echo $A ${B} > c
"""


@given(damaged([DOCKERFILE, b"FROM python:3.11\nENV A=" + b"x" * 9_000 + b"\nRUN echo " + b"$A" * 9_000 + b"\n"]))
@fuzzed
def test_dockerfiles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Dockerfile").write_bytes(content)
    only_raises(lambda: read_recipe(tmp_path), ModelError)


FETCHED = b'{"release":"v1.0.0","url":"https://host/eos9abc","commit":"0123456789abcdef","committed_on":"2024-05-01"}'


@given(damaged([FETCHED]), damaged([b'{"checkpoints": "public"}']))
@fuzzed
def test_records_of_fetches(tmp_path: Path, fetched: bytes, access: bytes) -> None:
    (tmp_path / "fetched.json").write_bytes(fetched)
    (tmp_path / "access.json").write_bytes(access)
    only_raises(lambda: read_fetched(tmp_path / MODEL), ModelError)
    only_raises(lambda: require_checkpoints(MODEL, tmp_path), ModelError)


@given(
    damaged([b"name,type,direction,description\nscore,float,high,A score\nlabel,string,,A label\n"]),
    damaged([b"score,label\n1,a\n2,b\n"]),
    damaged([b"smiles\nC\nCC\n", b"a,input\n1,C\n2,CC\n"]),
)
@fuzzed
def test_columns_and_examples(world, columns: bytes, output: bytes, given_: bytes) -> None:
    framework = world.write_model() / "model" / "framework"
    (framework / "examples").mkdir(exist_ok=True)
    (framework / "columns" / "run_columns.csv").write_bytes(columns)
    (framework / "examples" / "run_output.csv").write_bytes(output)
    (framework / "examples" / "run_input.csv").write_bytes(given_)
    only_raises(lambda: read_columns(framework), ModelError)
    with suppress(ModelError):
        folder = find_model(MODEL, [world.models_dir])
        only_raises(lambda: read_example(folder, folder.columns), ModelError)


PART = b"key,input,quarantine,score,label\nAAA,C,,1,a\nBBB,CC,no answer,,\n"
ZIPPED = [gzip.compress(PART), gzip.compress(b"key,input,quarantine,x\n" * 3), PART, gzip.compress(bytes(1 << 20))]


@given(damaged(ZIPPED))
@fuzzed
def test_parts(content: bytes) -> None:
    only_raises(lambda: parse_part(content), ValueError)


def test_a_part_that_expands_without_end_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precalc_assets.inference.stored_parts._MOST_BYTES", 10 << 20)
    with pytest.raises(ValueError, match="it has more than 10,485,760 bytes"):
        parse_part(gzip.compress(bytes(64 << 20)))


@given(damaged([b"raw/model=eos9abc/shard=07/part-0000-n50-0a0a0a0a-b1b1b1b1b1b1-framework-0123456789ab.csv.gz"]))
@fuzzed
def test_names_of_parts(content: bytes) -> None:
    name = content.decode("utf-8", "replace")
    part = PartName.parse(name)
    assert part is None or PartName.parse(str(part)) == part


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A manifest and a canary's report."""
    manifest = {
        "model": MODEL, "release": "v1", "shard": "00", "shard_digest": "0", "columns": [], "rows": 0, "quarantined": 0,
        "parts": [{"name": f"raw/model={MODEL}/shard=00/part-1.csv.gz", "rows": 0, "quarantined": 0, "bytes": 1,
                   "sha256": ""}], "environment": "", "seconds": 0, "finished_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    report = {
        "model": MODEL, "metadata": {"identifier": MODEL, "title": "A model"}, "release": "v1", "declared": [],
        "library_digest": "", "finished_at": "2026-01-01T00:00:00Z", "molecules": 1, "quarantined": 0,
        "peak_memory": None, "bytes_per_molecule": None, "adoption": None, "checks": [],
    }  # fmt: skip
    return json.dumps(manifest).encode(), json.dumps(report).encode()


@given(st.data())
@fuzzed
def test_manifests_and_reports(world, records: tuple[bytes, bytes], data: st.DataObject) -> None:
    manifest, report = (data.draw(damaged([record])) for record in records)
    obstore.put(world.store, manifest_name(MODEL, "00"), manifest)
    obstore.put(world.store, storage.canary_report(MODEL), report)
    only_raises(lambda: find_manifest(world.store, MODEL, "00"), ShardError)
    find_report(world.store, MODEL)

"""Downloaded files are those that were listed, whatever happens on the way."""

import json
import random
from collections.abc import Iterator
from hashlib import sha256
from itertools import repeat
from pathlib import Path

import httpx
import pytest
from made_up import MODEL, N_SHARDS, serve
from served_model import ROWS, Fault, cut, dropped, refused, remote

from precalc import downloading
from precalc.downloading import ServedFile, checked_file, download
from precalc.errors import DownloadError
from precalc.source import Source
from precalc_assets.client.local_tables import LocalSource
from precalc_assets.platform_errors import PrecalcError
from precalc_assets.sharding import shard_keys
from precalc_assets.storage import predictions
from precalc_assets.tables import KeyValueStore

SHARDS = shard_keys(N_SHARDS)
FILES = {shard: random.Random(shard).randbytes(200_000 + 1_000 * int(shard)) for shard in SHARDS}


def put(folder: Path, files: dict[str, bytes]) -> str:
    """Write files as the store has them; return the store's URL."""
    for shard, content in files.items():
        path = folder / "store" / predictions(MODEL, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return f"file://{folder / 'store'}"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_SECONDS", 0.0)


@pytest.fixture
def store_url(tables: KeyValueStore, tmp_path: Path) -> str:
    serve(tables, ROWS, release="v1.0.1", files=FILES)
    return put(tmp_path, FILES)


@pytest.fixture(params=["store", "API"])
def files_source(request: pytest.FixtureRequest, tables: KeyValueStore, store_url: str) -> Iterator[Source]:
    source = LocalSource(tables, "x", store_url) if request.param == "store" else remote(tables, store_url=store_url)
    yield source
    if request.param == "API":
        source.close()


def assert_whole(folder: Path, files: dict[str, bytes] = FILES) -> None:
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(there.pop("_manifest.json"))
    assert there == {f"shard={shard}.parquet": content for shard, content in files.items()}
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
        name: sha256(content).hexdigest() for name, content in there.items()
    }
    assert manifest["model"] == MODEL
    assert len(manifest["library_digest"]) == 64


def test_all_files_arrive_whole_with_a_manifest_to_cite(files_source: Source, tmp_path: Path) -> None:
    counted: list[int] = []
    found = files_source.files(MODEL)
    download(files_source, found, tmp_path / "out", on_bytes=counted.append)
    assert_whole(tmp_path / "out")
    assert sum(counted) == sum(file.bytes for file in found.files) == sum(map(len, FILES.values()))
    assert found.releases == ("v1.0.1",)
    assert [file.sha256 for file in found.files] == [sha256(content).hexdigest() for content in FILES.values()]


def test_whole_files_are_kept_and_damaged_ones_downloaded_again(files_source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    download(files_source, files_source.files(MODEL), folder)
    written = (folder / "shard=00.parquet").stat().st_mtime_ns
    (folder / "shard=01.parquet").write_bytes(FILES["01"][:-1] + b"!")
    (folder / "shard=02.parquet").unlink()
    digest = sha256(FILES["02"]).hexdigest()
    (folder / f".shard=02.parquet.{digest[:16]}.partial").write_bytes(FILES["02"][:70_000])
    (folder / ".shard=03.parquet.0123456789abcdef.partial").write_bytes(b"of another content")
    (folder / "shard=03.parquet").unlink()
    download(files_source, files_source.files(MODEL), folder)
    assert_whole(folder)
    assert (folder / "shard=00.parquet").stat().st_mtime_ns == written


def test_partial_download_continues_where_it_was_cut_off(tables, store_url: str, tmp_path: Path) -> None:
    source = remote(tables, store_url=store_url)
    folder = tmp_path / "out"
    folder.mkdir()
    digest = sha256(FILES["02"]).hexdigest()
    (folder / f".shard=02.parquet.{digest[:16]}.partial").write_bytes(FILES["02"][:70_000])
    download(source, source.files(MODEL), folder)
    assert_whole(folder)
    wanted = {request.url.path[-16:]: request.headers.get("range") for request in source.transport.requests[1:]}
    assert wanted == {f"shard={shard}.parquet": "bytes=70000-" if shard == "02" else None for shard in SHARDS}


def whole(content: bytes, status: int = 200, **headers: str) -> httpx.Response:
    """An answer as a transport gives it, of which nothing is read yet."""
    return httpx.Response(status, headers=headers, stream=_Chunks(content))


class _Chunks(httpx.SyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content


class _Endless(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        return repeat(bytes(50_000))


ELSEWHERE = {"content-range": "bytes 7-9/10"}
FAULTS: dict[str, Fault] = {
    "starting again": refused(503),
    "no answer": dropped,
    "cut off": cut,
    "expired": refused(403),
    "a server that knows no ranges": lambda request, answer: whole(FILES[request.url.path[-10:-8]]),
    "another part": lambda request, answer: httpx.Response(206, headers=ELSEWHERE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_network_faults_do_not_change_downloaded_files(tables, store_url: str, tmp_path: Path, name: str) -> None:
    def of_files(request, answer):
        is_file = request.url.path.endswith(".parquet")
        return FAULTS[name](request, answer) if is_file else answer()

    source = remote(
        tables, [of_files if at % 3 == 1 else cut if at % 5 == 2 else None for at in range(12)], store_url=store_url
    )
    download(source, source.files(MODEL), tmp_path / "out")
    assert_whole(tmp_path / "out")
    source.close()


def test_a_file_that_does_not_end_fills_no_disk(tables, store_url: str, tmp_path: Path) -> None:
    source = remote(tables, [None, lambda request, answer: httpx.Response(200, stream=_Endless())], store_url=store_url)
    download(source, source.files(MODEL), tmp_path / "out")
    assert_whole(tmp_path / "out")
    source.close()


def test_permanent_fault_of_one_file_keeps_the_others(tables, store_url: str, tmp_path: Path) -> None:
    def of_one(request, answer):
        return refused(403)(request, answer) if request.url.path.endswith("=02.parquet") else answer()

    source = remote(tables, [of_one] * 99, store_url=store_url)
    with pytest.raises(DownloadError, match=r"shard=02\.parquet of eos3b5e: its links expire .* the same command"):
        download(source, source.files(MODEL), tmp_path / "out")
    source.close()
    assert (tmp_path / "out" / "shard=00.parquet").read_bytes() == FILES["00"]
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_file_with_another_checksum_is_refused(files_source: Source, tmp_path: Path) -> None:
    put(tmp_path, {"01": FILES["01"][:-1] + b"!"})
    with pytest.raises(DownloadError, match=r"shard=01\.parquet of eos3b5e: .*SHA-256"):
        download(files_source, files_source.files(MODEL), tmp_path / "out")
    assert not (tmp_path / "out" / "shard=01.parquet").exists()


def test_download_continues_after_a_full_disk(files_source: Source, tmp_path: Path, no_room) -> None:
    with no_room(150_000), pytest.raises(PrecalcError, match=r"partial cannot be written: .*; make room"):
        download(files_source, files_source.files(MODEL), tmp_path / "out")
    assert 150_000 in {path.stat().st_size for path in (tmp_path / "out").glob(".shard=*.partial")}
    download(files_source, files_source.files(MODEL), tmp_path / "out")
    assert_whole(tmp_path / "out")


def test_missing_file_in_the_store_is_an_error(files_source: Source, tmp_path: Path) -> None:
    (tmp_path / "store" / predictions(MODEL, "01")).unlink()
    with pytest.raises(DownloadError, match=r"01\.parquet .*(gone|no longer in) "):
        download(files_source, files_source.files(MODEL), tmp_path / "out")


def test_model_loaded_meanwhile_is_not_downloaded_in_two_halves(tables, store_url: str, tmp_path: Path) -> None:
    newer = {shard: content[::-1] for shard, content in FILES.items()}

    def load_it(request, answer):
        serve(tables, ROWS, release="v2.0.0", files=newer)
        put(tmp_path, newer)
        return answer()

    source = remote(tables, [None, load_it], store_url=store_url)
    with pytest.raises(DownloadError, match=r"loaded again while it was downloaded|SHA-256"):
        download(source, source.files(MODEL), tmp_path / "out")
    source.close()
    source = remote(tables, store_url=store_url)
    download(source, source.files(MODEL), tmp_path / "out")
    assert_whole(tmp_path / "out", newer)
    source.close()


@pytest.mark.parametrize(
    "changes", [{"name": "../../x"}, {"name": "shard=01.parquet/.."}, {"sha256": "../x"}, {"name": "shard=1\n.parquet"}]
)
def test_a_server_cannot_choose_where_files_are_written(changes: dict[str, str]) -> None:
    listed = {"model": MODEL, "shard": "01", "name": "shard=01.parquet", "url": "", "bytes": 1, "sha256": "0" * 64}
    with pytest.raises(DownloadError, match="stopped"):
        checked_file(ServedFile(**{**listed, **changes}, rows=1, release="v1"))


def test_the_key_is_not_sent_to_where_links_lead(tables, store_url: str) -> None:
    seen: list[httpx.Request] = []

    def elsewhere(request, answer):
        seen.append(request)
        return whole(b"")

    source = remote(tables, [elsewhere, elsewhere], store_url=store_url)
    source._key_header = {"x-api-key": "s3cret"}
    file = ServedFile(MODEL, "01", "shard=01.parquet", "https://bucket.example/x", 1, "0" * 64, 1, "v1")
    with source.open_file(file, 0):
        pass
    with source.open_file(ServedFile(MODEL, "01", "x", f"{source.name}/x", 1, "0" * 64, 1, "v1"), 0):
        pass
    assert ["x-api-key" in request.headers for request in seen] == [False, True]
    source.close()

"""Memory is bounded by a batch and an answer, whatever is in a file and whatever an API sends."""

import gzip
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import pytest
from fake_api import KEY, MODEL, URL, fake_api

from precalc.bounded_answers import MAX_ANSWER_BYTES
from precalc.errors import ApiError, MoleculeFileError
from precalc.molecules.molecule_input import read_rows
from precalc.molecules.reading import read_table
from precalc.molecules.smiles_workers import BATCH_CHARACTERS
from precalc.remote import RemoteSource

pytestmark = pytest.mark.slow

MB = 1 << 20


@contextmanager
def memory_below(size: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def packed(path: Path, start: bytes, part: bytes) -> Path:
    """Write a file of 40 MB that holds `part` again and again."""
    path.write_bytes(gzip.compress(start + part * (40 * MB // len(part)), 1))
    return path


@pytest.mark.parametrize("size", [1, 1_000, 100_000])
def test_long_cells_make_batches_small(tmp_path: Path, size: int) -> None:
    path = packed(tmp_path / "long.csv.gz", b"smiles\n", b"C" * 130_000 + b"\n")
    rows = 0
    with memory_below(6 * BATCH_CHARACTERS):
        for batch in read_rows(read_table(path)).batches(size):
            rows += len(batch)
            assert not any(batch.inchikeys)
    assert rows == 40 * MB // 130_001


def test_row_of_many_cells_in_quotes_is_an_error(tmp_path: Path) -> None:
    path = packed(tmp_path / "open.csv.gz", b'smiles\nCCO\n"', b'a\n","')
    with (
        memory_below(200 * MB),  # half a million cells of two characters
        pytest.raises(MoleculeFileError, match=r"^open\.csv\.gz: the row in line 3 is over 1 MiB; end a quote"),
    ):
        read_rows(read_table(path))


def test_a_quote_that_does_not_end_costs_no_row(tmp_path: Path) -> None:
    path = packed(tmp_path / "open.csv.gz", b'smiles\nCCO\n"', b"a" * 999 + b"\n")
    with memory_below(8 * BATCH_CHARACTERS):
        assert sum(len(batch.rows) for batch in read_table(path).batches()) == 1 + 40 * MB // 1_000


@cache
def bomb() -> list[bytes]:
    packed = gzip.compress(b'{"models": [' + b" " * 200 * MB, 1)
    return [packed[at : at + 65_536] for at in range(0, len(packed), 65_536)]


class _Pieces(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        return iter(bomb())


def answering(status: int, encoding: str) -> RemoteSource:
    headers = {"content-encoding": encoding}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, headers=headers, stream=_Pieces()))
    return RemoteSource(URL, transport=transport)


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_unpacks_to_much_is_refused(status: int) -> None:
    bomb()
    with (
        memory_below(3 * MAX_ANSWER_BYTES),
        pytest.raises(ApiError, match=rf"^{URL}/models answers with more than 32 MB; is it the URL"),
    ):
        answering(status, "gzip").models()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate"])
def test_an_answer_in_another_encoding_is_refused(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ApiError, match="its encoding is"):
        answering(200, encoding).models()


def test_a_request_whose_answer_is_too_long_is_halved() -> None:
    source = fake_api()
    model = source.open(MODEL)
    answered: list[int] = []

    def send(method: str, path: str, body: dict[str, list[str]]) -> dict[str, object]:
        n = len(body["inchikeys"])
        if n > 2:
            raise ApiError("too long", status=413)
        answered.append(n)
        described = {"releases": ["v1.0.0"], "library_digest": None, "columns": [{"name": "weight", "type": "float"}]}
        return described | {"predictions": [[1.0]] * n, "statuses": ["found"] * n}

    source.send = send
    assert len(model.read([KEY] * 7).rows) == 7
    assert sum(answered) == 7

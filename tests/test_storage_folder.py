"""A store in a folder: what killed commands have left there is deleted, and what others are writing is not."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from precalc_assets.platform_errors import InfrastructureError, UsageError
from precalc_assets.storage import local_copy, open_store

LEFT = ("part.csv.gz#1", "predictions/model=eos9abc/shard=07.parquet#12")
OTHERS = ("a#b.csv", "notes#", "library/manifest.json", "#1")
OPENED = "from precalc_assets.storage import open_store; store = open_store('{url}'); print(flush=True); input()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*LEFT, *OTHERS):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "store"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_cut_puts_left_is_deleted(folder: Path) -> None:
    open_store(folder.as_uri())
    assert names(folder) == set(OTHERS)


def test_what_another_process_may_be_writing_stays(folder: Path) -> None:
    code = OPENED.format(url=folder.as_uri())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdin
        other.stdout.readline()
        new, old = (folder / name for name in LEFT)
        for path in (new, old):
            path.write_bytes(b"x")
        os.utime(old, times=(time.time() - 7_200,) * 2)
        open_store(folder.as_uri())
        assert names(folder) == {LEFT[0], *OTHERS}
        other.kill()
    code = code.replace("input()", "")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert names(folder) == {LEFT[0], *OTHERS}, "this process holds the folder"


def test_a_folder_that_cannot_be_written_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    assert open_store(folder.as_uri())


def test_copy_without_room_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "none"))
    copy = local_copy(open_store(folder.as_uri()), "library/manifest.json", UsageError("missing"))
    said = r"^library/manifest\.json cannot be copied to .*none: No such file.*TMPDIR"
    with pytest.raises(InfrastructureError, match=said):
        copy.__enter__()

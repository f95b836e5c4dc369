"""Tables in a file that cannot be written are read: on a full disk, and on a disk that is mounted for reading."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from table_doubles import MODEL, load, predictions, shard_molecules

from precalc_assets.platform_errors import TableError
from precalc_assets.tables import TableReader, open_tables
from precalc_assets.tables.store import Item

KEYS = shard_molecules(200)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        remount(folder, "size=1m")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (folder / "large").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def protect(folder: Path) -> None:
    remount(folder, "remount,ro")


@pytest.mark.parametrize("close_for_writing", [fill, protect])
def test_tables_are_read_where_nothing_can_be_written(disk: Path, close_for_writing: Callable[[Path], None]) -> None:
    url = f"sqlite:///{disk}/tables.db"
    with_rows = open_tables(url)
    load(with_rows, KEYS)
    with_rows.close()
    close_for_writing(disk)

    tables = open_tables(url)

    assert TableReader(tables, MODEL).get(KEYS) == predictions(KEYS)
    with pytest.raises(TableError, match=r"disk is full|make its disk and folder writable"):
        tables.put_many(MODEL, [Item(f"k{n}", bytes(4096)) for n in range(300)])
    tables.close()


def test_what_another_process_has_just_written_is_read_or_refused_never_left_out(disk: Path) -> None:
    url = f"sqlite:///{disk}/tables.db"
    writing = open_tables(url)
    load(writing, KEYS)
    fill(disk)

    tables = open_tables(url)

    assert TableReader(tables, MODEL).get(KEYS) == predictions(KEYS)
    tables.close()
    writing.close()


def test_a_log_of_writes_that_cannot_be_read_is_an_error(disk: Path) -> None:
    url = f"sqlite:///{disk}/tables.db"
    writing = open_tables(url)
    load(writing, KEYS)
    copies = {name: (disk / name).read_bytes() for name in ("tables.db", "tables.db-wal")}
    assert copies["tables.db-wal"]
    writing.close()
    for name, content in copies.items():  # as a killed writer leaves them, copied to another disk
        (disk / name).write_bytes(content)
    protect(disk)

    with pytest.raises(TableError, match=r"cannot be used as prediction tables: .* check that its folder is writable"):
        open_tables(url)


def test_a_missing_file_in_a_folder_that_cannot_be_written_is_an_error(disk: Path) -> None:
    protect(disk)
    with pytest.raises(TableError, match="check that its folder is writable"):
        open_tables(f"sqlite:///{disk}/tables.db")

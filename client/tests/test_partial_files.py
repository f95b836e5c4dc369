"""A file that was interrupted at any byte ends like an undisturbed one."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precalc.errors import PrecalcError, UsageError
from precalc.partial_files import PartialFiles

BLOCKS = [f"block {i}\n".encode() * (i + 1) for i in range(6)]
PLAN = {"model": "eos3b5e", "release": ["v1"], "input": "abc"}


def write(folder: Path, plan=PLAN, blocks=BLOCKS) -> PartialFiles:
    """Continue the files, and leave them partial."""
    with PartialFiles(folder / "out.csv", [folder / "lost.csv"], plan) as files:
        done = files.state.get("rows", 0)
        for row, block in enumerate(blocks[done:], start=done + 1):
            files.append([block, block[:3]], {"rows": row})
    return files


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), cuts=st.tuples(*[st.floats(0, 1)] * 3), junk=st.binary(max_size=5))
def test_file_cut_at_any_byte_ends_the_same(tmp_path_factory, n: int, cuts, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("files")
    write(folder, blocks=BLOCKS[:n])
    for path, share in zip(sorted(folder.glob(".*")), cuts, strict=False):
        content = path.read_bytes()
        rest = content[: round(share * len(content))]
        # A kill can leave a block behind that the journal does not count, in part or whole.
        path.write_bytes(rest + junk if path.name.endswith("journal") or rest == content else rest)
    files = write(folder)
    assert files.partials[0].read_bytes() == b"".join(BLOCKS)
    assert files.partials[1].read_bytes() == b"".join(block[:3] for block in BLOCKS)


def test_partial_file_of_another_plan_starts_again(tmp_path: Path) -> None:
    write(tmp_path, blocks=BLOCKS[:3])
    files = write(tmp_path, {**PLAN, "release": ["v2"], "input": "abd"}, [b"new\n"])
    assert files.discarded == "differs in input, release"
    assert files.partials[0].read_bytes() == b"new\n"


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["journal", "partial"]), st.data())
def test_damage_of_any_byte_is_noticed_and_starts_anew(tmp_path_factory, kind: str, data) -> None:
    folder = tmp_path_factory.mktemp("files")
    write(folder, blocks=BLOCKS[:3])
    path = folder / f".out.csv.{kind}"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1 - (kind == "journal")))  # but for the journal's last line end
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at]
    path.write_bytes(content)
    files = write(folder)
    assert files.discarded == "is damaged"
    assert files.partials[0].read_bytes() == b"".join(BLOCKS)


def test_a_size_that_lost_digits_does_not_shorten_the_file(tmp_path: Path) -> None:
    write(tmp_path, blocks=BLOCKS[:5])
    journal = tmp_path / ".out.csv.journal"
    size = sum(map(len, BLOCKS[:5]))
    journal.write_text(journal.read_text().replace(f'"sizes": [{size}', f'"sizes": [{size // 100}'))
    assert write(tmp_path).partials[0].read_bytes() == b"".join(BLOCKS)


def test_no_file_is_left_if_no_row_was_finished(tmp_path: Path) -> None:
    write(tmp_path, blocks=[])
    assert list(tmp_path.iterdir()) == []
    write(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_partial_file_continues_after_a_full_disk(tmp_path: Path, no_room) -> None:
    blocks = [bytes([i]) * 1_000 for i in range(6)]
    with no_room(3_500), pytest.raises(PrecalcError, match=r"out\.csv\.partial cannot be written: .*; make room"):
        write(tmp_path, blocks=blocks)
    done: list[int] = []
    with PartialFiles(tmp_path / "out.csv", [tmp_path / "lost.csv"], PLAN) as files:
        done.append(files.state["rows"])
    assert done == [3]
    assert write(tmp_path, blocks=blocks).partials[0].read_bytes() == b"".join(blocks)


def test_no_file_is_left_if_the_disk_is_full_from_the_start(tmp_path: Path, no_room) -> None:
    with no_room(3), pytest.raises(PrecalcError, match="cannot be written"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_commands_do_not_write_the_same_file(tmp_path: Path) -> None:
    with (
        PartialFiles(tmp_path / "out.csv", [], PLAN) as files,
        pytest.raises(PrecalcError, match=r"out\.csv is being written by another command"),
        PartialFiles(tmp_path / "out.csv", [], PLAN),
    ):
        pass
    assert files.state == {}


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.csv"):
        with pytest.raises(UsageError, match="name a file"):
            PartialFiles(path, [], PLAN)

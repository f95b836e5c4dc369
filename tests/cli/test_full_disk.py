"""A disk that fills up during a run: a small tmpfs, which needs the right to mount it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from precalc_assets.predictions.shard_manifest import require_manifest
from precalc_assets.sharding import shard_keys

pytestmark = pytest.mark.slow

MODEL = "eos9abc"
SHARDS = shard_keys(4)
WIDE = "return f'{len(smiles) / 3!r},{len(smiles)},' + __import__('secrets').token_hex(20_000)"
"""20 KB per molecule, which compress at most to half."""


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, "size=600k")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_store_is_an_error_and_the_same_command_continues(world, small_disk: Path) -> None:
    world.write_model(answer=WIDE)
    url = f"file://{small_disk}/store"
    assert world.precalc("library", "build", library(world), store_url=url).returncode == 0
    full = world.precalc("predict", MODEL, store_url=url)
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "could not be written" in full.stderr
    assert "Traceback" not in full.stderr
    written = {path: path.stat().st_mtime_ns for path in small_disk.rglob("part-*.csv.gz")}
    assert written
    asked = sum(map(len, world.calls()))

    mount(small_disk, "remount,size=20m")
    again = world.precalc("predict", MODEL, store_url=url)
    assert again.returncode == 0, again.stderr
    assert "rows 60, quarantined 0" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert sum(map(len, world.calls())) - asked < 60
    store = type(world)(small_disk, world.cache_dir).store
    assert sum(require_manifest(store, MODEL, shard).rows for shard in SHARDS) == 60


def test_full_temporary_folder_ends_the_run_with_that_reason(world, small_disk: Path, monkeypatch) -> None:
    world.write_model(answer=WIDE)
    world.build_library()
    (small_disk / "ballast").write_bytes(bytes(590_000))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    full = world.precalc("predict", MODEL)
    assert full.returncode == 1
    assert f"no file can be written to {small_disk}" in full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    (small_disk / "ballast").unlink()
    mount(small_disk, "remount,size=20m")
    again = world.precalc("predict", MODEL)
    assert again.returncode == 0, again.stderr


def stored(world) -> dict[str, bytes]:
    """Return the canary's report and predictions."""
    return {name: world.path(name).read_bytes() for name in world.objects("samples")}


def failing_with(flag: Path, failure: str) -> str:
    """Return the script of a model that fails once the flag exists."""
    return f"""
if os.path.exists({str(flag)!r}):
    {failure}
write("\\n".join([HEADER, *map(answer, given)]) + "\\n")
"""


def assert_not_blamed(world, flag: Path, reason: str) -> None:
    """Run the canary and then the library, before and after the machine fails: nothing is replaced or quarantined."""
    good = world.precalc("predict", MODEL, "--sample", "20")
    assert good.returncode == 0, good.stderr
    before = stored(world)
    assert len(before) == 2
    flag.touch()
    for command in (("predict", MODEL, "--sample", "20"), ("predict", MODEL)):
        failed = world.precalc(*command)
        assert failed.returncode == 1
        assert reason in failed.stderr
        assert "TMPDIR" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert stored(world) == before
        assert not world.objects("raw")
        assert not world.objects("quarantine")


@pytest.mark.parametrize("options", ["size=600k", "size=20m,nr_inodes=60"], ids=["bytes", "inodes"])
def test_a_disk_that_a_run_fills_is_not_the_models_fault(world, small_disk: Path, monkeypatch, options: str) -> None:
    flag = world.root / "flag"
    fill = f"[open(f'{small_disk}/more-{{n}}', 'wb').write(bytes(1 << 14)) for n in range(100)]"
    world.write_model(script=failing_with(flag, fill))
    world.build_library()
    mount(small_disk, f"remount,{options}")
    monkeypatch.setenv("TMPDIR", str(small_disk))
    assert_not_blamed(world, flag, "No space left on device")
    for path in small_disk.glob("more-*"):
        path.unlink()
    flag.unlink()
    again = world.precalc("predict", MODEL)
    assert again.returncode == 0, again.stderr
    assert "rows 60, quarantined 0" in again.stderr


@pytest.mark.parametrize(
    "message",
    [
        "OSError: [Errno 122] Disk quota exceeded: '/home/x'",
        "OSError: [Errno 30] Read-only file system: '/home/x'",
        "OSError: [Errno 24] Too many open files: '/x'",
        "OSError: [Errno 12] Cannot allocate memory",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB",
    ],
)
def test_what_a_machine_lacks_is_not_the_models_fault(world, message: str) -> None:
    flag = world.root / "flag"
    world.write_model(script=failing_with(flag, f"sys.exit({message!r})"))
    world.build_library()
    assert_not_blamed(world, flag, message.partition(": ")[0])


def library(world) -> Path:
    path = world.root / "molecules.smi"
    path.write_text("\n".join("C" * n + end for n in range(1, 16) for end in ("", "O", "N", "Cl")) + "\n")
    return path

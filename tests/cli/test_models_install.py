"""`precalc models install` and `remove`."""

import re
from pathlib import Path

import pytest

MODEL = "eos9abc"


@pytest.mark.slow
def test_an_environment_is_installed_once_and_removed_by_command(world, tmp_path: Path) -> None:
    world.write_model()
    cache = {"cache_dir": str(tmp_path / "cache")}
    first = world.precalc("models", "install", MODEL, **cache)
    assert first.returncode == 0, first.stderr
    assert re.fullmatch(r"framework-[0-9a-f]{12}\n", first.stdout)
    assert "making the environment of eos9abc (once)" in first.stderr
    again = world.precalc("models", "install", MODEL, **cache)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    removed = world.precalc("models", "remove", MODEL, **cache)
    assert re.search(r"fetched copies of eos9abc: \d+\.\d MB freed\n", removed.stdout)
    assert not list((tmp_path / "cache" / "environments").glob("*/"))
    assert (world.models_dir / MODEL).exists()


@pytest.mark.slow
def test_a_failed_line_is_an_error_unless_it_is_to_be_skipped(world, tmp_path: Path) -> None:
    world.write_model(install="python: '3.11'\ncommands: ['bash -c \"echo no licence; exit 3\"']\n")
    cache = {"cache_dir": str(tmp_path / "cache")}
    failed = world.precalc("models", "install", MODEL, **cache)
    assert failed.returncode == 1
    assert "no licence" in failed.stderr.splitlines()[-1]
    assert f"precalc models install {MODEL} --skip-failed" in failed.stderr.splitlines()[-1]
    skipped = world.precalc("models", "install", MODEL, "--skip-failed", **cache)
    assert skipped.returncode == 0
    assert "skipping `bash -c" in skipped.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (("install", "eos9zzz"), {}, "there is no model 'eos9zzz'"),
        (("install", MODEL), {"model_backend": "ersilia"}, "set PRECALC_MODEL_BACKEND=framework"),
        (("remove", "nonsense"), {}, "nonsense"),
    ],
    ids=["unknown", "other backend", "no id"],
)
def test_model_without_an_environment_is_a_usage_error(
    world, arguments: tuple[str, ...], settings: dict[str, str], words: str
) -> None:
    world.write_model()
    done = world.precalc("models", *arguments, **settings)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert words in done.stderr

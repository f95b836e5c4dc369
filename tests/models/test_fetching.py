"""Fetching models from a local git remote with tags and Git LFS: complete or absent, looked up once a day."""

import json
import logging
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from aws_emulator import Emulator
from filelock import FileLock

from precalc_assets.models import fetching
from precalc_assets.models.checkpoints import require_checkpoints
from precalc_assets.models.fetching import fetch_model, find_fetched, list_fetched, remove_fetched
from precalc_assets.models.folder import ModelFolder, read_folder
from precalc_assets.platform_errors import InfrastructureError, ModelError, UsageError, is_models_fault
from precalc_assets.settings import Settings

MODEL = "eos3b5e"
DAY = 24 * 3600.0


class Remote:
    """A hub in a folder with one model's repository, and a cache."""

    def __init__(self, world, root: Path) -> None:
        self.world = world
        self.hub = Settings(hub_url=f"file://{root / 'hub'}", cache_dir=root / "cache")
        self.path = root / "hub" / f"{MODEL}.git"
        self.place = root / "cache" / "models" / MODEL
        self.work = world.write_model(model=MODEL)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit(release="v0.9.0")

    def git(self, *words: str | Path) -> str:
        configured = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "tag.gpgSign=false")
        done = subprocess.run(["git", *configured, *words], cwd=self.work, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, *, release: str = "", title: str = "") -> str:
        """Commit the folder with this metadata; return the commit."""
        lines = [f"Identifier: {MODEL}", f"Title: {title or 'A model'}", *([f"Release: {release}"] if release else [])]
        (self.work / "metadata.yml").write_text("\n".join(lines) + "\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=Change it")
        self.publish()
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, *options: str) -> None:
        self.git("tag", *options, name)
        self.publish()

    def publish(self) -> None:
        if not self.path.exists():
            self.git("clone", "--quiet", "--bare", self.work, self.path)
        self.git("push", "--quiet", "--force", "--tags", f"file://{self.path}", "main")

    def unplug(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))

    def track_lfs(self, name: str, content: bytes) -> None:
        """Commit a file by Git LFS."""
        self.git("lfs", "install", "--local")
        self.git("lfs", "track", name)
        (self.work / name).parent.mkdir(parents=True, exist_ok=True)
        (self.work / name).write_bytes(content)
        self.commit()

    def fetch(self, model: str = MODEL, release: str = "") -> ModelFolder:
        return fetch_model(model, self.hub, release)

    def release(self, model: str = MODEL, release: str = "") -> str:
        return self.fetch(model, release).metadata.release

    def days_pass(self, days: float) -> None:
        then = time.time() - days * DAY
        for mark in self.place.glob("today-*"):
            os.utime(mark, (then, then))


@pytest.fixture
def remote(world, tmp_path: Path) -> Remote:
    return Remote(world, tmp_path)


@pytest.mark.parametrize(
    ("asked", "release", "fetched"),
    [
        (MODEL, "", "v2.10.0"),
        (MODEL, "v1.9.0", "v1.9.0"),
        (f"{MODEL}-v1", "", "v1.10.1"),
        (f"{MODEL}-v2", "", "v2.10.0"),
        (f"{MODEL}-v1", "v1.9.0", "v1.9.0"),
    ],
)
def test_newest_release_of_what_was_asked_is_fetched(remote: Remote, asked: str, release: str, fetched: str) -> None:
    for name in ("v1.9.0", "v1.10.1", "v2.9.3", "v2.10.0", "nightly", "v3", "v3.0.0-rc1"):
        remote.commit(title=name)
        remote.tag(name)
    folder = remote.fetch(asked, release)
    assert (folder.model, folder.metadata.release, folder.metadata.title) == (asked, fetched, fetched)
    assert folder.path == remote.place / fetched / MODEL
    assert (folder.framework / "run.sh").read_text() == (remote.work / "model/framework/run.sh").read_text()
    assert not (folder.path / ".git").exists()


def test_annotated_tag_is_fetched_at_its_commit(remote: Remote) -> None:
    commit = remote.commit(title="Tagged")
    remote.tag("v1.0.0", "--annotate", "--message=First")
    remote.commit(title="Later")
    assert remote.fetch().metadata.title == "Tagged"
    said = json.loads((remote.place / "v1.0.0" / "fetched.json").read_text())
    assert (said["release"], said["url"], said["commit"]) == ("v1.0.0", f"{remote.hub.hub_url}/{MODEL}.git", commit)


def test_fetched_folder_without_a_date_has_its_commits(remote: Remote) -> None:
    remote.commit(title="Undated")
    assert remote.fetch().metadata.packaged_on == datetime.now(UTC).date()


def test_untagged_model_is_named_by_its_commit(remote: Remote) -> None:
    commit = remote.commit(title="Head", release="v0.1.0")
    assert remote.release() == f"commit-{commit[:12]}"
    later = remote.commit(title="Later")
    remote.days_pass(1.1)
    assert remote.release() == f"commit-{later[:12]}"
    remote.unplug()
    remote.days_pass(1.1)
    assert remote.release() == f"commit-{later[:12]}"


def test_metadata_written_for_a_release_after_its_tag_count(remote: Remote) -> None:
    remote.commit(title="Before packaging", release="v1.1.0")
    remote.tag("v1.1.0")
    remote.commit(title="Packaged as 1.1.0", release="v1.1.0")
    assert remote.fetch().metadata.title == "Packaged as 1.1.0"
    remote.commit(title="Before packaging", release="v1.1.0")
    remote.tag("v1.2.0")
    remote.commit(title="Of another release", release="v1.3.0")
    folder = remote.fetch(release="v1.2.0")
    assert (folder.metadata.title, folder.metadata.release) == ("Before packaging", "v1.2.0")


def test_exact_release_in_the_cache_needs_no_network(remote: Remote) -> None:
    remote.tag("v1.0.0")
    remote.release(release="v1.0.0")
    remote.unplug()
    assert remote.release(release="v1.0.0") == "v1.0.0"


def test_hub_is_asked_for_the_newest_release_once_a_day(
    remote: Remote, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    remote.tag("v1.0.0")
    assert remote.release() == "v1.0.0"
    assert caplog.messages == [f"fetching {MODEL} v1.0.0 from {remote.hub.hub_url}/{MODEL}.git"]
    remote.tag("v1.1.0")
    remote.days_pass(0.9)
    assert remote.release() == "v1.0.0"
    remote.days_pass(1.1)
    assert remote.release() == "v1.1.0"
    assert (remote.place / "v1.0.0").is_dir()


def test_release_in_the_cache_is_used_offline(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        remote.tag(name)
        remote.release(release=name)
    remote.unplug()
    assert remote.release() == "v1.1.0"
    assert f"there is no repository {remote.hub.hub_url}/{MODEL}" in caplog.text
    assert "using v1.1.0 from the cache" in caplog.text
    assert list_fetched(remote.hub) == [MODEL]
    known = find_fetched(MODEL, remote.hub)
    assert known
    assert known.metadata.release == "v1.1.0"


def test_unreachable_hub_is_one_line_that_says_offline(tmp_path: Path) -> None:
    hub = Settings(hub_url="http://127.0.0.1:9", cache_dir=tmp_path)
    with pytest.raises(InfrastructureError, match=rf"^{MODEL} cannot be fetched from .*: git ls-remote: .*offline\?$"):
        fetch_model(MODEL, hub)
    assert find_fetched(MODEL, hub) is None
    assert list_fetched(hub) == []


@pytest.mark.parametrize(
    ("asked", "release", "words"),
    [
        ("eos9zzz", "", r"there is no repository file://.*/eos9zzz.* \(PRECALC_HUB_URL\)"),
        (MODEL, "v1.0.1", r"/eos3b5e.git has no release v1\.0\.1; its releases: v1\.0\.0, v1\.2\.0"),
        (f"{MODEL}-v3", "", r"has no release v3; its releases: v1\.0\.0, v1\.2\.0"),
        (f"{MODEL}-v2", "v1.0.0", r"'v1\.0\.0' is not a release of eos3b5e-v2"),
        (MODEL, "1.0.0", r"'1\.0\.0' is not a release of eos3b5e; write it as v1\.0\.1"),
        (MODEL, "../..", r"'\.\./\.\.' is not a release"),
        ("../etc", "", "is not a model id"),
    ],
)
def test_missing_model_or_release_is_a_usage_error(remote: Remote, asked: str, release: str, words: str) -> None:
    remote.tag("v1.2.0")
    remote.tag("v1.0.0")
    with pytest.raises(UsageError, match=words) as error:
        remote.fetch(asked, release)
    assert "\n" not in str(error.value)


def test_release_of_another_hub_is_not_taken_for_this_one(remote: Remote, world, tmp_path: Path) -> None:
    remote.tag("v1.0.0")
    remote.fetch()
    remote.path.parent.rename(tmp_path / "fork")
    fork = Settings(hub_url=f"file://{tmp_path / 'fork'}", cache_dir=remote.hub.cache_dir)
    assert list_fetched(fork) == []
    assert fetch_model(MODEL, fork).metadata.release == "v1.0.0"
    said = json.loads((remote.place / "v1.0.0" / "fetched.json").read_text())
    assert said["url"] == f"{fork.hub_url}/{MODEL}.git"


@pytest.mark.parametrize("content", ["{", '{"release": "v1.0.0"}', "[]"])
def test_damaged_record_is_named_and_the_next_fetch_replaces_it(remote: Remote, content: str) -> None:
    remote.tag("v1.0.0")
    folder = remote.fetch()
    record = folder.path.parent / "fetched.json"
    record.write_text(content)
    with pytest.raises(ModelError, match=rf"fetched\.json is damaged: .*`precalc models remove {MODEL}`"):
        read_folder(folder.path)
    assert list_fetched(remote.hub) == []
    assert remote.release() == "v1.0.0"
    assert json.loads(record.read_text())["release"] == "v1.0.0"
    record.write_text(content)
    assert remove_fetched(MODEL, remote.hub) > 0
    assert not record.exists()


@pytest.mark.parametrize("ends_at", ["rename", "_pull_pointers", "_download_checkpoints"])
def test_killed_fetch_leaves_nothing_that_looks_whole(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, ends_at: str
) -> None:
    class Killed(BaseException):
        """Stands for a kill: no code of ours runs after it."""

    def killed(*_: object) -> None:
        raise Killed

    remote.tag("v1.0.0")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path if ends_at == "rename" else fetching._Copies, ends_at, killed)
        remote.fetch()
    assert any((remote.place / "making").rglob("run.sh"))
    assert find_fetched(MODEL, remote.hub) is None
    assert remote.release() == "v1.0.0"
    assert not (remote.place / "making").exists()


def test_files_in_git_lfs_are_fetched_with_their_size_said(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    content = bytes(range(256)) * 10_000
    remote.track_lfs("model/checkpoints/deep/weights.bin", content)
    remote.tag("v1.0.0")
    assert (remote.fetch().path / "model/checkpoints/deep/weights.bin").read_bytes() == content
    assert f"fetching 1 Git LFS files of {MODEL}, 2.6 MB" in caplog.messages


def test_git_lfs_objects_that_do_not_fit_on_the_disk_are_refused(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.track_lfs("model/checkpoints/weights.bin", b"x" * 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 3_900_000))
    with pytest.raises(InfrastructureError, match=r"needs 4 MB, .* has 4 MB free; .*PRECALC_CACHE_DIR"):
        remote.fetch()


def test_git_lfs_object_that_the_remote_lacks_is_an_error(remote: Remote) -> None:
    remote.track_lfs("model/checkpoints/weights.bin", b"x" * 2_000)
    shutil.rmtree(remote.path / "lfs")
    with pytest.raises(ModelError, match=rf"{MODEL} cannot be fetched from .*: git lfs: ") as error:
        remote.fetch()
    assert is_models_fault(error.value)
    assert find_fetched(MODEL, remote.hub) is None


@pytest.fixture
def only_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with git, but without git-lfs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))


def test_git_lfs_is_needed_where_a_model_uses_it(remote: Remote, request: pytest.FixtureRequest) -> None:
    remote.track_lfs("mock.txt", b"x" * 2_000)
    remote.tag("v1.0.0")
    remote.track_lfs("model/checkpoints/weights.bin", b"x" * 2_000)
    remote.tag("v1.1.0")
    request.getfixturevalue("only_git")
    with pytest.raises(
        InfrastructureError, match=r"git-lfs is not on the PATH, .*model/checkpoints/weights\.bin: install"
    ):
        remote.fetch()
    assert remote.release(release="v1.0.0") == "v1.0.0"


def test_git_is_needed(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match=r"git is not on the PATH, .* PRECALC_MODELS_DIR"):
        remote.fetch()


def test_git_in_a_hook_is_not_led_to_the_hooks_repository(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.tag("v1.0.0")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of-a-hook"))
    assert remote.release() == "v1.0.0"
    assert not (tmp_path / "of-a-hook").exists()


def test_git_never_asks_for_a_password(tmp_path: Path) -> None:
    class Private(BaseHTTPRequestHandler):
        """Answers like GitHub for a missing or private repository."""

        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="GitHub"')
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Private)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with pytest.raises(UsageError, match=r"there is no repository http://.* that git can read"):
        fetch_model(MODEL, Settings(hub_url=f"http://127.0.0.1:{server.server_port}", cache_dir=tmp_path))
    server.shutdown()
    server.server_close()


def test_one_fetches_and_another_waits_for_it(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    remote.tag("v1.0.0")
    remote.place.mkdir(parents=True)
    with FileLock(remote.place / "lock"):
        threads = [Thread(target=remote.fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[0].join(1.0)
        assert caplog.messages == [f"waiting for another process that fetches {MODEL}"] * 2
    for thread in threads:
        thread.join()
    assert caplog.messages[2:] == [f"fetching {MODEL} v1.0.0 from {remote.hub.hub_url}/{MODEL}.git"]


@pytest.mark.slow
def test_checkpoints_come_by_the_real_eosvc(remote: Remote, aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = aws.client("s3", region_name="us-east-1")
    s3.create_bucket(Bucket="eosvc-models-public")
    (remote.work / "access.json").write_text('{"checkpoints": "public", "fit": "public"}')
    (remote.work / "model/framework/code/load.py").write_text("PATH = '../../checkpoints/weights.bin'")
    remote.commit()
    remote.tag("v1.0.0")
    folder = remote.fetch()  # eosvc has none yet, as for eos3b5e
    require_checkpoints(MODEL, folder.path)
    key = "model/checkpoints/deep/weights.bin"
    s3.put_object(Bucket="eosvc-models-public", Key=f"{MODEL}/{key}", Body=b"weights")
    remote.tag("v1.1.0")
    assert (remote.fetch(release="v1.1.0").path / key).read_bytes() == b"weights"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote.tag("v1.2.0")
    with pytest.raises(ModelError, match=rf"eosvc could not download the checkpoints of {MODEL}: .*S3 error"):
        remote.fetch(release="v1.2.0")
    assert not (remote.place / "v1.2.0").exists()

"""Fetching models from the hub: git at a release's tag, Git LFS objects, and the checkpoints that eosvc keeps.

A fetched release is a folder `models/MODEL/RELEASE/` of the cache: MODEL is the hub's id, RELEASE the tag, or
`commit-…` if the repository has no tags. It holds the model's folder, named like the model, and `fetched.json`, the
record of its origin. A fetch fills `models/MODEL/making/` and renames it when it is complete, so a killed fetch leaves
nothing that looks like a release, and the next one starts over.
"""

import logging
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit

from precalc.identifiers import check_model_id
from precalc_assets import processes
from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.model_metadata import ModelMetadata
from precalc_assets.models.checkpoints import find_pointers, keeps_checkpoints_in_eosvc
from precalc_assets.models.environment import disk_bytes, tool_program
from precalc_assets.models.folder import (
    FETCHED,
    METADATA,
    MOST_BYTES,
    RELEASE,
    Fetched,
    ModelFolder,
    parse_metadata,
    read_fetched,
    read_folder,
)
from precalc_assets.platform_errors import InfrastructureError, ModelError, UsageError
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

EOSVC_VERSION = "1.3.0"
"""The release whose commands, variables and messages this module relies on."""

_FETCH_SECONDS = 4 * 3600.0
"""Timeout of one command: checkpoints have gigabytes, and connections may be slow."""

_ASK_SECONDS = 120.0
"""Timeout for listing a repository's tags."""

_FRESH_SECONDS = 24 * 3600.0
"""How long an answer of the hub is reused: it changes a model a few times a year."""

_MAKING = "making"
"""The folder, beside the complete releases, in which one is made."""

_RELEASE = re.compile(RELEASE)
_REF = re.compile(r"^([0-9a-f]{40,64})\t(HEAD|refs/tags/(v\d+\.\d+\.\d+)(\^\{\})?)$", re.MULTILINE)

_NO_REPOSITORY = re.compile(
    r"not found|does not appear to be a git repository|does not exist|could not read Username|Authentication failed",
    re.IGNORECASE,
)
"""Git's messages for a missing or private repository, for which GitHub asks for a password."""

_NO_OBJECT = re.compile(r"does not exist|not found|missing object", re.IGNORECASE)
"""Git LFS's messages for an object that its server lacks."""

_GITS = r"GIT_(CONFIG|SSH|ASKPASS|SSL|HTTP|TRACE)\w*|SSH_AUTH_SOCK|XDG_CONFIG_HOME"
"""Variables that tell git how to reach a server, without those of a repository, which hooks have."""

_EOSVCS = r"AWS_\w+"
"""Variables of boto3, which eosvc uses: endpoint and credentials of its buckets."""

_NO_FILTERS = ("-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false")
"""Keeps a checkout from downloading LFS objects if Git LFS is installed for the user: `_pull_pointers` does."""


def fetch_model(model: str, settings: Settings, release: str = "") -> ModelFolder:
    """Return a model of the hub; fetch it unless the cache has it.

    `release` is a tag such as v1.0.1. The default is the newest release of the model, or of MAJOR 2 for `eos3b5e-v2`,
    looked up at most once a day; if the hub cannot be reached, the newest in the cache. Raises UsageError if the hub
    has no such model or release, ModelError if it is incomplete there, InfrastructureError if it cannot be fetched now.
    """
    copies = _Copies(model, settings)
    if release and not _of_version([release], copies.version):
        raise UsageError(f"{release!r} is not a release of {model}; write it as v1.0.1")
    with copies.locked():
        if release and copies.holds(release):
            return copies.read(release)
        if not release and (of_today := copies.of_today()):
            return copies.read(of_today)
        try:
            named = copies.ask(release)
        except (UsageError, ModelError) as error:
            named = "" if release else copies.newest()
            if not named:
                raise
            logger.warning("%s; using %s from the cache", error, named)
        return copies.read(named)


def find_fetched(model: str, settings: Settings) -> ModelFolder | None:
    """Return the newest release of a model in the cache, without asking the hub."""
    copies = _Copies(model, settings)
    named = copies.newest()
    return copies.read(named) if named else None


def remove_fetched(model: str, settings: Settings) -> int:
    """Remove a model's releases from the cache, those of MAJOR 2 for `eos3b5e-v2`; return the bytes freed."""
    if not (_fetched(settings) / model.partition("-v")[0]).exists():
        return 0
    copies = _Copies(model, settings)
    with copies.locked():
        return copies.remove()


def list_fetched(settings: Settings) -> list[str]:
    """Return the ids of the models in the cache, sorted."""
    return sorted(path.name for path in _fetched(settings).glob("eos*") if _Copies(path.name, settings).newest())


def describe_model(model: str, settings: Settings) -> tuple[str, ModelMetadata]:
    """Return a model's newest release and its metadata in the hub. Raises UsageError, ModelError as `fetch_model`."""
    copies = _Copies(model, settings)
    with copies.locked():
        return copies.choose("")[0], copies.look()


def _fetched(settings: Settings) -> Path:
    return settings.cache_dir / "models"


def _of_version(releases: list[str] | Mapping[str, str], version: str) -> list[str]:
    """Return the release tags, only those of a MAJOR version if one is given, oldest first."""
    matches = filter(None, map(_RELEASE.fullmatch, releases))
    numbers = sorted(tuple(map(int, match.groups())) for match in matches if version in ("", match[1]))
    return [f"v{major}.{minor}.{patch}" for major, minor, patch in numbers]


class _Copies:
    """The releases of one model in the cache."""

    def __init__(self, model: str, settings: Settings) -> None:
        check_model_id(model)
        self._model = model
        self._identifier, _, self.version = model.partition("-v")
        self.url = f"{settings.hub_url.rstrip('/')}/{self._identifier}"
        if self.url.startswith("file:") and not Path(unquote(urlsplit(self.url).path)).exists():
            self.url += ".git"  # a bare repository
        self._cache_dir = settings.cache_dir
        self._place = _fetched(settings) / self._identifier
        self._log = self._place / "log.txt"
        self._guard_lock = self._place / "guard.lock"
        self._today = self._place / f"today-{model}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for this model's fetches, after programs of a killed process have ended."""
        if not self._cache_dir.is_absolute():  # the user has no home folder
            raise UsageError("there is no home folder for fetched models; set PRECALC_CACHE_DIR")
        self._place.mkdir(parents=True, exist_ok=True)
        with processes.only_holder(self._place / "lock", self._guard_lock, f"fetches {self._identifier}"):
            yield

    def holds(self, release: str, *, if_damaged: bool = False) -> bool:
        """Return whether the cache has a release from this hub; for a damaged record, return `if_damaged`."""
        try:
            fetched = read_fetched(self._place / release / self._identifier)
        except ModelError:
            return if_damaged
        return fetched is not None and fetched.url == self.url

    def newest(self) -> str:
        """Return the newest matching release in the cache, or an empty string."""
        releases = sorted(filter(self.holds, self._names()), key=lambda name: (self._place / name).stat().st_mtime)
        tagged = _of_version(releases, self.version)
        return (tagged or ([] if self.version else releases) or [""])[-1]

    def remove(self) -> int:
        """Remove the matching releases, damaged ones too, and return the bytes freed."""
        freed = 0
        found = [name for name in self._names() if self.holds(name, if_damaged=True)]
        for named in _of_version(found, self.version) if self.version else found:
            (self._place / named / FETCHED).unlink()  # first, so that a kill leaves nothing that looks complete
            freed += disk_bytes(self._place / named)
            shutil.rmtree(self._place / named)
        return freed

    def _names(self) -> list[str]:
        return [path.parent.name for path in self._place.glob(f"*/{FETCHED}") if path.parent.name != _MAKING]

    def of_today(self) -> str:
        """Return the release that the hub named as newest today, or an empty string if it is not in the cache."""
        try:
            is_fresh = time.time() - self._today.stat().st_mtime < _FRESH_SECONDS
            named = read_foreign(self._today, MOST_BYTES).decode()
        except (FileNotFoundError, ForeignFileError, UnicodeDecodeError):
            return ""
        return named if is_fresh and named in self._names() and self.holds(named) else ""

    def ask(self, release: str) -> str:
        """Look up a release, or the newest, in the hub; fetch it unless the cache has it, and return its name.

        Raises UsageError if the hub does not have it, ModelError if it cannot be fetched.
        """
        named, commit = self.choose(release)
        if not self.holds(named):
            self._make(named, commit)
        if not release:
            self._today.write_text(named, encoding="utf-8")
        return named

    def choose(self, release: str) -> tuple[str, str]:
        """Return a release of the hub, or the newest, and its commit. Raises UsageError, ModelError as above."""
        if not shutil.which("git"):
            raise InfrastructureError(
                f"git is not on the PATH, and fetching {self._identifier} needs it: install git, or put the model's "
                "folder into one that PRECALC_MODELS_DIR names"
            )
        refs = self._list_refs()
        tags = _of_version(refs, self.version)
        if not tags and not release and not self.version:
            return f"commit-{refs['HEAD'][:12]}", refs["HEAD"]
        named = release or (tags[-1] if tags else f"v{self.version}")
        if named not in tags:
            there = ", ".join(_of_version(refs, "")) or "none"
            raise UsageError(f"{self.url} has no release {named}; its releases: {there}")
        return named, refs[named]

    def look(self) -> ModelMetadata:
        """Return the metadata on the hub's default branch. Raises ModelError."""
        with self._making() as folder:
            limited = ("--depth=1", "--filter=blob:limit=1m", "--no-checkout")
            self._git("clone", "--quiet", *limited, self.url, folder)
            found = [self._metadata_at("HEAD", folder, name) for name in METADATA]
        metadata = next(filter(None, found), None)
        if metadata is None:
            raise ModelError(f"{self.url} has no readable metadata")
        return metadata

    def read(self, release: str) -> ModelFolder:
        """Return the model's folder of a release, under the requested id."""
        return replace(read_folder(self._place / release / self._identifier), model=self._model)

    def _list_refs(self) -> dict[str, str]:
        """Return the commits of the remote's release tags and of its HEAD. Raises UsageError, ModelError as above."""
        try:
            said = self._git("ls-remote", self.url, "HEAD", "refs/tags/v*", timeout=_ASK_SECONDS)
        except ModelError as error:
            if _NO_REPOSITORY.search(processes.read_log(self._log)):
                raise UsageError(f"there is no repository {self.url} (PRECALC_HUB_URL) that git can read") from None
            raise InfrastructureError(f"{error}; is this machine offline?") from None
        # An annotated tag has two lines; the second names the commit.
        refs = {match[3] or match[2]: match[1] for match in _REF.finditer(said)}
        if not refs:
            raise UsageError(f"the repository {self.url} is empty")
        return refs

    def _make(self, release: str, commit: str) -> None:
        logger.info("fetching %s %s from %s", self._identifier, release, self.url)
        with self._making() as folder:
            self._check_out(folder, release, commit)
            self._pull_pointers(folder)
            day = self._git("-C", folder, "show", "--no-patch", "--format=%cs", "refs/precalc/release").strip()
            shutil.rmtree(folder / ".git")
            self._download_checkpoints(folder)
            fetched = Fetched(release=release, url=self.url, commit=commit, committed_on=date.fromisoformat(day))
            (folder.parent / FETCHED).write_text(fetched.model_dump_json(), encoding="utf-8")
            shutil.rmtree(self._place / release, ignore_errors=True)  # another hub's, or damaged
            folder.parent.rename(self._place / release)

    @contextmanager
    def _making(self) -> Iterator[Path]:
        """Make an empty folder for the model beside the releases; remove it at the end unless it was renamed."""
        making = self._place / _MAKING
        shutil.rmtree(making, ignore_errors=True)  # a killed process left it
        (making / self._identifier).mkdir(parents=True)
        try:
            yield making / self._identifier
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _check_out(self, folder: Path, release: str, commit: str) -> None:
        """Check out a commit, with the metadata that the hub wrote for this release afterwards.

        The hub's CI packages a model, then writes the release, the date and the sizes to the default branch.
        """
        refs = (f"{commit}:refs/precalc/release", "HEAD:refs/precalc/newest")
        self._git("init", "--quiet", folder)
        self._git("-C", folder, "remote", "add", "origin", self.url)
        self._git("-C", folder, "fetch", "--quiet", "--depth=1", "--no-tags", "origin", *refs)
        self._git("-C", folder, *_NO_FILTERS, "checkout", "--quiet", "--detach", "refs/precalc/release")
        for name in METADATA:
            newest = self._metadata_at("refs/precalc/newest", folder, name)
            if newest and newest.release == release and (folder / name).is_file():
                (folder / ".git" / name).replace(folder / name)

    def _metadata_at(self, ref: str, folder: Path, name: str) -> ModelMetadata | None:
        """Copy a commit's metadata file into `.git/` and read it; None if it is missing or unreadable."""
        path = folder / ".git" / name
        try:
            path.write_text(self._git("-C", folder, "show", f"{ref}:{name}"), encoding="utf-8")
            return parse_metadata(path)
        except ModelError:
            return None

    def _pull_pointers(self, folder: Path) -> None:
        pointers = find_pointers(folder / "model")  # the hub's template has only a mock file elsewhere
        if not pointers:
            return
        size = sum(pointers.values())
        logger.info("fetching %d Git LFS files of %s, %.1f MB", len(pointers), self._identifier, size / 1e6)
        # Git LFS keeps a second copy in its cache.
        processes.require_room(folder, 2 * size / 1e6, f"the fetch of {self._identifier}", "set PRECALC_CACHE_DIR")
        try:
            self._git("lfs", "version")
        except ModelError:
            raise InfrastructureError(
                f"git-lfs is not on the PATH, and {self._identifier} keeps {len(pointers)} files in Git LFS, such as "
                f"{next(iter(pointers)).relative_to(folder)}: install git-lfs"
            ) from None
        self._git("-C", folder, "lfs", "install", "--local", "--skip-repo")
        self._git("-C", folder, "lfs", "pull", "--include=model/**")

    def _download_checkpoints(self, folder: Path) -> None:
        if not keeps_checkpoints_in_eosvc(folder):
            return
        program = tool_program("eosvc", EOSVC_VERSION, self._cache_dir)
        logger.info("asking eosvc for the checkpoints of %s", self._identifier)
        variables = {**self._variables(_EOSVCS), "EVC_REPO_NAME": self._identifier, "COLUMNS": "1000"}
        command = [str(program), "download", "--path", "model/checkpoints"]
        code = self._run(command, variables, folder, _FETCH_SECONDS)
        # Also printed for models that need no checkpoints.
        if code and "Nothing found at s3://" not in processes.read_log(self._log):
            raise InfrastructureError(
                f"eosvc could not download the checkpoints of {self._identifier}: {processes.last_line(self._log)} "
                f"(full log: {self._log})"
            )

    def _git(self, *arguments: str | Path, timeout: float = _FETCH_SECONDS) -> str:
        """Run git and return its output. Raises InfrastructureError, or ModelError, with git's message."""
        variables = {**self._variables(_GITS), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        variables.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        command = ["git", *map(str, arguments)]
        code = self._run(command, variables, self._place, timeout)
        if code:
            verb = next(word for word in command[1:] if word.isalpha() or word == "ls-remote")
            said = processes.read_log(self._log)
            reason = next((line for line in said.splitlines() if line.startswith("fatal: ")), "")
            error = ModelError if _NO_OBJECT.search(said) else InfrastructureError
            raise error(
                f"{self._identifier} cannot be fetched from {self.url}: git {verb}: "
                f"{processes.printable(reason) or processes.last_line(self._log)}"
            )
        return processes.read_log(self._log)

    def _run(self, command: list[str], variables: Mapping[str, str], cwd: Path, timeout: float) -> int:
        try:
            return processes.run_guarded(
                command, env=variables, cwd=cwd, log=self._log, lock=self._guard_lock, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"{self._identifier} cannot be fetched from {self.url}: {command[0]} timed out after {timeout:g} s"
            ) from None

    def _variables(self, own: str) -> dict[str, str]:
        """Return a program's variables, with the user's HOME for its configuration."""
        return processes.clean_variables(processes.find_home() or self._place / "home", own=own)

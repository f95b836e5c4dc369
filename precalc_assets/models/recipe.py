"""A model's recipe: its `Dockerfile` or `install.yml`, parsed without running any of it.

If a folder has both, the Dockerfile counts, as for the hub's packer (ersilia-pack, `packer.py`). `environment` makes
an environment from a recipe.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from string import Template

from precalc_assets.foreign_files import ForeignFileError, read_foreign
from precalc_assets.models.folder import MOST_BYTES, read_fields
from precalc_assets.platform_errors import ModelError

_LONGEST_LINE = 1 << 15
"""Characters of a command: splitting one into words takes time in the square of its length."""

DEFAULT_CHANNEL = "conda-forge"
"""The conda channel if a recipe names none: the one that most of the hub's recipes name."""


@dataclass(frozen=True, slots=True)
class PipInstall:
    """One `pip install`: requirements and options, in order. Paths among them are relative to the model's folder."""

    arguments: tuple[str, ...]
    line: str


@dataclass(frozen=True, slots=True)
class CondaInstall:
    """One `conda install`: match specs in conda's syntax (`openbabel=3.1.1`), and channels by priority."""

    specs: tuple[str, ...]
    channels: tuple[str, ...]
    line: str


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """Any other command; bash runs it in the environment."""

    command: str
    line: str


Step = PipInstall | CondaInstall | ShellCommand


@dataclass(frozen=True, slots=True)
class Recipe:
    """A Python version (`3.10`) and the steps that fill a model's environment, in order.

    `system_packages` are those that the recipe installs by apt, which the platform does not install. `warnings` name
    what may differ between machines or days. Each step has its `line` of the `source`, for messages.
    """

    source: str
    python: str
    steps: tuple[Step, ...]
    system_packages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the Python version and the steps, independent of how the recipe writes them."""
        # All fields of a step but the last, its line.
        steps = [(type(step).__name__, *astuple(step)[:-1]) for step in self.steps]
        return hashlib.sha256(json.dumps([self.python, steps]).encode()).hexdigest()


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a model's folder. Raises ModelError for a missing or unsupported one."""
    found = [name for name in ("Dockerfile", "install.yml") if (folder / name).is_file()]
    if not found:
        raise ModelError(
            f"{folder} has neither Dockerfile nor install.yml; add one that names the Python version and the packages"
        )
    path = folder / found[0]
    reader = _Reader(path)
    python = (_read_dockerfile if found[0] == "Dockerfile" else _read_install_yml)(path, reader)
    if len(found) > 1:
        reader.warnings.append("the Dockerfile is used and the install.yml ignored, as by the hub's packer")
    if reader.system_packages:
        packages = " ".join(reader.system_packages)
        reader.warnings.append(f"the recipe installs system packages, which must be on this machine: {packages}")
    return Recipe(found[0], python, tuple(reader.steps), tuple(reader.system_packages), tuple(reader.warnings))


def _read_dockerfile(path: Path, reader: "_Reader") -> str:
    """Read the first stage whose image names a Python version: `FROM bentoml/model-server:0.11.0-py38`."""
    python = ""
    variables: dict[str, str] = {}
    try:
        text = read_foreign(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ForeignFileError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    for word, rest in _instructions(text):
        if word == "FROM":
            if python:
                break
            named = _IMAGE_PYTHON.search(rest)
            python = f"3.{int(named['minor'])}" if named else ""
            reader.steps.clear()
        elif word in ("ENV", "ARG"):
            variables |= _assignments(rest)
        elif word == "RUN":
            if rest.count("$") * max(map(len, variables.values()), default=0) > MOST_BYTES:
                raise ModelError(f"{path} fills variables into a line of more than {MOST_BYTES:,} characters")
            reader.read_shell(Template(rest).safe_substitute(variables))
    if not python:
        raise ModelError(
            f"{path} has no FROM line that names a Python version, such as bentoml/model-server:0.11.0-py310"
        )
    return python


def _read_install_yml(path: Path, reader: "_Reader") -> str:
    content = read_fields(path)
    if not isinstance(content, dict) or not isinstance(content.get("python"), str):
        raise ModelError(f'{path} names no Python version; add one, such as `python: "3.10"`')
    match = _PYTHON.fullmatch(content["python"].strip())
    if not match:
        raise ModelError(f"{path}: {content['python']!r} is not a Python version such as 3.10")
    commands = content.get("commands", [])
    if not isinstance(commands, list):
        raise ModelError(f"{path}: commands must be a list of lists such as [pip, rdkit, 2025.3.1] or of shell lines")
    for command in commands:
        if isinstance(command, str):
            reader.read_shell(command)
        elif isinstance(command, list) and all(isinstance(word, str) for word in command):
            reader.read_list([word.strip() for word in command])
        else:
            raise ModelError(f"{path}: {command!r} is neither a list of words nor a shell line")
    return match["version"]


class _Reader:
    """Collects the steps of a recipe from its lines."""

    def __init__(self, path: Path) -> None:
        self.steps: list[Step] = []
        self.system_packages: list[str] = []
        self.warnings: list[str] = []
        self._path = path

    def read_list(self, words: Sequence[str]) -> None:
        """Read a command of install.yml: ["pip", "rdkit", "2025.3.1"], ["conda", "pkg", "1.0", "channel"]."""
        line = json.dumps(words)
        self._require_short(line)
        program, *rest = words or [""]
        # Some recipes write two options as one word.
        rest = [part for word in rest for part in (shlex.split(word) if " " in word else [word])]
        if program in ("pip", "conda") and rest and rest[0] != "install":
            package, version, *options = *rest[:1], *(rest[1:2] or [""]), *rest[2:]
            if program == "pip":
                self._pip(_pip_words(package, version, options), line)
            else:
                channels = [word for word in options if not word.startswith("-")]
                spec = f"{package}={version}" if version else package
                self._conda(["install", *(f"--channel={channel}" for channel in channels), spec], line)
        elif any(words):
            self.read_shell(" ".join(words) if len(words) == 1 else shlex.join([program, *rest]))

    def read_shell(self, text: str) -> None:
        """Read a shell line; a line that is more than a sequence of commands becomes one step for bash."""
        self._require_short(text)
        commands = _split_shell(text)
        split = [_words(command) for command in commands or []]
        if commands is None or any(words is None or (words and _STATEFUL.fullmatch(words[0])) for words in split):
            self._shell(text.strip(), text)
            return
        for command, words in zip(commands, split, strict=True):
            self._read_command(command, words or [])

    def _read_command(self, command: str, words: list[str]) -> None:
        program, rest = _program(words)
        if program == "pip" and rest[:1] == ["install"]:
            self._pip(rest[1:], command)
        elif program == "conda":
            self._conda(rest, command)
        elif program in ("apt", "apt-get"):
            names = [word for word in rest if not word.startswith("-")]
            self.system_packages += names[1:] if names[:1] == ["install"] else []
        elif words and program not in ("true", "set") and not _CLEANUP.match(command):
            self._shell(command, command)

    def _pip(self, words: Sequence[str], line: str) -> None:
        arguments: list[str] = []
        unpinned = []
        rest = iter(words)
        for word in rest:
            option, equals, value = word.partition("=")
            if not word.startswith("-"):
                arguments.append(word)
                if not _PINNED.search(word):
                    unpinned.append(word)
            elif option in _PIP_WITH_VALUE:
                arguments += [_PIP_WITH_VALUE[option], value if equals else next(rest, "")]
            elif option in _PIP_FLAGS:
                arguments.append(_PIP_FLAGS[option])
            elif not _PIP_IGNORED.fullmatch(word):
                self._shell(line, line)  # an option that only pip knows
                return
        if unpinned:
            self._warn_unpinned(unpinned, line)
        if arguments:
            self.steps.append(PipInstall(tuple(arguments), line))

    def _conda(self, words: Sequence[str], line: str) -> None:
        verb, *rest = [word for word in words if not _CONDA_IGNORED.fullmatch(word)] or [""]
        if verb == "clean":
            return
        if verb != "install":
            raise self._refused(line, f"`conda {verb}` is not supported, only `conda install`")
        channels: list[str] = []
        specs: list[str] = []
        words_left = iter(rest)
        for word in words_left:
            option, equals, value = word.partition("=")
            if option in ("-c", "--channel"):
                channels.append(value if equals else next(words_left, ""))
            elif option in ("-n", "--name", "-p", "--prefix"):
                _ = equals or next(words_left, "")
            elif word.startswith("-"):
                raise self._refused(line, f"conda's option {word} is not supported")
            else:
                specs.append(word)
        if not specs:
            raise self._refused(line, "it names no package")
        if not channels:
            self.warnings.append(f"no channel for {' '.join(specs)} in {line!r}; {DEFAULT_CHANNEL} is used")
        if unpinned := [spec for spec in specs if "=" not in spec]:
            self._warn_unpinned(unpinned, line)
        self.steps.append(CondaInstall(tuple(specs), tuple(channels) or (DEFAULT_CHANNEL,), line))

    def _shell(self, command: str, line: str) -> None:
        if needed := _UNSUPPORTED.search(command):
            raise self._refused(line, f"it calls `{needed['program']}`, which this backend does not run")
        self.steps.append(ShellCommand(command, line))

    def _require_short(self, line: str) -> None:
        if len(line) > _LONGEST_LINE:
            raise self._refused(line, f"it has {len(line):,} characters, and at most {_LONGEST_LINE:,} are read")

    def _warn_unpinned(self, packages: Sequence[str], line: str) -> None:
        self.warnings.append(
            f"no version for {' '.join(packages)} in {line!r}; the newest as of the packaging date is used"
        )

    def _refused(self, line: str, why: str) -> ModelError:
        shown = " ".join(line.split())[:200]
        return ModelError(f"{self._path}: {shown!r} cannot be installed: {why}; set PRECALC_MODEL_BACKEND=ersilia")


def _pip_words(package: str, version: str, options: Sequence[str]) -> list[str]:
    if not version or version.startswith("-") or "git+" in package or package.startswith("-"):
        return [package, *([version] if version else []), *options]
    return [f"{package}{version}" if version[0] in "<>=!~" else f"{package}=={version}", *options]


_IMAGE_PYTHON = re.compile(r"\bpy(?:thon)?[:-]?3\.?(?P<minor>\d{1,2})(?!\d)")
"""The Python version of a base image: bentoml/model-server:0.11.0-py38, python:3.10-slim."""

_PYTHON = re.compile(r"(?:python)?(?P<version>3\.\d{1,2}(?:\.\d+)?)")

_PINNED = re.compile(r"[=<>~@]|^git\+|://|^\.|/")
"""The part of a requirement that pins it: a version, URL or path."""

_PIP_WITH_VALUE = {
    "-i": "--index-url", "--index-url": "--index-url", "--extra-index-url": "--extra-index-url",
    "-f": "--find-links", "--find-links": "--find-links", "-r": "--requirements", "--requirement": "--requirements",
    "-c": "--constraints", "--constraint": "--constraints", "-e": "--editable", "--editable": "--editable",
    "--no-binary": "--no-binary", "--only-binary": "--only-binary", "--trusted-host": "--allow-insecure-host",
}  # fmt: skip
_PIP_FLAGS = {
    "-U": "--upgrade", "--upgrade": "--upgrade", "--no-deps": "--no-deps", "--pre": "--prerelease=allow",
    "--no-build-isolation": "--no-build-isolation", "--no-index": "--no-index", "--force-reinstall": "--reinstall",
}  # fmt: skip
"""Options of `pip install` and uv's names for them (`uv pip install --help`)."""

_PIP_IGNORED = re.compile(
    r"-[qvIy]|--(quiet|verbose|no-cache-dir|no-input|user|ignore-installed|prefer-binary|disable-pip-version-check"
    r"|no-warn-script-location|break-system-packages|(root-user-action|timeout|default-timeout|retries|progress-bar)=.*)"
)
_CONDA_IGNORED = re.compile(r"-[yqv]|--(yes|quiet|verbose|freeze-installed|override-channels|no-update-deps)")
"""Options that do not change what is installed."""

_UNSUPPORTED = re.compile(r"(?:^|[;&|(\s])(?P<program>ersilia|conda-pack|conda-unpack|docker|sudo)\s")

_CLEANUP = re.compile(r"rm\s.*/var/(lib/apt|cache)|pip\d? cache ")
"""Commands that only shrink an image, and would remove files of the user's machine."""

_SHELL_TOKEN = re.compile(
    r"""(?P<text>'[^']*'|"(?:\\.|[^"\\])*"|\\.)"""
    r"""|(?P<end>&&|;|\n)|(?P<comment>(?<!\S)\#[^\n]*)|(?P<more>[|&()`]|[<>](?!=?\d))|(?P<other>.)""",
    re.DOTALL,
)


def _split_shell(text: str) -> list[str] | None:
    """Return the commands of a line, joined by `&&`, `;` or line ends; None if it has other shell syntax.

    `>` and `<` before a version are part of a requirement, as the recipe's author meant.
    """
    commands: list[list[str]] = [[]]
    for token in _SHELL_TOKEN.finditer(re.sub(r"\\\r?\n", " ", text)):
        if token["more"]:
            return None
        if token["end"]:
            commands.append([])
        elif not token["comment"]:
            commands[-1].append(token[0])
    return [command for pieces in commands if (command := "".join(pieces).strip())]


def _words(command: str) -> list[str] | None:
    try:
        return shlex.split(command)
    except ValueError:  # an unclosed quote: bash reports it
        return None


_STATEFUL = re.compile(r"(?s)cd|export|source|\.|if|for|while|case|until|function|eval|exec|alias|\{|[A-Za-z_]\w*=.*")
"""The first word of a command that affects those after it, so that all must run in one shell."""


def _program(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the program that a command calls, with `pip` and `conda` for their aliases, and its arguments."""
    name, *rest = words or [""]
    name = name.rpartition("/")[2]
    if re.fullmatch(r"python[\d.]*", name) and rest[:2] == ["-m", "pip"]:
        return "pip", rest[2:]
    if name == "uv" and rest[:1] == ["pip"]:
        return "pip", rest[1:]
    if re.fullmatch(r"pip[\d.]*", name):
        return "pip", rest
    return ("conda" if name in ("mamba", "micromamba") else name), rest


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield a Dockerfile's instructions: the keyword in capitals, and the rest with continued lines joined.

    Like Docker, skip comments among continued lines; a list of words (RUN ["pip", "install", "x"]) becomes a line.
    """
    held = ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        held += line.removesuffix("\\")
        if line.endswith("\\"):
            held += " "
            continue
        word, _, rest = held.partition(" ")
        held = ""
        rest = re.sub(r"^(--\w[\w-]*(=\S+)?\s+)+", "", rest.strip()) if word.upper() == "RUN" else rest.strip()
        yield word.upper(), _joined(rest)


def _joined(rest: str) -> str:
    if not rest.startswith("["):
        return rest
    try:
        words = json.loads(rest)
    except ValueError:
        return rest
    return shlex.join(map(str, words)) if isinstance(words, list) else rest


def _assignments(rest: str) -> dict[str, str]:
    """Return the variables that `ENV A=1 B=2`, `ENV A 1` or `ARG A=1` sets."""
    words = _words(rest) or []
    if len(words) > 1 and "=" not in words[0]:
        return {words[0]: " ".join(words[1:])}
    return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}

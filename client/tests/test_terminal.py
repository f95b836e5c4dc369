"""Texts of others never reach the terminal raw, whatever command prints them."""

import ast
import io
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fake_api import ANSWERS, DESCRIPTION, MODEL, SUMMARY, URL, fake_api, refusing_api
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import precalc.cli.terminal
from precalc import PrecalcError
from precalc.api_keys import normal_url
from precalc.cli import served_models, show_log
from precalc.cli.terminal import PlainConsole, data_stream, plain, say, show
from precalc.errors import UsageError
from precalc.remote import RemoteSource

EVIL = "v1\x1b[2J\x1b]0;title\x07\r\x9b31m\x7f\u202e\ud800\x00"
SHOWN = r"v1\u001b[2J\u001b]0;title\u0007\u000d\u009b31m\u007f\u202e\ud800\u0000"


def is_plain(text: str) -> bool:
    return all(character in "\n\t" or character.isprintable() for character in text)


def test_control_characters_are_spelled_out() -> None:
    assert plain(EVIL) == SHOWN
    assert plain("naïve ☃ 🧪\tline\n") == "naïve ☃ 🧪\tline\n"


@given(st.text())
def test_any_text_is_harmless_and_can_be_encoded(text: str) -> None:
    shown = plain(text)
    assert not set(shown) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    shown.encode()
    assert plain(shown) == shown


def test_all_ways_of_printing_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show(EVIL)
    say(EVIL)
    table = Table("column")
    table.add_row(EVIL)
    PlainConsole().print(table)
    PlainConsole(markup=True).print(f"[bold]{EVIL}[/]")
    show_log("precalc.test")
    logging.getLogger("precalc.test").warning("%s", EVIL.replace("\ud800", ""))  # pytest stores what is logged
    printed = "".join(capsys.readouterr())
    assert is_plain(printed)
    assert printed.count("v1") == 5


def test_a_terminal_is_sent_no_raw_data(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    data_stream().write(f"key,{EVIL[:-2]}\n".encode() + b"\xff\n")
    assert sys.stdout.getvalue() == f"key,{plain(EVIL[:-2])}\n\\xff\n"


def test_models_and_describe_show_any_texts_of_an_api(monkeypatch, capsys) -> None:
    evil = EVIL.replace("\ud800", "")
    column = {"name": evil, "type": "float", "direction": evil, "description": evil}
    words = ("title", "description", "license", "publication", "updated")
    described = DESCRIPTION | dict.fromkeys(words, evil) | {"releases": [evil], "varying": [evil], "columns": [column]}
    summary = SUMMARY | {"title": evil, "releases": [evil], "model": evil}
    answers = ANSWERS | {"/v1/models": {"models": [summary]}, f"/v1/models/{MODEL}": described}
    monkeypatch.setattr(served_models, "open_source", lambda api: fake_api(answers))
    served_models.list_models(None)
    for column_name in (None, evil):
        served_models.describe(MODEL, column_name, "", None)
    assert is_plain("".join(capsys.readouterr()))


def test_an_api_with_a_long_message_of_many_lines_gets_one_line() -> None:
    source = refusing_api(404, {"error": {"code": "x", "message": "a\nb " * 10_000}})
    with pytest.raises(PrecalcError) as error:
        source.models()
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


URLS = [
    "http://127.0.0.1:1\r\nx-key: 1",
    "http://127.0.0.1/\x1b[2J",
    "http://a b",
    "http://[::1",
    f"http://{'a' * 64}.example",
    "http://xn--",
    "http://host:99999",
    f"http://{'x ' * 1_000}",
    "http://\ud800",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_cannot_be_is_one_line(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not the URL of an API.*; write https://host/path$") as error:
        normal_url(url)
    assert is_plain(str(error.value))
    assert len(str(error.value)) < 300


@given(st.text(alphabet=st.sampled_from("ab.:/[]%@-\\ \t\r\n\x1bäß٣\u200b。０\ud83d#?"), max_size=12))
def test_any_url_is_refused_or_can_be_asked(text: str) -> None:
    try:
        url = normal_url(f"http://{text}")
    except UsageError as error:
        assert is_plain(str(error))
        return
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"models": []}))
    assert RemoteSource(url, transport=transport).models() == []


def test_a_real_terminal_gets_the_message_of_an_error(tmp_path: Path) -> None:
    """By a terminal of its own: the error is about a file whose name has escape codes."""
    controller, terminal = pty.openpty()
    name = "evil\x1b[2J.xls"
    (tmp_path / name).touch()
    with subprocess.Popen(
        [sys.executable, "-c", "from precalc.cli import main; main()", "get", MODEL, "-i", name, "--api", URL],
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
    assert process.returncode == 1
    assert os.read(controller, 65_536).decode() == (
        r"error: evil\u001b[2J.xls: the file is empty; it needs one molecule per line" + "\r\n"
    )


def test_no_module_prints_past_it() -> None:
    """What ruff also checks, for the client alone."""
    for path in Path(precalc.__file__).parent.rglob("*.py"):
        if path.name in ("terminal.py", "smiles_keys.py"):
            continue
        called = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "print" not in called, path
        assert "Console" not in called, path

"""Builds the documents' site: pages are staged, references are filled in, and Zensical makes HTML of them.

`python docs/build_site.py [FOLDER]` builds into FOLDER (default: `site`). The pages, listed in `zensical.toml`, keep
their places, so links between them work in the repository and on the site. A warning of Zensical is a failure.
What the pages say does not belong here; tables that follow from the code do.
"""

import ast
import inspect
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import typer

from precalc.cli.app import app
from precalc_assets.cli.platform_commands import add_commands
from precalc_assets.settings import Settings

_ROOT = Path(__file__).parents[1]
_CONFIG = _ROOT / "docs" / "zensical.toml"


def main() -> None:
    """Build the site. Exits with Zensical's code if it fails."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else _ROOT / "site")
    pages = site / "pages"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(_ROOT / "docs" / "images", pages / "docs" / "images")
    shutil.copy(_CONFIG, site)
    shutil.copy(_ROOT / "LICENSE", pages)
    shutil.copy(_ROOT / "docs" / "site.css", pages / "docs")
    for name in _page_names(tomllib.loads(_CONFIG.read_text())["project"]["nav"]):
        page = pages / name
        page.parent.mkdir(parents=True, exist_ok=True)
        text = (_ROOT / name).read_text()
        for marker, generate in {"<!-- commands -->": _commands, "<!-- settings -->": _settings}.items():
            if marker in text:
                text = text.replace(marker, "\n".join(generate()))
        page.write_text(text)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(site / _CONFIG.name)]
    sys.exit(subprocess.run(build, check=False).returncode)


def _page_names(nav: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the pages of a navigation tree."""
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else _page_names(target)


def _settings() -> Iterator[str]:
    """Yield a table of all settings, in the order of their class."""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    [body] = [node.body for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef)]
    schemas = Settings.model_json_schema()["properties"]
    for field, doc in pairwise(body):
        match field, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                cells = [f"`PRECALC_{name.upper()}`", _default(field.value), f"{text} {_limits(schemas[name])}"]
                yield f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in cells)} |"


def _limits(schema: dict[str, Any]) -> str:
    """Return which values a setting takes, if not every value of its type."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    bounds = [f"{sign} {schema[key]:,}" for key, sign in signs.items() if key in schema]
    choices = [" or ".join(f"`{choice}`" for choice in schema["enum"])] if "enum" in schema else bounds
    return f"({', '.join(choices)})" if choices else ""


def _default(value: ast.expr | None) -> str:
    """Return a default as it stands in the class: a literal, what a type is made of, or an expression."""
    match value:
        case ast.Call(args=[ast.Constant(value=literal)]) | ast.Constant(value=literal):
            text = str(literal).lower() if isinstance(literal, bool) else str(literal)
        case ast.Tuple(elts=[]) | ast.Dict(keys=[]) | None:
            text = ""
        case _:
            text = ast.unparse(value)
    return f"`{text}`" if text else ""


def _commands() -> Iterator[str]:
    """Yield a section for each command: its help, its usage, and a table of its arguments and options."""
    add_commands(app)
    for context in _leaves(click.Context(typer.main.get_command(app), info_name="precalc")):
        yield f"\n## {context.command_path}\n\n{context.command.help}\n"
        yield f"```\n{' '.join(context.command.get_usage(context).split()).removeprefix('Usage: ')}\n```\n"
        records = [parameter.get_help_record(context) for parameter in context.command.params]
        rows = [f"| `{record[0].strip()}` | {record[1].replace('|', '&#124;')} |" for record in records if record]
        yield from ["| argument or option | meaning |", "|---|---|", *rows] if rows else []


def _leaves(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of each command that does something itself, beneath a group."""
    group = context.command
    if not isinstance(group, click.Group):
        yield context
        return
    if group.invoke_without_command and context.parent:
        yield context
    for name in group.list_commands(context):
        if command := group.get_command(context, name):
            yield from _leaves(click.Context(command, info_name=name, parent=context))


if __name__ == "__main__":
    main()

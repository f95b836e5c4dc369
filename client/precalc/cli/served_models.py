"""`precalc models` and `precalc describe`: the precalculated models of an API or of the platform's tables."""

from contextlib import closing

from rich.console import Console
from rich.table import Table

from precalc.plugins import open_source
from precalc.source import ModelInfo


def list_models(api: str | None) -> None:
    """Print a table of the models that have predictions."""
    table = models_table()
    with closing(open_source(api)) as source:
        for model in source.models():
            table.add_row(
                model.model,
                model.title or "not published",
                _number(model.n_columns),
                ", ".join(model.releases or ()) or "–",
                "–" if model.shards is None else f"{model.shards}/{model.n_shards}",
                _number(model.molecules),
                yes_or_no(model.deterministic),
            )
    Console(markup=False, emoji=False).print(table)


def describe(model: str, api: str | None) -> None:
    """Print a model's facts, citation and columns."""
    with closing(open_source(api)) as source:
        info = source.open(model).info
    print(f"{model}: {info.title}" if info.title else f"{model}, not published")
    if info.description:
        print(info.description)
    for name, said in _facts(info).items():
        print(f"{name:<15}{said}")
    print()
    columns = Table("column", "type", "direction", "description", box=None, pad_edge=False)
    for column in info.columns:
        columns.add_row(column.name, column.type, column.direction, column.description)
    Console(markup=False, emoji=False).print(columns)


def _facts(info: ModelInfo) -> dict[str, str]:
    varies = f"no: runs differ in {info.variation}" if info.deterministic is False else yes_or_no(info.deterministic)
    return {
        "release": ", ".join(info.releases) or "–",
        "shards": f"{info.shards}/{info.n_shards}",
        "molecules": f"{info.molecules:,}",
        "quarantined": _number(info.quarantined),
        "deterministic": varies,
        "last load": info.updated or "–",
        "license": info.license or "–",
        "publication": info.publication or "–",
        "cite as": info.citation,
    }


def models_table() -> Table:
    """Return the table of models without rows."""
    names = ("model", "title", "columns", "release", "shards", "molecules", "deterministic")
    return Table(*names, box=None, pad_edge=False)


def yes_or_no(answer: bool | None) -> str:
    """Return the answer as a word, or a dash if it is unknown."""
    return "–" if answer is None else "yes" if answer else "no"


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"

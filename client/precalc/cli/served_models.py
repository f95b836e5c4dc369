"""`precalc models` and `precalc describe`: the precalculated models of an API or of the platform's tables."""

from contextlib import closing
from itertools import pairwise

from rich.table import Table

from precalc.cli.terminal import PlainConsole, show
from precalc.errors import UsageError
from precalc.expressions import make_question, write_name
from precalc.plugins import open_source
from precalc.source import Column, Distribution, ModelInfo, describe_cost

_WIDTH = 40
"""Characters of the longest bar."""


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
    PlainConsole().print(table)


def describe(model: str, column: str | None, where: str, api: str | None) -> None:
    """Print a model's facts, citation and columns, or what there is to say of one column.

    `where` chooses the molecules whose values the histogram of the column counts.
    """
    with closing(open_source(api)) as source:
        info = source.open(model, None if column is None else [column]).info
        if column is None:
            if where:
                raise UsageError("--where narrows the histogram of a column; name a column too")
            _describe_model(info)
            return
        _describe_column(info, info.columns[0])
        found: Distribution | None
        if not where:
            found = source.distributions(model, [column]).get(column)
        else:
            name = f"{model}.{column}"
            answer = source.screen(make_question(where, select=write_name(name), limit=0, distributions=[name]))
            found = answer.distributions[0]
    show()
    if found is None:
        show("no distribution is published; publish the model's card again, or name molecules with --where")
    else:
        _draw(found)


def _describe_column(info: ModelInfo, column: Column) -> None:
    show(f"{info.model}, {column.name}: {column.description or 'no description'}")
    is_same = None if info.deterministic is None else column.name not in info.varying
    facts = {"type": column.type, "direction": column.direction or "–", "deterministic": yes_or_no(is_same)}
    _show_facts({**facts, "cite as": info.citation})


def _draw(distribution: Distribution) -> None:
    """Print a bar for each value, or for each range of values: the first end belongs to it."""
    counts = distribution.counts
    bars = Table("value", "molecules", "", box=None, pad_edge=False)
    for label, count in zip(_labels(distribution), counts, strict=True):
        bars.add_row(label, f"{count:,}", "█" * round(_WIDTH * count / max(*counts, 1)) or ("▏" if count else ""))
    for label, count in (("other", distribution.others), ("no value", distribution.nulls)):
        if count:
            bars.add_row(label, f"{count:,}")
    PlainConsole().print(bars)
    if distribution.minimum is not None:
        ends = (distribution.minimum, distribution.median, distribution.maximum)
        show("least {:.6g}, median {:.6g}, most {:.6g}".format(*ends))


def _labels(distribution: Distribution) -> list[str]:
    edges, least, most = distribution.edges, distribution.minimum, distribution.maximum
    if not edges or least is None or most is None:
        return list(map(str, distribution.values))
    labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    if least < edges[0]:
        labels[0] = f"less than {edges[1]:.4g}"
    if most > edges[-1]:
        labels[-1] = f"{edges[-2]:.4g} and more"
    return labels


def _describe_model(info: ModelInfo) -> None:
    model = info.model
    show(f"{model}: {info.title}" if info.title else f"{model}, not published")
    if info.description:
        show(info.description)
    varies = f"no: runs differ in {info.variation}" if info.deterministic is False else yes_or_no(info.deterministic)
    facts = {
        "release": ", ".join(info.releases) or "–",
        "shards": f"{info.shards}/{info.n_shards}",
        "molecules": f"{info.molecules:,}",
        "quarantined": _number(info.quarantined),
        "deterministic": varies,
        "cost": describe_cost(info.runner_hours, info.dollars, info.peak_memory) or "–",
        "last load": info.updated or "–",
        "license": info.license or "–",
        "publication": info.publication or "–",
        "cite as": info.citation,
    }
    _show_facts(facts)
    show()
    columns = Table("column", "type", "direction", "description", box=None, pad_edge=False)
    for column in info.columns:
        columns.add_row(column.name, column.type, column.direction, column.description)
    PlainConsole().print(columns)


def _show_facts(facts: dict[str, str]) -> None:
    for name, said in facts.items():
        show(f"{name:<15}{said}")


def models_table() -> Table:
    """Return the table of models without rows."""
    names = ("model", "title", "columns", "release", "shards", "molecules", "deterministic")
    return Table(*names, box=None, pad_edge=False)


def yes_or_no(answer: bool | None) -> str:
    """Return the answer as a word, or a dash if it is unknown."""
    return "–" if answer is None else "yes" if answer else "no"


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"

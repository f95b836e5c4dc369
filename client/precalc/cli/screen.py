"""`precalc screen`: molecules by the values of their predictions."""

from contextlib import closing
from pathlib import Path

from precalc.cli.terminal import data_stream, say
from precalc.errors import PrecalcError, UsageError
from precalc.hits import find_encoder, to_parquet
from precalc.plugins import open_source
from precalc.source import Engine, Question, ScreenAnswer


def screen(
    question: Question, output: Path | None, file_format: str | None, api: str | None, engine: Engine | None
) -> None:
    """Print the molecules that meet the conditions of a question, or write them to a file; say how many there are."""
    encode = find_encoder(file_format, output)
    if encode is to_parquet and output is None:
        raise UsageError("parquet cannot be written to standard output here; name a file with -o")
    with closing(open_source(api)) as source:
        answer = source.screen(question, engine=engine)
    if question["limit"]:
        _write(encode(answer), output)
    say(_summary(answer, len(answer.rows) if question["limit"] else None))


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        data_stream().write(content)
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PrecalcError(
            f"{output} cannot be written: {error.strerror}; make room, or name another file with -o"
        ) from None


def _summary(answer: ScreenAnswer, shown: int | None) -> str:
    found = f"{answer.matched:,} of {answer.screened:,} molecules match"
    written = "" if shown is None or shown == answer.matched else f", the first {shown:,} are here"
    missing = [one for one in answer.models if one.shards < one.n_shards]
    screened = [f"{one.shards} of {one.n_shards} shards of {one.model} were screened" for one in missing]
    return "; ".join([f"{found}{written}", *screened, answer.citation])

"""`precalc get` and `precalc login`: predictions of somebody's molecules, from the tables or from an API."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from precalc_assets.cards import name_variation
from precalc_assets.client.asked import IdentifiedMolecules, MoleculeFile, MoleculeList, Molecules, keep_stream
from precalc_assets.client.downloading import MANIFEST
from precalc_assets.client.errors import ApiError, ChangedError
from precalc_assets.client.formats import find_format
from precalc_assets.client.getting import Counts, OnRows, Question, get_to_file, get_to_stream, ignore_rows
from precalc_assets.client.opening import open_source
from precalc_assets.client.source import ModelInfo, OpenModel, Source
from precalc_assets.errors import ModelError, PrecalcError, TableError, UsageError
from precalc_assets.model_ids import check_model_id, is_model_id
from precalc_assets.settings import load_settings

if TYPE_CHECKING:
    from precalc_assets.client.computing import Computation

_NAMED = 5
"""Models that a message names."""

_WORTH_A_BAR = 1_000
"""Molecules: fewer are answered before a person has read what the bar says."""

_LISTED = 20
"""Molecules on the command line: more than anybody types, and few enough to be identified before all else."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, beside models and molecules."""

    input_file: Path | None = None
    output: Path | None = None
    missing: Path | None = None
    format: str | None = None
    api: str | None = None
    include_smiles: bool = False
    all_models: bool = False
    compute_missing: bool = False


def get(
    model: str, molecules: Sequence[str], input_file: Path | None, output: Path | None, missing: Path | None
) -> None:
    """Do what `answer` does for one model of the tables."""
    answer([model, *molecules], Options(input_file=input_file, output=output, missing=missing))


def answer(words: Sequence[str], options: Options) -> None:
    """Write `key,input` and the model's columns, a row per molecule asked for; empty cells where there is none.

    Raises UsageError for molecules on the command line that are none. In a file they are rows like others, counted.
    """
    models, named = _split(words, options)
    many = options.all_models or len(models) > 1
    _check(options, many=many)
    sys.stdout.flush()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="precalc-")))
        molecules = _open_molecules(named, options.input_file, scratch)
        source = open_source(options.api)
        stack.callback(source.close)
        try:
            if many:
                _get_many(source, models or [entry.model for entry in source.models()], molecules, options, scratch)
            else:
                _get_one(source.open(models[0]), molecules, options, scratch)
        except BrokenPipeError:
            # Whoever reads has read enough, as `head` does; Python would complain once more when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def login(url: str, *, forget: bool) -> None:
    """Ask for an API's key without showing it, see that the API takes it, and keep it in the machine's keyring."""
    from precalc_assets.client.keys import check_key, forget_key, normal_url, store_key
    from precalc_assets.client.remote import RemoteSource

    url = normal_url(url)
    if forget:
        there = forget_key(url)
        print(f"the key of {url} is forgotten" if there else f"there was no key of {url}", file=sys.stderr)
        return
    import typer

    # From a pipe, as password managers write it, nothing is asked for.
    said = typer.prompt(f"key of {url}", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = check_key(url, said.strip())
    source = RemoteSource(url, key)
    try:
        n_models = len(source.models())
    finally:
        source.close()
    store_key(url, key)
    print(f"{url} takes it and serves {n_models:,} models; the key is in this machine's keyring", file=sys.stderr)


def _split(words: Sequence[str], options: Options) -> tuple[list[str], list[str]]:
    """Return the models, which come first, and the molecules: no SMILES reads like a model id."""
    n_models = next((at for at, word in enumerate(words) if not is_model_id(word)), len(words))
    if options.all_models:
        if n_models:
            raise UsageError(f"{words[0]} is a model; name models, or give --all-models")
    elif not n_models:
        check_model_id(words[0] if words else "")
    return list(words[:n_models]), list(words[n_models:])


def _check(options: Options, *, many: bool) -> None:
    output, missing = options.output, options.missing
    if output and missing and output.absolute() == missing.absolute():
        raise UsageError(f"{output} is named twice; give --output and --missing a place each")
    if missing and options.compute_missing:
        raise UsageError("with --compute-missing nothing is left to be listed; leave --missing out")
    if many:
        if output is None:
            raise UsageError("several models are written into a folder, a file for each; name one with -o")
        for path in (output, missing):
            if path and path.exists() and not path.is_dir():
                raise UsageError(f"{path} is a file; of several models a folder is made, with a file for each")
        find_format(options.format, None)
        return
    find_format(options.format, output)
    for path in (output, missing):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path}: that is a folder, or in a folder that does not exist; name a file")
    if output is None and options.format == "parquet":
        raise UsageError("Parquet goes into a file; name one with -o")


def _spare_input(options: Options, path: Path | None) -> None:
    """Raise UsageError if the file that the molecules are in would be written over."""
    asked = options.input_file
    if asked and path and asked.exists() and path.exists() and asked.samefile(path):
        raise UsageError(f"{path} is the file that the molecules are read from; write into another one")


def _open_molecules(named: Sequence[str], path: Path | None, scratch: Path) -> Molecules:
    if named and path:
        raise UsageError("name molecules, or a file of them with -i; one of the two")
    processes = load_settings().processes
    if named:
        molecules = MoleculeList(named, processes=processes)
        for batch in molecules.batches(_LISTED):
            if batch.reasons:
                raise UsageError(f"{batch.reasons[0]}; {_way_out(batch.texts[batch.inchikeys.index(None)])}")
        return molecules
    if path is None or str(path) == "-":
        if path is None and sys.stdin.isatty():
            raise UsageError("name molecules, a file of them with -i, or pipe them into standard input")
        path = keep_stream(sys.stdin.buffer, scratch)
    return MoleculeFile(path, processes=processes)


def _way_out(word: str) -> str:
    """Return what a person has probably meant by a word that is no molecule."""
    if is_model_id(word):
        return "models are named before molecules"
    if Path(word).is_file():
        return f"to read the molecules of that file: -i {word}"
    return "give a SMILES or an InChIKey"


def _get_one(model: OpenModel, molecules: Molecules, options: Options, scratch: Path) -> None:
    for path in (options.output, options.missing):
        _spare_input(options, path)
    question = Question(model, molecules, find_format(options.format, options.output), smiles=options.include_smiles)
    if options.output:
        counts, _ = _get_file(question, options.output, options.missing, options)
    elif options.missing or options.compute_missing:
        counts, _ = _get_file(question, scratch / "answers", options.missing, options)
        with (scratch / "answers").open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        _warn(model.info)
        counts = get_to_stream(question, sys.stdout.buffer)
        _report(counts, None)
    _explain(counts.unreadable, counts.reasons)
    _advise(counts.missing, options)
    if options.output or sys.stderr.isatty():
        where = f"{options.output}: " if options.output else ""
        print(f"{where}{_counted(counts.rows)}, {model.info.citation}", file=sys.stderr)


def _get_many(source: Source, models: Sequence[str], molecules: Molecules, options: Options, scratch: Path) -> None:
    """Write a file for each model into a folder, and a manifest of what each holds; goes on behind those there.

    Raises PrecalcError in the end for models that cannot be read: they keep nobody from the others.
    """
    output, missing = options.output, options.missing
    if output is None:
        return
    if not models:
        raise PrecalcError(f"no model is served by {source.name} yet; nothing was written")
    for folder in filter(None, (output, missing)):
        folder.mkdir(parents=True, exist_ok=True)
    manifest = _Manifest(output / MANIFEST)
    identified = IdentifiedMolecules(molecules, scratch / "molecules.jsonl")
    failed: list[str] = []
    written: list[Counts] = []
    for name in dict.fromkeys(models):
        try:
            counts = _get_into_folder(source.open(name), identified, options, output, manifest)
        except PrecalcError as error:
            if not _concerns_one_model(error):
                raise
            print(f"error: {error}", file=sys.stderr)
            failed.append(name)
        else:
            written += [counts] if counts else []
    if written:
        # What is no molecule is none for any model.
        _explain(written[0].unreadable, written[0].reasons)
        _advise(max(counts.missing for counts in written), options)
    if failed:
        named = ", ".join(failed[:_NAMED]) + (f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else "")
        raise PrecalcError(f"not read: {named}; the others are in {output}, and the same command tries those again")


def _get_into_folder(
    model: OpenModel, molecules: Molecules, options: Options, output: Path, manifest: "_Manifest"
) -> Counts | None:
    """Write a model's file, and note it in the manifest; return None if it is there already."""
    info = model.info
    path = output / f"{info.model}.{options.format or 'csv'}"
    lost = options.missing / f"{info.model}.csv" if options.missing else None
    for each in (path, lost):
        _spare_input(options, each)
    choices = {"smiles": options.include_smiles, "compute_missing": options.compute_missing}
    asked = {"source": info.source, **info.provenance, "input_sha256": molecules.digest, **choices}
    if manifest.has(path.name, asked) and path.exists() and (lost is None or lost.exists()):
        print(f"{path} is there already", file=sys.stderr)
        return None
    question = Question(model, molecules, find_format(options.format, None), smiles=options.include_smiles)
    counts, computation = _get_file(question, path, lost, options)
    found: dict[str, object] = {name: getattr(counts, name) for name in ("found", "missing", "unreadable")}
    if computation and computation.release:
        found |= {"computed": computation.computed, "failed": computation.failed}
        found |= {"computed_by_release": computation.release}
    manifest.add(path.name, asked | found)
    print(f"{path}: {_counted(counts.rows)}, {info.citation}", file=sys.stderr)
    return counts


def _concerns_one_model(error: PrecalcError) -> bool:
    """Return whether other models may be read in spite of it: an API that has named a code is not down itself."""
    is_answer = isinstance(error, ApiError) and bool(error.code)
    return is_answer or isinstance(error, TableError | ModelError | ChangedError)


class _Manifest:
    """The file of a folder that says what each of the others holds, and where that is from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            entries = json.loads(path.read_bytes())["files"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            entries = {}
        self._entries: dict[str, dict[str, object]] = entries if isinstance(entries, dict) else {}

    def has(self, name: str, asked: dict[str, object]) -> bool:
        """Return whether a file was written for this."""
        return asked.items() <= self._entries.get(name, {}).items()

    def add(self, name: str, entry: dict[str, object]) -> None:
        """Take note of a file that is whole."""
        self._entries[name] = entry
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps({"files": self._entries}, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._path)


def _get_file(
    question: Question, path: Path, missing: Path | None, options: Options
) -> "tuple[Counts, Computation | None]":
    model = question.model.info.model
    _warn(question.model.info)
    if options.compute_missing:
        return _compute(question, path)
    with _bar(f"get {model}", question.molecules.total) as on_rows:
        counts = get_to_file(question, path, missing, on_rows=on_rows)
    _report(counts, missing)
    return counts, None


def _compute(question: Question, path: Path) -> "tuple[Counts, Computation]":
    from precalc_assets.client.computing import Computer, get_and_compute
    from precalc_assets.inference import ModelBackend, open_backend, open_model

    settings = load_settings()
    model = question.model.info.model

    def open_it() -> ModelBackend:
        return open_backend(open_model(model, settings), settings)

    with ExitStack() as stack:

        def on_computed(total: int) -> OnRows:
            stack.close()  # the bar of what is read
            print(f"{_counted(total)} not precalculated; {model} is run on them", file=sys.stderr)
            return stack.enter_context(_bar(f"compute {model}", total))

        counts, outcome = get_and_compute(
            question,
            path,
            Computer(open_it, settings.batch_size),
            on_rows=stack.enter_context(_bar(f"get {model}", question.molecules.total)),
            on_computed=on_computed,
        )
    by = f" by {outcome.release}" if outcome.computed else ""
    said = [f"{counts.found:,} precalculated", f"{outcome.computed:,} computed{by}"]
    said += [f"{outcome.failed:,} failed"] * bool(outcome.failed)
    said += [f"{counts.unreadable:,} neither InChIKey nor SMILES"] * bool(counts.unreadable)
    print(", ".join(said), file=sys.stderr)
    _explain(outcome.failed, outcome.reasons)
    return counts, outcome


def _warn(info: ModelInfo) -> None:
    """Tell a reader whose model would predict something else next time."""
    if info.deterministic is False:
        print(
            f"warning: predictions of {info.model} vary between runs, in {name_variation(info.varying)}",
            file=sys.stderr,
        )


def _report(counts: Counts, missing: Path | None) -> None:
    """Tell what is not in the answer, if anything is not."""
    if counts.silent:
        print(f"{counts.silent:,} of those found have no value: the model could not answer them", file=sys.stderr)
    if not counts.missing and not counts.unreadable:
        return
    said = [f"{counts.found:,} found"]
    said += [f"{counts.missing:,} not precalculated"] * bool(counts.missing)
    said += [f"{counts.unreadable:,} neither InChIKey nor SMILES"] * bool(counts.unreadable)
    listed = f"; {missing} lists {counts.missing - counts.unnamed:,}" if missing and counts.missing else ""
    print(", ".join(said) + listed, file=sys.stderr)
    if missing and counts.unnamed:
        print(
            f"{counts.unnamed:,} asked for by InChIKey cannot be listed, nor run: their SMILES are not in the library",
            file=sys.stderr,
        )


def _advise(missing: int, options: Options) -> None:
    """Tell what can be done about molecules that are not precalculated, unless it was done."""
    if missing and not options.missing and not options.compute_missing:
        print(
            "what is not precalculated is listed with --missing FILE, and computed here with --compute-missing",
            file=sys.stderr,
        )


def _counted(molecules: int) -> str:
    return f"{molecules:,} molecule" if molecules == 1 else f"{molecules:,} molecules"


def _explain(number: int, reasons: Sequence[str]) -> None:
    for reason in reasons:
        print(f"  {reason}", file=sys.stderr)
    if number > len(reasons):
        print(f"  and {number - len(reasons):,} more", file=sys.stderr)


@contextmanager
def _bar(title: str, total: int) -> Iterator[OnRows]:
    """Show how many rows are written, if there are enough to wait for."""
    if total < _WORTH_A_BAR:
        yield ignore_rows
        return
    from precalc_assets.cli.progress import progress

    with progress(title, total) as on_progress:
        yield lambda rows: on_progress(rows, 0)

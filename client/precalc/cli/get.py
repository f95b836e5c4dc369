"""`precalc get`: predictions of given molecules, into a file, a folder or standard output."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from precalc.cli.progress_bar import progress
from precalc.downloading import MANIFEST
from precalc.errors import ApiError, OneModelError, PrecalcError, UsageError
from precalc.formats import find_format
from precalc.getting import Computation, Counts, OnRows, Request, get_to_file, get_to_stream, ignore_rows
from precalc.identifiers import check_model_id, is_model_id
from precalc.molecule_input import MoleculeInput, identify_once, read_file, read_list, save_stream
from precalc.plugins import find_plugin, find_source
from precalc.source import OpenModel, Source

_NAMED = 5
"""Maximum number of models that a message names."""

_WORTH_A_BAR = 1_000
"""Molecules from which on a progress bar is shown; fewer take less time than reading it."""

_LISTED = 20
"""Molecules in a batch of those on the command line, which are identified before any is read."""

_UNREADABLE = "neither InChIKey nor SMILES"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `precalc get`."""

    input_file: Path | None = None
    output: Path | None = None
    missing: Path | None = None
    format: str | None = None
    api: str | None = None
    include_smiles: bool = False
    all_models: bool = False
    compute_missing: bool = False


def get(words: Sequence[str], options: Options) -> None:
    """Write `key,input` and the model's columns, a row per molecule; a missing molecule has empty cells.

    Raises UsageError for an unreadable molecule on the command line; in a file it gets a row and is counted.
    """
    models, named = _split(words, options)
    many = options.all_models or len(models) > 1
    _check(options, many=many)
    sys.stdout.flush()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="precalc-")))
        open_it = find_source(options.api)
        molecules = _open_molecules(named, options.input_file, scratch)
        source = stack.enter_context(closing(open_it()))
        try:
            if many:
                _get_many(source, models or [entry.model for entry in source.models()], molecules, options, scratch)
            else:
                _get_one(source.open(models[0]), molecules, options, scratch)
        except BrokenPipeError:
            # The reader closed the pipe, as `head` does; without this, Python reports the error again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _split(words: Sequence[str], options: Options) -> tuple[list[str], list[str]]:
    """Return the models, which come first, and the molecules; no SMILES looks like a model id."""
    n_models = next((at for at, word in enumerate(words) if not is_model_id(word)), len(words))
    if options.all_models:
        if n_models:
            raise UsageError(f"{words[0]} is a model; give either models or --all-models")
    elif not n_models:
        check_model_id(words[0] if words else "")
    return list(words[:n_models]), list(words[n_models:])


def _check(options: Options, *, many: bool) -> None:
    """Raise UsageError for options that do not go together, and for paths that cannot be written."""
    output, missing = options.output, options.missing
    if output and missing and output.absolute() == missing.absolute():
        raise UsageError(f"{output} is named twice; give --output and --missing different files")
    if missing and options.compute_missing:
        raise UsageError("--compute-missing leaves no molecule missing; leave out --missing")
    if many and output is None:
        raise UsageError("several models are written into a folder, a file for each; name the folder with -o")
    for path in filter(None, (output, missing)):
        if many and path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; several models are written into a folder, a file for each")
        if not many and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path} is a folder, or in a folder that does not exist; name a file")
    find_format(options.format, None if many else output)
    if output is None and options.format == "parquet":
        raise UsageError("Parquet cannot be written to standard output; name a file with -o")


def _open_molecules(named: Sequence[str], path: Path | None, scratch: Path) -> MoleculeInput:
    if named and path:
        raise UsageError("give either molecules or a file of them with -i")
    if named:
        molecules = read_list(named)
        for batch in molecules.batches(_LISTED):
            if batch.reasons:
                raise UsageError(f"{batch.reasons[0]}; {_way_out(batch.texts[batch.inchikeys.index(None)])}")
        return molecules
    if path is None or str(path) == "-":
        if path is None and sys.stdin.isatty():
            raise UsageError("name molecules, a file of them with -i, or pipe them into standard input")
        path = save_stream(sys.stdin.buffer, scratch)
    return read_file(path)


def _way_out(word: str) -> str:
    """Return advice for a word that is not a molecule."""
    if is_model_id(word):
        return "name models before molecules"
    if Path(word).is_file():
        return f"to read the molecules of that file: -i {word}"
    return "give a SMILES or an InChIKey"


def _get_one(model: OpenModel, molecules: MoleculeInput, options: Options, scratch: Path) -> None:
    request = Request(model, molecules, find_format(options.format, options.output), smiles=options.include_smiles)
    if options.output:
        counts, _ = _get_file(request, options.output, options.missing, options)
    elif options.missing or options.compute_missing:
        counts, _ = _get_file(request, scratch / "answers", options.missing, options)
        with (scratch / "answers").open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        _warn(request)
        counts = get_to_stream(request, sys.stdout.buffer)
        _report(counts, None)
    _explain(counts.unreadable, counts.reasons)
    _advise(counts.missing, options)
    if options.output or sys.stderr.isatty():
        where = f"{options.output}: " if options.output else ""
        _say(f"{where}{_molecules(counts.rows)}, {model.info.citation}")


def _get_many(source: Source, models: Sequence[str], molecules: MoleculeInput, options: Options, scratch: Path) -> None:
    """Write a file per model and a manifest into a folder; skip models that are already complete there.

    Raises PrecalcError at the end, after all other models are written, for models that cannot be read.
    """
    if not models:
        raise PrecalcError(f"{source.name} has no models yet; nothing was written")
    folders = [folder for folder in (options.output, options.missing) if folder]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    manifest = _Manifest(folders[0] / MANIFEST)
    identified = identify_once(molecules, scratch / "molecules.jsonl")
    failed: list[str] = []
    written: list[Counts] = []
    for name in dict.fromkeys(models):
        try:
            counts = _get_into_folder(source.open(name), identified, options, folders, manifest)
        except PrecalcError as error:
            # An API error with a code concerns this model alone: the API is up.
            if not isinstance(error, OneModelError) and not (isinstance(error, ApiError) and error.code):
                raise
            _say(f"error: {error}")
            failed.append(name)
        else:
            written += [counts] if counts else []
    if written:
        # Every model has the same unreadable molecules.
        _explain(written[0].unreadable, written[0].reasons)
        _advise(max(counts.missing for counts in written), options)
    if failed:
        named = ", ".join(failed[:_NAMED]) + (f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else "")
        raise PrecalcError(f"not read: {named}; the others are in {folders[0]}, run the same command to retry")


def _get_into_folder(
    model: OpenModel, molecules: MoleculeInput, options: Options, folders: Sequence[Path], manifest: "_Manifest"
) -> Counts | None:
    """Write a model's file and add it to the manifest; return None if it is already complete."""
    info = model.info
    suffixes = (options.format or "csv", "csv")
    paths = [folder / f"{info.model}.{suffix}" for folder, suffix in zip(folders, suffixes, strict=False)]
    choices = {"smiles": options.include_smiles, "compute_missing": options.compute_missing}
    entry = {"source": info.source, **info.provenance, "input_sha256": molecules.digest, **choices}
    path, missing = paths[0], paths[1] if len(paths) > 1 else None
    if manifest.has(path.name, entry) and all(each.exists() for each in paths):
        _say(f"{path} is already complete")
        return None
    request = Request(model, molecules, find_format(options.format, None), smiles=options.include_smiles)
    counts, computation = _get_file(request, path, missing, options)
    entry |= {name: getattr(counts, name) for name in ("found", "missing", "unreadable")}
    if computation and computation.release:
        entry |= {"computed": computation.computed, "failed": computation.failed}
        entry["computed_by_release"] = computation.release
    manifest.add(path.name, entry)
    _say(f"{path}: {_molecules(counts.rows)}, {info.citation}")
    return counts


class _Manifest:
    """The JSON file that describes the other files of a folder: their content and its origin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            entries = json.loads(path.read_bytes())["files"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            entries = {}
        self._entries: dict[str, dict[str, object]] = entries if isinstance(entries, dict) else {}

    def has(self, name: str, entry: dict[str, object]) -> bool:
        """Return whether a file's entry has these values."""
        return entry.items() <= self._entries.get(name, {}).items()

    def add(self, name: str, entry: dict[str, object]) -> None:
        """Add a complete file."""
        self._entries[name] = entry
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps({"files": self._entries}, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._path)


def _get_file(
    request: Request, path: Path, missing: Path | None, options: Options
) -> tuple[Counts, Computation | None]:
    for target in filter(None, (path, missing)):
        source = options.input_file
        if source and source.exists() and target.exists() and source.samefile(target):
            raise UsageError(f"{target} is the input file; write into another one")
    _warn(request)
    if options.compute_missing:
        return _compute(request, path)
    with _bar(f"get {request.model.info.model}", request.molecules.total) as on_rows:
        counts = get_to_file(request, path, missing, on_rows=on_rows)
    _report(counts, missing)
    return counts, None


def _compute(request: Request, path: Path) -> tuple[Counts, Computation]:
    compute = find_plugin("precalc.computing")
    if compute is None:
        raise UsageError("--compute-missing runs models, which needs the platform (package precalc-platform)")
    model = request.model.info.model
    with ExitStack() as stack:

        def on_computed(total: int) -> OnRows:
            stack.close()  # the bar of reading
            _say(f"{_molecules(total)} not precalculated; running {model} on them")
            return stack.enter_context(_bar(f"compute {model}", total))

        on_rows = stack.enter_context(_bar(f"get {model}", request.molecules.total))
        counts, computation = compute(request, path, on_rows=on_rows, on_computed=on_computed)
    by = f" by {computation.release}" if computation.computed else ""
    _say(
        f"{counts.found:,} precalculated, {computation.computed:,} computed{by}"
        + _unless_none(computation.failed, "failed")
        + _unless_none(counts.unreadable, _UNREADABLE)
    )
    _explain(computation.failed, computation.reasons)
    return counts, computation


def _warn(request: Request) -> None:
    """Warn if the model's predictions vary between runs."""
    info = request.model.info
    if info.deterministic is False:
        _say(f"warning: predictions of {info.model} vary between runs, in {info.variation}")


def _report(counts: Counts, missing: Path | None) -> None:
    """Print counts of molecules without predictions, if any."""
    if counts.silent:
        _say(f"{counts.silent:,} of those found have no value: the model failed on them")
    if not counts.missing and not counts.unreadable:
        return
    _say(
        f"{counts.found:,} found"
        + _unless_none(counts.missing, "not precalculated")
        + _unless_none(counts.unreadable, _UNREADABLE)
        + (f"; {missing} lists {counts.missing - counts.unnamed:,}" if missing and counts.missing else "")
    )
    if missing and counts.unnamed:
        _say(f"{counts.unnamed:,} given by InChIKey cannot be listed or run: their SMILES are not in the library")


def _advise(missing: int, options: Options) -> None:
    """Name the options for molecules that are not precalculated, unless one was given."""
    if missing and not options.missing and not options.compute_missing:
        _say("--missing FILE lists what is not precalculated, --compute-missing computes it here")


def _unless_none(number: int, what: str) -> str:
    return f", {number:,} {what}" if number else ""


def _molecules(number: int) -> str:
    return f"{number:,} molecule" if number == 1 else f"{number:,} molecules"


def _explain(number: int, reasons: Sequence[str]) -> None:
    for reason in reasons:
        _say(f"  {reason}")
    if number > len(reasons):
        _say(f"  and {number - len(reasons):,} more")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _bar(title: str, total: int) -> Iterator[OnRows]:
    """Show the rows written in a progress bar, if there are many."""
    if total < _WORTH_A_BAR:
        yield ignore_rows
        return
    with progress(title, total) as on_progress:
        yield lambda rows: on_progress(rows, 0)

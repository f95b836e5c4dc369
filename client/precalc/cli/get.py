"""`precalc get`: predictions of given molecules, into a file, a folder or standard output."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from precalc.cli.progress_bar import progress
from precalc.cli.terminal import data_stream, say
from precalc.downloading import MANIFEST
from precalc.errors import ApiError, OneModelError, PrecalcError, UsageError
from precalc.formats import SUFFIXES, find_format
from precalc.getting import MISSING, Computation, Counts, OnRows, Request, get_to_file, get_to_stream, ignore_rows
from precalc.identifiers import check_model_id, is_model_id, split_names
from precalc.joining import OpenFunction, open_joined
from precalc.molecules.molecule_columns import Wanted
from precalc.molecules.molecule_input import MoleculeInput, identify_once, read_list, read_rows, save_stream
from precalc.molecules.reading import read_table
from precalc.partial_files import replace_json
from precalc.percentiles import open_with_percentiles
from precalc.plugins import find_plugin, find_source
from precalc.scratch import scratch_folder
from precalc.source import OpenModel, Source, reload
from precalc.statuses import COMPUTED, FOUND, MODEL_FAILED, STATUSES, UNREADABLE

_NAMED = 5
"""Maximum number of models that a message names."""

_WORTH_A_BAR = 1_000
"""Molecules from which on a progress bar is shown; fewer take less time than reading it."""

_MANY_MODELS = "several models fill a folder, a file for each, or with --join one wide table"

_LISTED = 20
"""Molecules in a batch of those on the command line, which are identified before any is read."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `precalc get`."""

    input_file: Path | None = None
    output: Path | None = None
    missing: Path | None = None
    format: str | None = None
    join: bool = False
    columns: str | None = None
    input_column: str | None = None
    only_predictions: bool = False
    api: str | None = None
    include_smiles: bool = False
    percentiles: bool = False
    reasons: bool = False
    all_models: bool = False
    compute_missing: bool = False

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns to read, None for all."""
        return None if self.columns is None else split_names(self.columns)


def get(words: Sequence[str], options: Options) -> None:
    """Write what came of each molecule and the model's columns, a row per molecule, with empty cells where it has none.

    Raises UsageError for an unreadable molecule on the command line; in a file it gets a row and is counted.
    """
    models, named = _split(words, options)
    many = (options.all_models or len(models) > 1) and not options.join
    _check(options, many=many)
    sys.stdout.flush()
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        open_it = find_source(options.api)
        molecules = _open_molecules(named, options, scratch)
        source = stack.enter_context(closing(open_it()))
        open_one = _opener(source, options)
        try:
            models = models or _all_models(source)
            if many:
                _get_many(source, models, molecules, options, scratch)
            else:
                open_model = partial(open_joined, open_one, models) if options.join else partial(open_one, models[0])
                _get_one(open_model(options.names), molecules, options, scratch)
        except BrokenPipeError:
            # The reader closed the pipe, as `head` does; without this, Python reports the error again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _opener(source: Source, options: Options) -> OpenFunction:
    return partial(open_with_percentiles, source) if options.percentiles else source.open


def _split(words: Sequence[str], options: Options) -> tuple[list[str], list[str]]:
    """Return the models, which come first, and the molecules; no SMILES looks like a model id."""
    n_models = next((at for at, word in enumerate(words) if not is_model_id(word)), len(words))
    if options.all_models:
        if n_models:
            raise UsageError(f"{words[0]} is a model; give either models or --all-models")
    elif not n_models:
        check_model_id(words[0] if words else "")
    return list(words[:n_models]), list(words[n_models:])


def _all_models(source: Source) -> list[str]:
    models = [entry.model for entry in source.models()]
    if not models:
        raise PrecalcError(f"{source.name} has no models yet, so nothing was written; {reload('MODEL')}")
    return models


def _check(options: Options, *, many: bool) -> None:
    """Raise UsageError for options that do not go together, and for paths that cannot be written."""
    output, missing = options.output, options.missing
    if output and missing and output.absolute() == missing.absolute():
        raise UsageError(f"{output} is named twice; give --output and --missing different files")
    if missing and options.compute_missing:
        raise UsageError("--compute-missing leaves no molecule missing; leave out --missing")
    if options.percentiles and options.compute_missing:
        raise UsageError("--percentiles are of precalculated values; leave out --compute-missing")
    if options.join and options.compute_missing:
        raise UsageError("--compute-missing runs one model; leave out --join, or compute each model by itself")
    if many and output is None:
        raise UsageError(f"{_MANY_MODELS}; name a folder with -o, or add --join")
    for path in filter(None, (output, missing)):
        if many and not path.is_dir() and (path.exists() or path.name.lower().endswith(tuple(SUFFIXES))):
            raise UsageError(f"{path} is a file; {_MANY_MODELS}; name a folder, or add --join")
        if not many and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{path} is a folder, or in a folder that does not exist; name a file")
    find_format(options.format, None if many else output)
    if output is None and (options.format == "parquet" or (options.format == "csv.gz" and sys.stdout.isatty())):
        raise UsageError(f"{options.format} cannot be written to standard output here; name a file with -o")


def _open_molecules(named: Sequence[str], options: Options, scratch: Path) -> MoleculeInput:
    path = options.input_file
    if named and path:
        raise UsageError("give either molecules or a file of them with -i")
    if named:
        molecules = read_list(named)
        for batch in molecules.batches(_LISTED):
            for reason in batch.unreadable():
                raise UsageError(f"{reason}; {_way_out(batch.texts[batch.inchikeys.index(None)])}")
        return molecules
    if path is None or str(path) == "-":
        if path is None and sys.stdin.isatty():
            raise UsageError("name molecules, a file of them with -i, or pipe them into standard input")
        path = save_stream(sys.stdin.buffer, scratch)
    return read_rows(read_table(path, Wanted(options.input_column)), own_columns=not options.only_predictions)


def _way_out(word: str) -> str:
    """Return advice for a word that is not a molecule."""
    if is_model_id(word):
        return "name models before molecules"
    if Path(word).is_file():
        return f"to read the molecules of that file: -i {word}"
    return "give a SMILES or an InChIKey"


def _request(model: OpenModel, molecules: MoleculeInput, options: Options, output: Path | None) -> Request:
    kind = find_format(options.format, output)
    return Request(model, molecules, kind, smiles=options.include_smiles, reasons=options.reasons)


def _get_one(model: OpenModel, molecules: MoleculeInput, options: Options, scratch: Path) -> None:
    request = _request(model, molecules, options, options.output)
    if options.output:
        counts, _ = _get_file(request, options.output, options.missing, options)
    elif options.missing or options.compute_missing:
        counts, _ = _get_file(request, scratch / "answers", options.missing, options)
        with (scratch / "answers").open("rb") as file:
            shutil.copyfileobj(file, data_stream())
        sys.stdout.flush()
    else:
        _warn(request)
        counts = get_to_stream(request, data_stream())
        _report(counts, None)
    _explain_unreadable(counts)
    _advise(counts.of(*MISSING), options)
    if options.output or sys.stderr.isatty():
        where = f"{options.output}: " if options.output else ""
        say(f"{where}{_molecules(counts.rows)}, {model.info.citation}")


def _get_many(source: Source, models: Sequence[str], molecules: MoleculeInput, options: Options, scratch: Path) -> None:
    """Write a file per model and a manifest into a folder; skip models that are already complete there.

    Raises PrecalcError at the end, after all other models are written, for models that cannot be read.
    """
    folders = [folder for folder in (options.output, options.missing) if folder]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    identified = identify_once(molecules, scratch / "molecules.jsonl")
    failed: list[str] = []
    written: list[Counts] = []
    for name in dict.fromkeys(models):
        try:
            counts = _get_into_folder(_opener(source, options)(name, options.names), identified, options, folders)
        except PrecalcError as error:
            # An API error with a code concerns this model alone: the API is up.
            if not isinstance(error, OneModelError) and not (isinstance(error, ApiError) and error.code):
                raise
            say(f"error: {error}")
            failed.append(name)
        else:
            written += [counts] if counts else []
    if written:
        # Every model has the same unreadable molecules.
        _explain_unreadable(written[0])
        _advise(max(counts.of(*MISSING) for counts in written), options)
    if failed:
        named = ", ".join(failed[:_NAMED]) + (f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else "")
        raise PrecalcError(f"not read: {named}; the others are in {folders[0]}, run the same command to retry")


def _get_into_folder(
    model: OpenModel, molecules: MoleculeInput, options: Options, folders: Sequence[Path]
) -> Counts | None:
    """Write a model's file and add it to the manifest; return None if it is already complete."""
    info = model.info
    suffixes = ("csv" if options.format in (None, "spreadsheet") else options.format, "csv")
    paths = [folder / f"{info.model}.{suffix}" for folder, suffix in zip(folders, suffixes, strict=False)]
    choices = {
        "input_columns": list(molecules.names),
        "smiles": options.include_smiles,
        "reasons": options.reasons,
        "compute_missing": options.compute_missing,
        "columns": options.columns,
    }
    entry = {"source": info.source, **info.provenance, "input_sha256": molecules.digest, **choices}
    path, missing = paths[0], paths[1] if len(paths) > 1 else None
    manifest = folders[0] / MANIFEST
    described = _described_files(manifest)
    if entry.items() <= described.get(path.name, {}).items() and all(each.exists() for each in paths):
        say(f"{path} is already complete")
        return None
    request = _request(model, molecules, options, None)
    counts, computation = _get_file(request, path, missing, options)
    entry |= {"statuses": counts.statuses, "other_forms": counts.other_forms}
    if computation and computation.release:
        entry |= {"computed": computation.computed, "failed": computation.failed}
        entry["computed_by_release"] = computation.release
    replace_json(manifest, {"files": described | {path.name: entry}})
    say(f"{path}: {_molecules(counts.rows)}, {info.citation}")
    return counts


def _described_files(manifest: Path) -> dict[str, dict[str, object]]:
    """Return what a folder's manifest says of its files: their content and its origin. A damaged one says nothing."""
    try:
        files = json.loads(manifest.read_bytes())["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


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
            say(f"{_molecules(total)} not precalculated; running {model} on them")
            return stack.enter_context(_bar(f"compute {model}", total))

        on_rows = stack.enter_context(_bar(f"get {model}", request.molecules.total))
        counts, computation = compute(request, path, on_rows=on_rows, on_computed=on_computed)
    statuses = {status: n for status, n in counts.statuses.items() if status not in MISSING}
    statuses[COMPUTED] = computation.computed
    statuses[MODEL_FAILED] = statuses.get(MODEL_FAILED, 0) + computation.failed
    say(_listed(statuses) + (f"; computed by {computation.release}" if computation.computed else ""))
    _explain(computation.failed, computation.reasons)
    return counts, computation


def _warn(request: Request) -> None:
    """Warn if the model's predictions vary between runs."""
    info = request.model.info
    if info.deterministic is False:
        say(f"warning: predictions of {info.model} vary between runs, in {info.variation}")


def _report(counts: Counts, missing: Path | None) -> None:
    """Print how many molecules have each status, unless all are found, and how many predictions are of another form."""
    if counts.other_forms:
        say(f"{counts.other_forms:,} found for another form of the molecule, such as a tautomer: match is other_form")
    if counts.of(FOUND) == counts.rows:
        return
    n_missing = counts.of(*MISSING)
    lists = f"; {missing} lists {n_missing - counts.unnamed:,}" if missing and n_missing else ""
    say(_listed(counts.statuses) + lists)
    if missing and counts.unnamed:
        say(f"{counts.unnamed:,} given by InChIKey cannot be listed or run: their SMILES are not in the library")


def _advise(missing: int, options: Options) -> None:
    """Name the options for molecules that are not precalculated, unless one was given."""
    if missing and not options.missing and not options.compute_missing:
        computes = "" if options.join else ", --compute-missing computes it here"
        say(f"--missing FILE lists what is not precalculated{computes}")


def _listed(statuses: Mapping[str, int]) -> str:
    """Return the counts of statuses, of those that there are."""
    return ", ".join(f"{statuses[status]:,} {status}" for status in STATUSES if statuses.get(status))


def _molecules(number: int) -> str:
    return f"{number:,} molecule" if number == 1 else f"{number:,} molecules"


def _explain_unreadable(counts: Counts) -> None:
    number = counts.of(UNREADABLE)
    _explain(number, counts.reasons)
    if number == counts.rows:
        say("no row is a molecule: SMILES, InChIs and InChIKeys are read; names and registry numbers are not")


def _explain(number: int, reasons: Sequence[str]) -> None:
    for reason in reasons:
        say(f"  {reason}")
    if number > len(reasons):
        say(f"  and {number - len(reasons):,} more")


@contextmanager
def _bar(title: str, total: int) -> Iterator[OnRows]:
    """Show the rows written in a progress bar, if there are many."""
    if total < _WORTH_A_BAR:
        yield ignore_rows
        return
    with progress(title, total) as on_progress:
        yield lambda rows: on_progress(rows, 0)

"""Build a shard's raw predictions: plan and write its parts, reuse stored ones, and write the manifest last."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import obstore
import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column, columns_digest
from precalc_assets.emptied_cells import EmptiedColumn, count_cells, merge_emptied
from precalc_assets.inference.stored_parts import PartName, ReusableRows, Row, parse_part
from precalc_assets.library.library_manifest import LibraryManifest
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions.canary_report import find_report
from precalc_assets.predictions.cells import count_emptied, format_header, format_record
from precalc_assets.predictions.shard_manifest import PartInfo, RawManifest, find_manifest, manifest_name
from precalc_assets.predictions.validate import check_emptied, check_failure_rate

_GZIP_LEVEL = 4
"""Takes a quarter of level 6's time for 10% more bytes, measured on rows of 2,048 counts."""


@dataclass(eq=False, slots=True)
class Part:
    """A batch of a shard's molecules. `name` is that of the object with its predictions, but for the environment.

    `unknown` are the rows whose molecules no earlier run has computed, `left` those of them that are to be sent to the
    model. `printed` has the reason (empty for an answer) and the record of each computed row, until the part is
    written. `saved` rows are in the store already, in a smaller part.
    """

    work: "ShardWork"
    name: PartName
    inchikeys: list[str]
    smiles: list[str]
    unknown: list[int]
    left: list[int]
    printed: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether all unknown rows have been computed."""
        return len(self.printed) == len(self.unknown)


@dataclass(slots=True)
class ShardWork:
    """The state of one shard: its parts, which of them are stored, and the failures and emptied cells of each.

    `reusable` are rows of parts that earlier runs have stored, mostly for another version of the library. `own` are
    stored parts that only have molecules of this shard: after the manifest is written, those that it does not name are
    deleted. `witness` is a molecule that an earlier run has an answer for. `environment` is that of the reused parts:
    the latest are those that the previous manifest does not name (`listed`). `adoption` says whether predictions of an
    earlier release may be reused; `adopts` says whether this shard has any.
    """

    model: str
    release: str
    columns: tuple[Column, ...]
    shard: str
    n_shards: int
    shard_digest: str
    reusable: ReusableRows
    adoption: Adoption | None = None
    adopts: bool = False
    environment: str = ""
    listed: frozenset[str] = frozenset()
    parts: list[Part] = field(default_factory=list)
    own: frozenset[str] = frozenset()
    witness: str | None = None
    stored: dict[PartName, PartInfo] = field(default_factory=dict)
    failures: dict[PartName, list[tuple[str, str]]] = field(default_factory=dict)
    emptied: dict[PartName, tuple[EmptiedColumn, ...]] = field(default_factory=dict)
    manifest: RawManifest | None = None
    failure: str = ""
    seconds: float = 0.0
    seconds_before: float = 0.0

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases whose parts are reused: this one, and those whose predictions it reproduces."""
        adopted = self.adoption.computed_by if self.adoption and self.adoption.equal else ()
        return (self.release, *(release for release in adopted if release != self.release))

    @property
    def missing(self) -> list[Part]:
        """Parts that are not stored yet, in order."""
        return [part for part in self.parts if part.name not in self.stored]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.failure and len(self.stored) == len(self.parts)

    @property
    def settled(self) -> int:
        """Molecules that are answered or quarantined."""
        return self.manifest.rows if self.manifest else sum(part.rows for part in self.stored.values())

    @property
    def quarantined(self) -> int:
        """Molecules that the model could not answer."""
        return self.manifest.quarantined if self.manifest else sum(part.quarantined for part in self.stored.values())


def plan_parts(
    store: ObjectStore,
    work: ShardWork,
    molecules: pl.DataFrame,
    size: int,
    others: Iterable[PartName],
    *,
    with_failures: bool,
) -> None:
    """Cut a shard's molecules (`inchikey`, `smiles`) into parts of `size`; the last one may be smaller.

    A part that an earlier run has stored whole is reused as it is. For other parts, rows of all stored parts are
    reused, also of the `others`, made for another number of shards. Failed molecules are reused only `with_failures`.
    """
    prefix, index = storage.raw_prefix(work.model, work.shard), int(work.shard)
    makers = [columns_digest(release, work.columns)[:8] for release in work.releases]
    batches: dict[PartName, pl.DataFrame] = {}
    named: list[list[PartName]] = []
    for number, start in enumerate(range(0, molecules.height, size)):
        batch = molecules.slice(start, size)
        digest = _digest([*batch["inchikey"], *batch["smiles"]])
        named.append([PartName(prefix, number, index, work.n_shards, maker, digest) for maker in makers])
        batches |= dict.fromkeys(named[-1], batch)
    ours = [part for part in map(PartName.parse, sorted(storage.list_sizes(store, prefix))) if part]
    work.own = frozenset(str(part) for part in ours if part.n_shards == work.n_shards)
    earlier = [*others, *(part for part in ours if part.n_shards == work.n_shards)]
    wanted = set(molecules["smiles"])
    for part in earlier:
        if part.maker not in makers or not part.may_concern(index, work.n_shards):
            continue
        name = str(part)
        try:
            content = storage.read_object(store, name)
            rows = parse_part(content)
        except (ValueError, FileNotFoundError):
            continue  # damaged, or just deleted by another run: its molecules are computed again
        work.adopts |= part.maker != makers[0]
        work.witness = work.witness or next((row.smiles for row in rows if not row.reason), None)
        molecules_of = batches.get(part.anywhere)
        whole = molecules_of is not None and [row.smiles for row in rows] == molecules_of["smiles"].to_list()
        if whole and (with_failures or not any(row.reason for row in rows)):
            _record_part(work, part, content, rows)
            if name not in work.listed:
                work.environment = part.environment
        else:
            work.reusable.add(name, rows, wanted, with_failures=with_failures)
    for names in named:
        chosen = next((one for one in names if one in work.stored), names[0])
        batch = batches[chosen]
        smiles = batch["smiles"].to_list()
        unknown = [row for row, text in enumerate(smiles) if text not in work.reusable]
        work.parts.append(Part(work, chosen, batch["inchikey"].to_list(), smiles, unknown, left=unknown.copy()))
    work.stored = {part.name: work.stored[part.name] for part in work.parts if part.name in work.stored}


def has_parts(store: ObjectStore, manifest: RawManifest) -> bool:
    """Return whether all parts in a manifest are stored with the sizes in it."""
    sizes = storage.list_sizes(store, storage.raw_prefix(manifest.model, manifest.shard))
    return all(sizes.get(part.name) == part.bytes for part in manifest.parts)


def put_part(store: ObjectStore, part: Part, environment: str) -> None:
    """Write a part from reusable and computed rows. Raises ShardError if a reusable row is gone meanwhile."""
    work = part.work
    if not part.unknown:
        environment = work.environment = work.reusable.environment(part.smiles[-1])
    name = replace(part.name, environment=environment)
    try:
        rows = [
            Row(smiles, *part.printed[row]) if row in part.printed else work.reusable[smiles]
            for row, smiles in enumerate(part.smiles)
        ]
    except FileNotFoundError:
        raise _concurrent_run(work.model, work.shard) from None
    content = _write(store, work, str(name), part.inchikeys, rows)
    _record_part(work, name, content, rows)


def put_piece(store: ObjectStore, part: Part, environment: str) -> None:
    """Write the computed rows of a part that are not saved yet as a smaller part, which is deleted with the last part.

    After a kill, the next run finds these rows by their molecules.
    """
    new = sorted(part.printed.keys() - part.saved)
    if not new:
        return
    rows = [Row(part.smiles[row], *part.printed[row]) for row in new]
    inchikeys = [part.inchikeys[row] for row in new]
    digest = _digest([*inchikeys, *(row.smiles for row in rows)])
    name = str(replace(part.name, molecules=digest, environment=environment))
    _write(store, part.work, name, inchikeys, rows)
    part.work.own |= {name}
    part.saved.update(new)


def _write(store: ObjectStore, work: ShardWork, name: str, inchikeys: Sequence[str], rows: Sequence[Row]) -> memoryview:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=_GZIP_LEVEL, filename="", mtime=0) as file:
        file.write(b"key,input,quarantine," + format_header(work.columns) + b"\n")
        for key, row in zip(inchikeys, rows, strict=True):
            file.writelines((format_record([key, row.smiles, row.reason or None]), b",", row.record, b"\n"))
    content = buffer.getbuffer()
    obstore.put(store, name, content)
    return content


def finish(store: ObjectStore, work: ShardWork, environment: str) -> RawManifest:
    """Write the lists of quarantined molecules and of emptied cells, then the manifest.

    Then delete parts of the shard that the manifest does not name.

    Parts made for another number of shards stay: they have molecules of other shards. `environment` is the one in
    which the last molecules were computed.

    Raises ShardError if a part is missing: another run has finished the shard meanwhile and deleted it.
    """
    failures = (row for part in work.parts for row in _keyed_failures(part))
    _put_csv(store, storage.quarantine(work.model, work.shard), ("inchikey", "input", "reason"), failures)
    emptied = merge_emptied(column for part in work.parts for column in work.emptied[part.name])
    counts = (tuple(column.model_dump().values()) for column in emptied)
    _put_csv(store, storage.emptied(work.model, work.shard), EmptiedColumn.model_fields, counts)
    parts = tuple(work.stored[part.name] for part in work.parts)
    manifest = RawManifest(
        model=work.model,
        release=work.release,
        shard=work.shard,
        shard_digest=work.shard_digest,
        columns=work.columns,
        parts=parts,
        rows=work.settled,
        quarantined=work.quarantined,
        emptied=emptied,
        environment=environment,
        adopted=work.adoption if work.adopts else None,
        seconds=round(work.seconds, 3),
        seconds_before=work.seconds_before,
        finished_at=datetime.now(UTC),
    )
    if not has_parts(store, manifest):
        raise _concurrent_run(work.model, work.shard)
    name = manifest_name(work.model, work.shard)
    obstore.put(store, name, manifest.model_dump_json().encode())
    for leftover in sorted(work.own - {part.name for part in parts}):
        with suppress(FileNotFoundError):
            obstore.delete(store, leftover)
    return manifest


def _keyed_failures(part: Part) -> list[tuple[str, str, str]]:
    keys = dict(zip(part.smiles, part.inchikeys, strict=True))
    return [(keys[smiles], smiles, reason) for smiles, reason in part.work.failures[part.name]]


def _put_csv(store: ObjectStore, name: str, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((header, *rows))
    obstore.put(store, name, text.getvalue().encode())


def outcome(manifest: RawManifest, max_failure_rate: float) -> ShardOutcome:
    """Return the outcome of a shard that has a manifest."""
    rate = check_failure_rate(manifest, max_failure_rate)
    return ShardOutcome(
        manifest.shard,
        digest=manifest.digest,
        source_digest=manifest.shard_digest,
        columns=manifest.columns,
        failure="" if rate.passed else f"shard {manifest.shard} of {manifest.model}: {rate.description}",
        models_fault=not rate.passed,
        facts={
            "rows": manifest.rows,
            "quarantined": manifest.quarantined,
            "emptied_cells": count_cells(manifest.emptied),
            "parts": len(manifest.parts),
            "bytes": sum(part.bytes for part in manifest.parts),
            "path": manifest_name(manifest.model, manifest.shard),
            "release": manifest.release,
            "environment": manifest.environment,
            "seconds": manifest.seconds,
        },
        checks=(rate, check_emptied(manifest)),
        emptied=manifest.emptied,
    )


def find_landed(
    store: ObjectStore, library: LibraryManifest, model: str, shard: str, max_failure_rate: float
) -> ShardOutcome | None:
    """Return the outcome of a shard whose raw predictions are there, of this library and of the canary's release.

    The outcome is a failure if too many molecules are quarantined, and one without a digest if the manifest is damaged.
    """
    try:
        manifest = find_manifest(store, model, shard)
    except ShardError as error:
        return ShardOutcome(shard, failure=str(error))
    info = library.shards.get(shard)  # the shards of an earlier library may have had other numbers
    if manifest is None or info is None or manifest.shard_digest != info.digest:
        return None
    canary = find_report(store, model)
    if canary and not canary.is_of(manifest.release, manifest.columns):
        return None
    return outcome(manifest, max_failure_rate) if has_parts(store, manifest) else None


def _concurrent_run(model: str, shard: str) -> ShardError:
    return ShardError(f"another run has computed shard {shard} of {model} at the same time; run the same command again")


def _record_part(work: ShardWork, name: PartName, content: bytes | memoryview, rows: Sequence[Row]) -> None:
    failures = [(row.smiles, row.reason) for row in rows if row.reason]
    work.failures[name.anywhere] = failures
    work.emptied[name.anywhere] = count_emptied(
        [row.smiles for row in rows], [row.record for row in rows], work.columns
    )
    work.stored[name.anywhere] = PartInfo(
        name=str(name),
        rows=len(rows),
        quarantined=len(failures),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

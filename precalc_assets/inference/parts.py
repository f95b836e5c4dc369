"""A shard's raw predictions in the making: its parts, which of them are there already, and the manifest at the end."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import obstore
import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.adoption_record import Adoption
from precalc_assets.columns import Column, columns_digest
from precalc_assets.inference.part_names import PartName, name_piece
from precalc_assets.inference.reusable_rows import KeptRows, Row, parse_part
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.platform_errors import ShardError
from precalc_assets.predictions import (
    PartInfo,
    RawManifest,
    check_failure_rate,
    format_header,
    format_record,
    manifest_name,
)

_GZIP_LEVEL = 4
"""A quarter of level 6's time for a tenth more bytes, on 2,048 counts a row."""


@dataclass(frozen=True, slots=True)
class Part:
    """A batch of a shard's molecules, and the name of the object that holds what the model printed for it.

    `unknown` are the rows of the molecules that no earlier run has asked the model for.
    """

    name: str
    inchikeys: list[str]
    smiles: list[str]
    unknown: list[int]


@dataclass(slots=True)
class ShardWork:
    """One shard: its parts, what is known of those that are there, and what they list as failed by part.

    `kept` are rows of other parts that earlier runs have left: of another version of the library, mostly. `own` are
    the parts there that are about molecules of this shard and of no other: those that are not named in the manifest
    may go. `witness` is a molecule that an earlier run has an answer for, `environment` what its manifest names.
    By the `adoption` predictions of an earlier release may be kept, and the shard `adopts` those that it has.
    """

    model: str
    release: str
    columns: tuple[Column, ...]
    shard: str
    n_shards: int
    shard_digest: str
    kept: KeptRows
    adoption: Adoption | None = None
    adopts: bool = False
    environment: str = ""
    parts: list[Part] = field(default_factory=list)
    own: frozenset[str] = frozenset()
    witness: str | None = None
    there: dict[str, PartInfo] = field(default_factory=dict)
    failures: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    manifest: RawManifest | None = None
    failure: str = ""
    seconds: float = 0.0

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases whose parts count: this one, and those whose predictions it was shown to reproduce."""
        adopted = self.adoption.computed_by if self.adoption and self.adoption.equal else ()
        return (self.release, *(release for release in adopted if release != self.release))

    @property
    def missing(self) -> list[Part]:
        """Parts that are still to be computed, in order."""
        return [part for part in self.parts if part.name not in self.there]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return not self.failure and len(self.there) == len(self.parts)

    @property
    def settled(self) -> int:
        """Molecules that are answered or quarantined."""
        return self.manifest.rows if self.manifest else sum(part.rows for part in self.there.values())

    @property
    def quarantined(self) -> int:
        """Molecules that the model could not answer."""
        return self.manifest.quarantined if self.manifest else sum(part.quarantined for part in self.there.values())


def plan_parts(
    store: ObjectStore,
    work: ShardWork,
    molecules: pl.DataFrame,
    size: int,
    others: Iterable[PartName],
    *,
    with_failures: bool,
) -> None:
    """Cut a shard's molecules (`inchikey`, `smiles`) into parts of `size`, the last one smaller.

    A whole part that an earlier run has left is there. What such a run has computed of the other parts' molecules is
    kept, in whichever part it is, also where it is in one of the `others`, of another number of shards; molecules that
    failed are kept only `with_failures`.
    """
    prefix, index = storage.raw_prefix(work.model, work.shard), int(work.shard)
    makers = [columns_digest(release, work.columns)[:8] for release in work.releases]
    batches: dict[str, pl.DataFrame] = {}
    named: list[list[str]] = []
    for number, start in enumerate(range(0, molecules.height, size)):
        batch = molecules.slice(start, size)
        digest = _digest([*batch["inchikey"], *batch["smiles"]])
        named.append([str(PartName(prefix, number, index, work.n_shards, maker, digest)) for maker in makers])
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
            content = bytes(obstore.get(store, name).bytes())
            rows = parse_part(content)
        except (ValueError, FileNotFoundError):
            continue  # damaged, or a leftover that another run has just removed: it is computed again
        work.adopts |= part.maker != makers[0]
        work.witness = work.witness or next((row.smiles for row in rows if not row.reason), None)
        whole = name in batches and [row.smiles for row in rows] == batches[name]["smiles"].to_list()
        if whole and (with_failures or not any(row.reason for row in rows)):
            _note(work, name, content, rows)
        else:
            work.kept.add(name, rows, wanted, with_failures=with_failures)
    for names in named:
        name = next((name for name in names if name in work.there), names[0])
        batch = batches[name]
        smiles = batch["smiles"].to_list()
        unknown = [row for row, text in enumerate(smiles) if text not in work.kept]
        work.parts.append(Part(name, batch["inchikey"].to_list(), smiles, unknown))
    work.there = {part.name: work.there[part.name] for part in work.parts if part.name in work.there}


def has_parts(store: ObjectStore, manifest: RawManifest) -> bool:
    """Return whether the parts that a manifest names are there, in the size that it names."""
    sizes = storage.list_sizes(store, storage.raw_prefix(manifest.model, manifest.shard))
    return all(sizes.get(part.name) == part.bytes for part in manifest.parts)


def put_part(store: ObjectStore, work: ShardWork, part: Part, printed: Mapping[int, tuple[str, bytes]]) -> None:
    """Write a part: what is `printed` for its unknown rows, with the reason of those that failed, and what is kept.

    Raises ShardError if what was kept has gone meanwhile.
    """
    try:
        rows = [
            Row(smiles, *printed[row]) if row in printed else work.kept[smiles]
            for row, smiles in enumerate(part.smiles)
        ]
    except FileNotFoundError:
        raise _disturbed(work.model, work.shard) from None
    content = _write(store, work, part.name, part.inchikeys, rows)
    _note(work, part.name, content, rows)


def put_piece(store: ObjectStore, work: ShardWork, part: Part, printed: Mapping[int, tuple[str, bytes]]) -> None:
    """Write what is printed for some rows of a part as a part of its own, which goes when the shard is finished.

    A run that comes after a killed one finds the rows in it by their molecules.
    """
    rows = [Row(part.smiles[row], *printed[row]) for row in sorted(printed)]
    inchikeys = [part.inchikeys[row] for row in sorted(printed)]
    name = name_piece(part.name, _digest([*inchikeys, *(row.smiles for row in rows)]))
    _write(store, work, name, inchikeys, rows)
    work.own |= {name}


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
    """Write the quarantine list and then the manifest; only then remove parts of the shard that it does not name.

    Parts in the same folder that were made for another number of shards stay: other shards' molecules are in them.
    `environment` is the one in which the last of them were computed.

    Raises ShardError if a part has gone meanwhile: another run has finished the shard and took it for a leftover.
    """
    listed = io.StringIO()
    writer = csv.writer(listed, lineterminator="\n")
    writer.writerow(("input", "reason"))
    writer.writerows(row for part in work.parts for row in work.failures[part.name])
    obstore.put(store, storage.quarantine(work.model, work.shard), listed.getvalue().encode())
    parts = tuple(work.there[part.name] for part in work.parts)
    manifest = RawManifest(
        model=work.model,
        release=work.release,
        shard=work.shard,
        shard_digest=work.shard_digest,
        columns=work.columns,
        parts=parts,
        rows=work.settled,
        quarantined=work.quarantined,
        environment=environment,
        adopted=work.adoption if work.adopts else None,
        seconds=round(work.seconds, 3),
        finished_at=datetime.now(UTC),
    )
    if not has_parts(store, manifest):
        raise _disturbed(work.model, work.shard)
    name = manifest_name(work.model, work.shard)
    obstore.put(store, name, manifest.model_dump_json().encode())
    for leftover in sorted(work.own - {part.name for part in parts}):
        with suppress(FileNotFoundError):
            obstore.delete(store, leftover)
    return manifest


def outcome(manifest: RawManifest, max_failure_rate: float) -> ShardOutcome:
    """Return what came of a shard whose manifest is there."""
    rate = check_failure_rate(manifest, max_failure_rate)
    return ShardOutcome(
        manifest.shard,
        digest=manifest.digest,
        source_digest=manifest.shard_digest,
        columns=manifest.columns,
        failure="" if rate.passed else f"shard {manifest.shard} of {manifest.model}: {rate.description}",
        facts={
            "rows": manifest.rows,
            "quarantined": manifest.quarantined,
            "parts": len(manifest.parts),
            "bytes": sum(part.bytes for part in manifest.parts),
            "path": manifest_name(manifest.model, manifest.shard),
            "release": manifest.release,
            "environment": manifest.environment,
            "seconds": manifest.seconds,
        },
        checks=(rate,),
    )


def _disturbed(model: str, shard: str) -> ShardError:
    return ShardError(f"another run has computed shard {shard} of {model} at the same time; run the same command again")


def _note(work: ShardWork, name: str, content: bytes | memoryview, rows: Sequence[Row]) -> None:
    """Take note of a part that is there."""
    failures = [(row.smiles, row.reason) for row in rows if row.reason]
    work.failures[name] = failures
    work.there[name] = PartInfo(
        name=name,
        rows=len(rows),
        quarantined=len(failures),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]

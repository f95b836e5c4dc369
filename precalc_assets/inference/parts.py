"""A shard's raw predictions in the making: its parts, which of them are there already, and the manifest at the end."""

import csv
import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

import obstore
import polars as pl
from obstore.store import ObjectStore

from precalc_assets import storage
from precalc_assets.columns import Column
from precalc_assets.inference.batching import Answer
from precalc_assets.outcomes import ShardOutcome
from precalc_assets.predictions import (
    PartInfo,
    RawManifest,
    check_failure_rate,
    manifest_name,
    read_text_csv,
    write_text_csv,
)

_GZIP_LEVEL = 4
"""A quarter of level 6's time for a tenth more bytes, on 2,048 counts a row."""


@dataclass(frozen=True, slots=True)
class Part:
    """A batch of a shard's molecules, and the name of the object that holds what the model printed for it.

    The name carries a digest of the release, the columns and the molecules: an object of that name was made from
    them and from nothing else, so that a killed run goes on behind it and another release's part is never taken.
    """

    name: str
    inchikeys: pl.Series
    smiles: pl.Series


@dataclass(slots=True)
class ShardWork:
    """One shard: its parts, what is known of those that are there, and what they list as failed by part."""

    model: str
    release: str
    columns: tuple[Column, ...]
    shard: str
    library_digest: str
    parts: list[Part] = field(default_factory=list)
    there: dict[str, PartInfo] = field(default_factory=dict)
    failures: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    manifest: RawManifest | None = None
    failure: str = ""
    seconds: float = 0.0

    def is_made_by(self, manifest: RawManifest) -> bool:
        """Whether a manifest is of this release, these columns and this version of the shard."""
        made = (manifest.release, manifest.columns, manifest.library_digest)
        return made == (self.release, self.columns, self.library_digest)

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
    prefix: str, release: str, columns: tuple[Column, ...], molecules: pl.DataFrame, size: int
) -> list[Part]:
    """Cut a shard's molecules (`inchikey`, `smiles`) into parts of `size`, the last one smaller."""
    header = "\n".join([release, *(f"{column.name} {column.type}" for column in columns)])
    parts = []
    for index, start in enumerate(range(0, molecules.height, size)):
        batch = molecules.slice(start, size)
        content = "\n".join([header, *batch["inchikey"], *batch["smiles"]])
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        parts.append(Part(f"{prefix}/part-{index:04d}-{digest}.csv.gz", batch["inchikey"], batch["smiles"]))
    return parts


def find_parts(store: ObjectStore, work: ShardWork, *, with_failures: bool) -> None:
    """Note which whole parts an earlier run has left; those in which molecules failed only `with_failures`."""
    names = storage.list_sizes(store, storage.raw_prefix(work.model, work.shard))
    for part in work.parts:
        if part.name in names:
            content = bytes(obstore.get(store, part.name).bytes())
            try:
                text = read_text_csv(gzip.decompress(content), ["input", "quarantine"])
            except (OSError, EOFError, zlib.error, ValueError, KeyError):
                continue
            if text["input"].equals(part.smiles) and (with_failures or text["quarantine"].is_null().all()):
                _note(work, part, content, text["quarantine"])


def has_parts(store: ObjectStore, manifest: RawManifest) -> bool:
    """Return whether the parts that a manifest names are there, in the size that it names."""
    sizes = storage.list_sizes(store, storage.raw_prefix(manifest.model, manifest.shard))
    return all(sizes.get(part.name) == part.bytes for part in manifest.parts)


def put_part(store: ObjectStore, work: ShardWork, part: Part, answer: Answer) -> None:
    """Write what the model printed for a part."""
    quarantine = pl.Series("quarantine", [answer.failures.get(row) for row in range(answer.text.height)], pl.String)
    text = pl.DataFrame([part.inchikeys.alias("key"), part.smiles.alias("input"), quarantine]).hstack(
        answer.text.get_columns()
    )
    content = gzip.compress(write_text_csv(text), _GZIP_LEVEL, mtime=0)
    obstore.put(store, part.name, content)
    _note(work, part, content, quarantine)


def finish(store: ObjectStore, work: ShardWork) -> RawManifest:
    """Write the quarantine list and then the manifest; only then remove the parts that it does not name."""
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
        library_digest=work.library_digest,
        columns=work.columns,
        parts=parts,
        rows=work.settled,
        quarantined=work.quarantined,
        seconds=round(work.seconds, 3),
        finished_at=datetime.now(UTC),
    )
    name = manifest_name(work.model, work.shard)
    obstore.put(store, name, manifest.model_dump_json().encode())
    listed_now = storage.list_sizes(store, storage.raw_prefix(work.model, work.shard))
    stale = listed_now.keys() - {name, *(part.name for part in parts)}
    obstore.delete(store, sorted(stale))
    return manifest


def outcome(manifest: RawManifest, max_failure_rate: float) -> ShardOutcome:
    """Return what came of a shard whose manifest is there."""
    rate = check_failure_rate(manifest, max_failure_rate)
    return ShardOutcome(
        manifest.shard,
        digest=manifest.digest,
        source_digest=manifest.library_digest,
        columns=manifest.columns,
        failure="" if rate.passed else f"shard {manifest.shard} of {manifest.model}: {rate.description}",
        facts={
            "rows": manifest.rows,
            "quarantined": manifest.quarantined,
            "parts": len(manifest.parts),
            "bytes": sum(part.bytes for part in manifest.parts),
            "path": manifest_name(manifest.model, manifest.shard),
            "release": manifest.release,
            "seconds": manifest.seconds,
        },
        checks=(rate,),
    )


def _note(work: ShardWork, part: Part, content: bytes, quarantine: pl.Series) -> None:
    """Take note of a part that is there: `quarantine` has a reason for each molecule that failed, else null."""
    failed = quarantine.is_not_null()
    work.failures[part.name] = list(zip(part.smiles.filter(failed), quarantine.filter(failed), strict=True))
    work.there[part.name] = PartInfo(
        name=part.name,
        rows=quarantine.len(),
        quarantined=int(failed.sum()),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )

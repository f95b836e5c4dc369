"""The molecules that a screen found, as a file: CSV, Parquet or SDF."""

import io
import json
from collections.abc import Callable
from pathlib import Path

from precalc.csv_cells import csv_text, spreadsheet_cell
from precalc.errors import PrecalcError, UsageError
from precalc.extras import require
from precalc.source import ScreenAnswer

Encode = Callable[[ScreenAnswer], bytes]


def to_csv(answer: ScreenAnswer) -> bytes:
    """Return exact CSV, see `csv_cells`."""
    return csv_text([column.name for column in answer.columns], answer.rows).encode()


def to_spreadsheet(answer: ScreenAnswer) -> bytes:
    """Return CSV of which a spreadsheet runs no text as a formula."""
    return csv_text([column.name for column in answer.columns], answer.rows, spreadsheet_cell).encode()


def to_parquet(answer: ScreenAnswer) -> bytes:
    """Return Parquet, typed, with nulls; the provenance is in the file's metadata, under `precalc`."""
    require("pyarrow", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"float": pa.float64(), "integer": pa.int64(), "string": pa.string()}
    schema = pa.schema([(column.name, kinds[column.type]) for column in answer.columns])
    rows = list(zip(*answer.rows, strict=True)) or [()] * len(answer.columns)
    arrays = [pa.array(cells, kind) for cells, kind in zip(rows, schema.types, strict=True)]
    table = pa.table(arrays, schema=schema.with_metadata({"precalc": json.dumps(answer.provenance)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def to_sdf(answer: ScreenAnswer) -> bytes:
    """Return a structure with drawn coordinates for each molecule, named by its InChIKey, with its values as data."""
    require("rdkit", "smiles")
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    names = [column.name for column in answer.columns]
    text = io.StringIO()
    with Chem.SDWriter(text) as writer:
        for row in answer.rows:
            molecule = Chem.MolFromSmiles(str(row[1]))
            if molecule is None:
                raise PrecalcError(f"{row[0]}: this RDKit cannot read its SMILES {row[1]!r}; write CSV instead")
            rdDepictor.Compute2DCoords(molecule)
            molecule.SetProp("_Name", str(row[0]))
            for name, value in zip(names, row, strict=True):
                if value is not None:
                    molecule.SetProp(name, str(value))
            writer.write(molecule)
    return text.getvalue().encode()


FORMATS: dict[str, Encode] = {"csv": to_csv, "spreadsheet": to_spreadsheet, "parquet": to_parquet, "sdf": to_sdf}


def find_encoder(name: str | None, path: Path | None) -> Encode:
    """Return what encodes the format of that name, else the one of the file's suffix, else CSV.

    Raises UsageError for an unknown format or suffix.
    """
    known = name or (path.suffix.lower().removeprefix(".") if path else "csv")
    if known in FORMATS:
        return FORMATS[known]
    if name:
        raise UsageError(f"--format {name}: there are {', '.join(FORMATS)}")
    raise UsageError(f"{path}: molecules are written as .csv, .parquet or .sdf; rename it, or give --format")

"""One reader of all files of molecules: `read_table` finds their columns, and yields their rows batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from precalc.errors import MoleculeFileError
from precalc.molecules.file_content import Content, Kind, open_content
from precalc.molecules.molecule_columns import ANY_MOLECULES, ReadRows, RowBatch, Wanted
from precalc.molecules.parquet_tables import read_parquet
from precalc.molecules.sd_files import read_sdf
from precalc.molecules.text_tables import read_text
from precalc.molecules.workbooks import read_workbook

_READERS: dict[Kind, Callable[[Content, Path, Wanted], tuple[tuple[str, ...], ReadRows]]] = {
    "text": read_text,
    "SDF": read_sdf,
    "workbook": read_workbook,
    "Parquet": read_parquet,
}


@dataclass(frozen=True, slots=True)
class MoleculeTable:
    """A file of molecules. `batches` reads its rows anew, and raises MoleculeFileError if it is damaged or empty."""

    path: Path
    wanted: Wanted
    names: tuple[str, ...]
    batches: Callable[[], Iterator[RowBatch]]


def read_table(path: Path, wanted: Wanted = ANY_MOLECULES) -> MoleculeTable:
    """Return the table in a file of molecules. Raises MoleculeFileError if there is none that can be read."""
    with open_content(path) as content:
        names, rows = _READERS[content.kind](content, path, wanted)

    def batches() -> Iterator[RowBatch]:
        n_rows = 0
        with open_content(path) as content:
            for batch in rows(content):
                n_rows += len(batch.rows)
                if batch.rows:
                    yield batch
        if not n_rows:
            raise MoleculeFileError(f"{path.name}: there is a header, and no row below it; add molecules")

    return MoleculeTable(path, wanted, names, batches)

"""`make demo`: runs both built-in models over real molecules, and prints tables of the results."""

import csv
import io
import time
from collections import Counter

import obstore
from rich.console import Console
from rich.table import Table

from precalc.cli import show_log
from precalc.cli.get import Options, get
from precalc_assets.cli.dagster_runs import Stage, run_model
from precalc_assets.library import LibraryManifest, read_manifest, read_sample
from precalc_assets.settings import load_settings
from precalc_assets.storage import REJECTED, open_store

MODELS = ("eos0aaa", "eos0bbb")

_READ_BACK = 3
_REASON_DETAIL = " for atom # "
"""The words before the atom in RDKit's reasons, which are counted without the atom."""

NEXT = """
What to look at next
  make ui                                      the asset graph, partitions, checks and runs of this demo
  .venv/bin/precalc get eos0aaa 'CN1CCCC1c1cccnc1' RYYVLZVUVIJVGH-UHFFFAOYSA-N
                                               read predictions by SMILES or InChIKey: nicotine, caffeine
  .venv/bin/precalc api                        the same in a browser and over HTTP, at http://127.0.0.1:8000
  .venv/bin/precalc library build FILE.csv     use molecules of your own
  .venv/bin/precalc run eos0aaa                run a model over them; unchanged shards are kept
"""


def main() -> None:
    """Run the demonstration."""
    show_log("precalc_assets")
    console = Console(highlight=False, markup=False, emoji=False)
    started = time.perf_counter()
    stages = [stage for model in MODELS for stage in run_model(model, None)]
    seconds = time.perf_counter() - started
    store = open_store(load_settings().store_url)
    library = read_manifest(store)
    console.print()
    console.print(_library_table(library, _rejections(bytes(obstore.get(store, REJECTED).bytes()))))
    console.print()
    console.print(_stage_table(stages))
    console.print(f"\ntook {seconds:.1f} s. Read back, as a reader would:")
    sample = read_sample(store, library, _READ_BACK)
    get([MODELS[0], *sample["inchikey"].to_pylist()], Options())
    print(NEXT)


def _rejections(content: bytes) -> Counter[str]:
    rows = csv.DictReader(io.StringIO(content.decode()))
    return Counter(row["reason"].partition(_REASON_DETAIL)[0] for row in rows)


def _library_table(library: LibraryManifest, rejections: Counter[str]) -> Table:
    table = Table("reference library", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    table.add_row("rows", f"{library.rows:,}")
    for reason, count in rejections.most_common():
        table.add_row(f"  rejected: {reason}", f"{count:,}")
    table.add_row("  duplicates", f"{library.duplicates:,}")
    table.add_row("molecules", f"{library.molecules:,}")
    table.add_row("shards", f"{library.n_shards:,}")
    return table


def _stage_table(stages: list[Stage]) -> Table:
    table = Table("asset", "model", box=None, pad_edge=False)
    for name in ("partitions", "rows", "seconds", "bytes", "write units"):
        table.add_column(name, justify="right")
    for stage in stages:
        units = f"{stage.write_units:,.0f}" if stage.asset in ("prediction_table", "library_shards") else ""
        size = f"{stage.bytes:,}" if stage.bytes else ""
        table.add_row(
            stage.asset,
            stage.model,
            str(len(stage.partitions) or 1),
            f"{stage.rows:,}",
            f"{stage.seconds:.1f}",
            size,
            units,
        )
    return table


if __name__ == "__main__":
    main()

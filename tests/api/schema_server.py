"""`precalc api` as a process, with tables of all that the OpenAPI document speaks of, and raw connections to it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from made_up import MODEL, serve
from serving import KEYS, predictions

from precalc_assets.columns import Column
from precalc_assets.tables import LIBRARY, open_tables

WIDE = "eos5wid"
WIDE_COLUMNS = tuple(Column(f"count_{i}", "integer", "", "") for i in range(300))
MODELS = (MODEL, WIDE)
SMILES = ("CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "not a molecule", "")
PARQUET = b"PAR1" + bytes(range(256)) * 64 + b"PAR1"
"""Stands for a file; only its bytes matter here."""


@dataclass(frozen=True)
class Server:
    """A server that runs. `log` is what it has printed."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def complaints(self) -> str:
        """Return what the server printed beyond its greeting."""
        return "\n".join(self.log.read_text().splitlines()[2:])

    def send(self, request: bytes, *, timeout: float = 20.0) -> bytes:
        """Return all that comes back for these bytes, up to the end of the connection or to silence."""
        answer = bytearray()
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(request)
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except (TimeoutError, ConnectionResetError):
                pass
        return bytes(answer)


def fill(folder: Path) -> dict[str, str]:
    """Make tables and a store in a folder, and return the settings of them."""
    tables = open_tables(f"sqlite:///{folder}/tables.db")
    serve(tables, predictions(KEYS))
    wide = {key: tuple(range(at, at + len(WIDE_COLUMNS))) for at, key in enumerate(KEYS)}
    serve(tables, wide, model=WIDE, columns=WIDE_COLUMNS, shards=("00", "01", "02"))
    smiles = {key: ("C" * (at + 1),) for at, key in enumerate(KEYS)}
    serve(tables, smiles, model=LIBRARY, columns=(Column("smiles", "string", "", ""),))
    tables.close()
    file = folder / "store" / "predictions" / f"model={MODEL}" / "shard=00.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(PARQUET)
    (folder / "store" / "secret.txt").write_text("a secret")
    (folder / "secret.txt").write_text("a secret")
    return {"PRECALC_TABLES_URL": f"sqlite:///{folder}/tables.db", "PRECALC_STORE_URL": f"file://{folder}/store"}


@contextmanager
def run_server(folder: Path) -> Iterator[Server]:
    """Serve what `fill` makes until the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRECALC_")}
    log = folder / "server.log"
    command = [str(Path(sys.executable).parent / "precalc"), "api", "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=inherited | fill(folder), cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Server(_url(process, log), log, process)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"(http://\S+)/docs", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"precalc api does not answer: {log.read_text()}")

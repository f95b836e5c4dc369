"""A machine on which the real ersilia CLI runs without Docker, conda and GitHub.

The CLI finds fakes of them: programs on the PATH, and a network through `http_proxy`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from precalc_assets.inference.model_backend import ModelBackend
from precalc_assets.inference.opening import open_backend, open_model
from precalc_assets.models.environment import ersilia_program
from precalc_assets.settings import Settings

STAND_INS = Path(__file__).parent / "bin"
OBEDIENT = Path(__file__).parent / "models" / "eos9obe"


def serve_in_thread(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve on a free port of this machine; yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


class _Connected(BaseHTTPRequestHandler):
    """Answers every GET with 200, so that the CLI finds a network."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def proxy_port() -> Iterator[int]:
    yield from serve_in_thread(_Connected)


class Machine:
    """A machine with the CLI installed, to open and run models."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir

    def settings(self, folder: Path, backend: str, **options: float | str) -> Settings:
        return Settings(models_dir=(folder.parent,), model_backend=backend, cache_dir=self.cache_dir, **options)

    def backend(self, folder: Path, backend: str = "ersilia", **options: float | str) -> ModelBackend:
        settings = self.settings(folder, backend, **options)
        return open_backend(open_model(folder.name, settings), settings)

    def fetched_at(self, model: str) -> float:
        """Return when a model was fetched into its first slot."""
        return (self.cache_dir / "ersilia" / f"{model}-0" / "home" / "fetched").stat().st_mtime

    def left(self) -> list[psutil.Process]:
        """Return the processes that run in one of the slots."""
        slots = str(self.cache_dir / "ersilia")
        processes = psutil.process_iter(["cmdline", "environ"])
        return [p for p in processes if (p.info["environ"] or {}).get("HOME", "").startswith(slots)]

    def servers(self) -> list[psutil.Process]:
        """Return the server processes."""
        return [process for process in self.left() if "--bundle_path" in process.info["cmdline"]]


@pytest.fixture(scope="session")
def ersilia_cache(models_cache: Path) -> Path:
    ersilia_program(models_cache)
    return models_cache


@pytest.fixture
def obedient() -> Path:
    """The folder of a model that answers, fails, hangs or prints no value, as its molecules tell it to."""
    return OBEDIENT


@pytest.fixture
def machine(ersilia_cache: Path, proxy_port: int, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{STAND_INS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
    return Machine(ersilia_cache)


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """A function that sets the status and text of a server's answers to POST, and returns its URL."""
    said: list[tuple[int, str]] = []

    class Handler(_Connected):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, text = said[-1]
            if not status:
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    ports = serve_in_thread(Handler)
    url = f"http://127.0.0.1:{next(ports)}"

    def answer(status: int, text: str) -> str:
        said.append((status, text))
        return url

    yield answer
    next(ports, None)

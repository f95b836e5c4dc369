"""A hub's registry for tests: entries as the hub writes them, in a file or served over HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def hub_entry(model: str, **fields: object) -> dict[str, object]:
    """Return an entry of the registry. `fields` replace its own, with _ for a blank; None leaves one out."""
    entry: dict[str, object] = {
        "Identifier": model,
        "Slug": f"slug-of-{model}",
        "Title": f"Title of {model}",
        "Status": "Ready",
        "Release": "v1.0.0",
        "Source": "Local",
        "Source_Type": "External",
        "Task": "Annotation",
        "Input": ["Compound"],
        "Output_Consistency": "Fixed",
        "License": "MIT",
        "Docker_Architecture": ["AMD64", "ARM64"],
        "Repository": {"label": "GitHub", "url": f"https://github.com/ersilia-os/{model}"},
        "Last_Packaging_Date": "2026-03-10",
        "Model_Size": 556,
        "Environment_Size": 8386,
        "Image_Size": 10014.36,
        "Computational_Performance_3": 58.14,
        "Computational_Performance_4": 421.92,
        "Computational_Performance_5": -1,
        **fields,
    }
    return {name.replace("_", " "): value for name, value in entry.items() if value is not None}


def write_registry(path: Path, *entries: object) -> str:
    """Write a registry of these entries; return its path."""
    path.write_text(json.dumps(entries, indent=2))
    return str(path)


@contextmanager
def served(content: bytes, status: int = 200) -> Iterator[str]:
    """Serve a registry; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/models.json"
        server.shutdown()

"""Local package sources for tests: an index for pip, and conda channels, without the network."""

import functools
import hashlib
import http.server
import io
import json
import os
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version of the Python that runs the tests."""


class PackageIndex:
    """An index of wheels with one empty module each, served with or without their upload times."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[str, dict[str, str | None]] = {}
        self.url = ""

    def add(self, name: str, version: str, uploaded: str | None, requires: Sequence[str] = ()) -> None:
        """Upload a version of a package, with a time such as 2025-01-31."""
        file = f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        needed = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        content = {
            f"{name}.py": "",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
        self._folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self._folder / file, "w") as wheel:
            for path, text in {**content, f"{info}/RECORD": record}.items():
                wheel.writestr(path, text)
        self._uploads.setdefault(name, {})[file] = uploaded and f"{uploaded}T00:00:00Z"

    def page(self, path: str) -> bytes | None:
        """Return the content at a path: a package's page (PEP 700) or a wheel."""
        kind, name = path.strip("/").split("/")
        if kind == "files":
            return (self._folder / name).read_bytes()
        if name not in self._uploads:
            return None
        files = [
            {"filename": file, "url": f"/files/{file}", "hashes": {}, **({"upload-time": at} if at else {})}
            for file, at in self._uploads[name].items()
        ]
        return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files}).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, index: PackageIndex, *arguments: object) -> None:
        self._index = index
        super().__init__(*arguments)

    def do_GET(self) -> None:
        content = self._index.page(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve_index(folder: Path) -> Iterator[PackageIndex]:
    """Serve an empty index on this machine."""
    index = PackageIndex(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, index))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class CondaChannels:
    """A folder of conda channels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"{folder.as_uri()}/"

    def add(
        self,
        channel: str,
        name: str,
        version: str,
        *,
        files: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        depends: Sequence[str] = (),
        built: str | None = None,
    ) -> None:
        """Add a package to a channel, with a build time such as 2025-01-31."""
        for platform in ("noarch", "linux-64", "linux-aarch64", "osx-64", "osx-arm64"):
            (self._folder / channel / platform).mkdir(parents=True, exist_ok=True)
            listing = self._folder / channel / platform / "repodata.json"
            if not listing.exists():
                listing.write_text(json.dumps({"info": {"subdir": platform}, "packages": {}, "packages.conda": {}}))
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": "noarch"}
        index |= {"depends": list(depends)}
        index |= {"timestamp": int(datetime.fromisoformat(built).timestamp()) * 1000} if built else {}
        texts, linked = dict(files or {}), dict(links or {})
        paths = [_path(path, text) for path, text in texts.items()]
        paths += [{"_path": path, "path_type": "softlink"} for path in linked]
        texts["info/index.json"] = json.dumps(index)
        texts["info/paths.json"] = json.dumps({"paths_version": 1, "paths": paths})
        texts["info/files"] = "\n".join(str(path["_path"]) for path in paths)
        package = self._folder / channel / "noarch" / f"{name}-{version}-0.tar.bz2"
        with tarfile.open(package, "w:bz2") as archive:
            for path, text in texts.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), 0o755
                archive.addfile(entry, io.BytesIO(text.encode()))
            for path, target in linked.items():
                entry = tarfile.TarInfo(path)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
        listing = self._folder / channel / "noarch" / "repodata.json"
        content = json.loads(listing.read_text())
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        content["packages"][package.name] = {**index, "sha256": digest, "size": package.stat().st_size}
        listing.write_text(json.dumps(content))

    def add_python(self, version: str) -> None:
        """Put a Python of this version into the default channel: a virtual environment of the tests' Python."""
        ours = Path(os.path.realpath(sys.executable))
        self.add(
            "conda-forge",
            "python",
            version,
            files={"pyvenv.cfg": f"home = {ours.parent}\ninclude-system-site-packages = false\n"},
            links={"bin/python": str(ours), "bin/python3": "python"},
        )


def _path(path: str, text: str) -> dict[str, object]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"_path": path, "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(text.encode())}

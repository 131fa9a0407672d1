"""A container registry that wants a login, on 127.0.0.1: what the engine and the docker command ask of one, no more.

Run as a program, in the network namespace of an engine, this file is the registry.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "puller", "invented-s3cr3t"


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry; ``host`` begins the names of its images."""

    host: str

    @property
    def docker_config(self) -> bytes:
        """What `docker login` leaves in config.json."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": login}}}).encode()


@contextlib.contextmanager
def private_registry(namespace: str) -> Iterator[Registry]:
    """A registry in the network namespace at a path."""
    argv = ("nsenter", f"--net={namespace}", sys.executable, __file__)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Registry(process.stdout.readline().strip())
        finally:
            process.terminate()


# --- the program -----------------------------------------------------------------------------------------------------

_ALLOWED = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
_blobs: dict[str, bytes] = {}  # by digest
_manifests: dict[str, tuple[str, bytes]] = {}  # the media type and content, by NAME/TAG and NAME/DIGEST


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        data = self._body()
        path = urlsplit(self.path)
        if self.headers.get("Authorization") != _ALLOWED:
            self._answer(401, b"{}", **{"WWW-Authenticate": 'Basic realm="test"'})
        elif match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path.path):
            self._manifest(match[1], match[2], data)
        elif "/blobs/uploads/" in path.path:
            self._upload(path.path, parse_qs(path.query), data)
        elif match := re.fullmatch(r"/v2/.+/blobs/(.+)", path.path):
            known = _blobs.get(match[1])
            self._answer(404 if known is None else 200, known or b"", **{"Docker-Content-Digest": match[1]})
        else:
            self._answer(200, b"{}")

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = handle_any  # noqa: N815

    def _manifest(self, name: str, reference: str, data: bytes) -> None:
        if self.command == "PUT":
            content = self.headers["Content-Type"], data
            _manifests[f"{name}/{reference}"] = _manifests[f"{name}/{_digest(data)}"] = content
            self._answer(201, b"", **{"Docker-Content-Digest": _digest(data)})
        elif known := _manifests.get(f"{name}/{reference}"):
            self._answer(200, known[1], **{"Content-Type": known[0], "Docker-Content-Digest": _digest(known[1])})
        else:
            self._answer(404, b"{}")

    def _upload(self, path: str, query: dict[str, list[str]], data: bytes) -> None:
        """An upload comes in one piece, by PATCH or with the PUT that ends it."""
        if self.command == "POST":
            self._answer(202, b"", Location=f"{path}x", Range="0-0")
            return
        if data:
            _blobs[_digest(data)] = data
        status = 201 if self.command == "PUT" else 202
        assert status == 202 or query["digest"][0] in _blobs
        self._answer(status, b"", Location=path, Range=f"0-{max(len(data) - 1, 0)}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

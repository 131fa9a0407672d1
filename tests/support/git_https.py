"""git over https for a test: git's own http-backend behind a certificate and a password."""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.commands import output
from tests.support.git_remote import GitRemote

TOKEN = "glpat-0123456789abcdef"


@dataclass(slots=True)
class HttpsRemote:
    """git http-backend behind TLS and a password, as a forge serves it. ``seen`` are the accounts that were tried."""

    root: Path
    certificate: Path
    accounts: set[str] = field(default_factory=lambda: {f"x-access-token:{TOKEN}"})
    redirect_to: str | None = None
    read_only: bool = False
    seen: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, remote: GitRemote) -> str:
        return f"https://localhost:{self.port}/{remote.path.name}"


def answer(server: HttpsRemote) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization", "").removeprefix("Basic ")
            account = base64.b64decode(authorization).decode()
            server.seen.append(account)
            if server.redirect_to is not None:
                self.reply(302, {"Location": f"{server.redirect_to}{self.path}"})
            elif account not in server.accounts:
                self.reply(401, {"WWW-Authenticate": 'Basic realm="git"'})
            elif server.read_only and "git-receive-pack" in self.path:
                self.reply(403, {})
            else:
                self.serve()

        do_POST = do_GET  # noqa: N815

        def serve(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            variables = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "x",
            }
            head, _, data = output("git", "http-backend", stdin=body, env=variables).partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.reply(int(fields.pop("Status", "200 OK").split()[0]), fields, data)

        def reply(self, status: int, fields: dict[str, str], data: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**fields, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def https_server(root: Path, directory: Path) -> Iterator[HttpsRemote]:
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    if not certificate.exists():
        names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        new = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        output("openssl", "req", *new, *names, "-keyout", key, "-out", certificate)
    remote = HttpsRemote(root, certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), answer(remote)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        remote.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield remote
        finally:
            server.shutdown()
            thread.join()

"""A git server behind TLS that lets nobody in, as a forge does whose token has expired."""

from __future__ import annotations

import base64
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.commands import output


@dataclass(slots=True)
class RefusingServer:
    """``url`` is a repository's address; ``accounts`` are those that were tried, as user:password; ``protocols``
    are what was agreed on over TLS."""

    url: str
    certificate: Path
    accounts: list[str] = field(default_factory=list)
    protocols: list[str | None] = field(default_factory=list)


@contextlib.contextmanager
def refusing_server(directory: Path) -> Iterator[RefusingServer]:
    """The server, with its key and certificate in ``directory``, which it makes."""
    directory.mkdir()
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    new = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    output("openssl", "req", *new, *names, "-keyout", key, "-out", certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    refusing = RefusingServer("", certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(refusing)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        refusing.url = f"https://localhost:{server.server_port}/config.git"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield refusing
        finally:
            server.shutdown()
            thread.join()


def _handler(refusing: RefusingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            refusing.protocols.append(self.connection.selected_alpn_protocol())
            if authorization := self.headers.get("Authorization"):
                refusing.accounts.append(base64.b64decode(authorization.removeprefix("Basic ")).decode())
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler

"""A service that takes apprise's json:// messages, on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class MessageReceiver:
    """``messages`` are those accepted so far. While ``open`` is cleared it takes requests and does not answer;
    otherwise it answers with ``status``. ``looks_for``: text that no process may show while a message is sent."""

    port: int = 0
    status: int = 200
    looks_for: str = ""
    open: threading.Event = field(default_factory=threading.Event)
    messages: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    shown_by: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open.set()

    @property
    def lines(self) -> list[str]:
        return [line for message in self.messages for line in message["message"].splitlines()]

    def take(self, body: bytes) -> int:
        self.requests += 1
        if self.looks_for:
            self.shown_by += [path for path in _process_facts() if self.looks_for.encode() in _read(path)]
        self.open.wait(60)
        if self.status == 200:
            self.messages.append(json.loads(body))
        return self.status


@contextlib.contextmanager
def message_receiver() -> Iterator[MessageReceiver]:
    """A receiver that serves while inside."""
    receiver = MessageReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with contextlib.suppress(OSError):  # whoever asked may have been ended
                self.send_response(receiver.take(body))
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.open.set()
            server.shutdown()
            thread.join()


def _process_facts() -> list[str]:
    directories = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [str(directory / name) for directory in directories for name in ("cmdline", "environ")]


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""

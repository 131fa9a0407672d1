"""A socket before the Docker engine's own that can be cut at any moment: to whoever uses it, the engine is stopped."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

from tests.support.engine_api import engine_socket


class Relay:
    """Passes bytes on between ``path`` and the engine, a thread for each direction of each connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = engine_socket()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._last_words: tuple[re.Pattern[bytes], int] | None = None
        self.was_cut = threading.Event()
        self.repair()

    @property
    def docker_host(self) -> str:
        return f"unix://{self.path}"

    def repair(self) -> None:
        self.was_cut.clear()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """From now on nobody answers, and what was being said is broken off."""
        with self._lock:
            if self._listener is not None:
                _close(self._listener)
                self._listener = None
                self.path.unlink()
            for connection in self._open:
                _close(connection)
            self._open.clear()
        self.was_cut.set()

    def cut_at(self, request: bytes, *, after: int = 0) -> None:
        """Cut when a request matches the pattern, instead of passing it on; ``after`` of them are let through."""
        self._last_words = re.compile(request), after

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._engine)
            with self._lock:
                if self._listener is not listener:
                    _close(client)
                    _close(engine)
                    return
                self._open |= {client, engine}
            threading.Thread(target=self._pass_on, args=(client, engine, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(engine, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if requests and self._is_the_last(data):
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _is_the_last(self, data: bytes) -> bool:
        with self._lock:
            if self._last_words is None or not self._last_words[0].match(data):
                return False
            pattern, after = self._last_words
            self._last_words = None if after == 0 else (pattern, after - 1)
            return after == 0


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

"""The daemon's listening sockets: how many clients are connected, for how long, and who makes room for whom.

The reconciliation must go on whatever clients do. So connections are capped below the limit of descriptors, and a new
client takes the place of the one that has been idle longest: a health check gets through while others hold all places.
asyncio's own accept loop is not used: without descriptors it logs a traceback for each of its 100 attempts a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from typing import cast

from aiohttp import web

from reconciler.app.config.listening import is_loopback
from reconciler.app.daemon.logs import RepeatedWarnings

HEADERS = {"Server": "reconciler", "X-Content-Type-Options": "nosniff"}
"""Of every response: without them aiohttp names its version and Python's."""

MALFORMED = "malformed HTTP request"

MOST_DESCRIPTORS = 65536
# For the state, git, Compose, and staged files (one memfd each).
_RESERVE = 192
_MOST_CONNECTIONS = 96  # of both interfaces together
_FEWEST_CONNECTIONS = 15

_HEADER_TIME = 10.0  # seconds for the first request to arrive, and for the header of each later one
_IDLE_TIME = 75.0  # seconds between two requests; longer than Prometheus's usual interval of a minute
_LONGEST_LIFE = 600.0  # seconds; the first response after that closes the connection
_GRACE = 120.0  # seconds after that until it is cut: it was idle, or its client does not read the rest
_LINGER = 2.0  # seconds in which the rest of a body is read and discarded, so that its sender sees the answer
_READ_AHEAD = 16 * 1024  # bytes of a body that are kept while nobody reads them
_WITHOUT_DESCRIPTORS = 1.0  # seconds until the next accept


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most to MOST_DESCRIPTORS; return the limit.

    Programs that the daemon starts inherit it, and some close every number up to it one by one: hence not unlimited.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connection_caps(descriptors: int) -> tuple[int, int]:
    """Given the limit of descriptors, return how many clients HTTP and the control socket may have."""
    room = max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, descriptors - _RESERVE))
    return room * 2 // 3, room // 3


class Connection(web.RequestHandler):
    """One client. It is closed where its request does not arrive in time, or where another client needs the place."""

    def __init__(self, listener: Listener, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as AppRunner passes it
            keepalive_timeout=_IDLE_TIME,
            lingering_time=_LINGER,
            read_bufsize=_READ_AHEAD,
            auto_decompress=False,  # a webhook's signature is that of the bytes on the wire
        )
        self._listener = listener
        self._opened = self._idle_since = self._loop.time()
        self._busy = self._partial = self._aborted = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._life_timer = self._loop.call_later(_LONGEST_LIFE + _GRACE, self._cut)
        self._socket: asyncio.Transport | None = None  # also while aiohttp, which forgets it, waits for the last bytes

    @property
    def rank(self) -> tuple[bool, float]:
        """The smallest makes room first: idle before busy, then whoever has been so longest."""
        return self._busy, self._idle_since

    @property
    def peer(self) -> str:
        address = self.peername
        return str(address[0]) if isinstance(address, tuple) else self._listener.name

    @property
    def from_this_machine(self) -> bool:
        """Whether the client is here: its process, or a proxy's."""
        return not isinstance(self.peername, tuple) or is_loopback(self.peer)

    @property
    def outlived(self) -> bool:
        return self._loop.time() - self._opened > _LONGEST_LIFE

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While inside, a request of this client is being answered."""
        self._stop_timer()
        self._busy, self._partial, self._idle_since = True, False, self._loop.time()
        try:
            yield
        finally:
            self._busy, self._idle_since = False, self._loop.time()

    def abort(self) -> None:
        """Close it without sending what still waits to be sent."""
        self._aborted = True
        if self._socket is not None:
            self._socket.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        self._start_timer()
        if self._aborted:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if data and not self._busy:
            self._partial = True
            self._start_timer()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        self._life_timer.cancel()
        self._socket = None
        self._listener.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP gets a short answer and no traceback; a defect of ours gets one, as in aiohttp."""
        self._stop_timer()
        if status != web.HTTPBadRequest.status_code:
            response = super().handle_error(request, status, exc, message)
        else:
            self._listener.warnings.note(MALFORMED, peer=self.peer, reason=type(exc).__name__)
            response = web.Response(status=status, text="malformed request\n")
            response.force_close()
        response.headers.update(HEADERS)
        return response

    def _start_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self._loop.call_later(_HEADER_TIME, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        if self._partial:
            self._listener.warnings.note("HTTP request did not arrive in time", peer=self.peer)
        self.abort()

    def _cut(self) -> None:
        if self._busy:  # on the control socket, a request may take as long as the slowest service
            self._life_timer = self._loop.call_later(_GRACE, self._cut)
        else:
            self.abort()


class Listener:
    """Accepts clients for ``server``, at most ``cap`` at the same time.

    A new one takes the place of the one that has been idle longest. If all are busy, the longest busy one goes where
    ``busy_may_go``; else the new one is refused. ``name`` is what a client without an address is called.
    """

    def __init__(
        self, server: web.Server, cap: int, warnings: RepeatedWarnings, *, busy_may_go: bool, name: str
    ) -> None:
        self.warnings = warnings
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._cap = cap
        self._busy_may_go = busy_may_go
        self._sockets: list[socket.socket] = []
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """Where clients are accepted."""
        return self._sockets

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept clients at these sockets from now on, and no longer at the former ones."""
        self.close()
        self._sockets = list(sockets)
        for listening in sockets:
            listening.setblocking(False)
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept nobody any more; who is connected stays."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets = []

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _accept(self, listening: socket.socket) -> None:
        """One client in each turn of the loop, so that those who are connected get their turns in between."""
        try:
            client, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor or no memory is left
            reason = os.strerror(error.errno or 0)
            self.warnings.note("cannot accept a connection", reason=reason)
            self._make_room()
            self._loop.remove_reader(listening)
            self._loop.call_later(_WITHOUT_DESCRIPTORS, self._resume, listening)
            return
        if len(self._connections) >= self._cap:
            self.warnings.note("too many connections; the one idle longest is closed for each new one", cap=self._cap)
            if not self._make_room():
                client.close()
                return
        client.setblocking(False)
        connection = Connection(self, self._server)
        self._connections.add(connection)
        task = self._loop.create_task(self._open(connection, client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except OSError:  # it has gone already
            self._connections.discard(connection)
            client.close()

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _make_room(self) -> bool:
        """Close the connection that can be missed most; return whether there is one."""
        first = min(self._connections, key=lambda connection: connection.rank, default=None)
        if first is None or (first.rank[0] and not self._busy_may_go):
            return False
        self._connections.discard(first)
        first.abort()
        return True

"""How long a client may take, who makes room for whom, and what it is answered: on real sockets, with short times."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from reconciler.app.config.listening import Address
from reconciler.app.config.sections import Http
from reconciler.app.daemon import logs
from reconciler.app.daemon.http import connections, webhook
from reconciler.app.daemon.http import guard as http_guard
from reconciler.app.daemon.http.guard import is_allowed_host
from reconciler.app.daemon.http.interfaces import CurrentViews, Interfaces, Views, serve_interfaces
from reconciler.app.daemon.loop import Daemon
from reconciler.app.daemon.request_queue import RequestQueue
from reconciler.app.daemon.requests import Turn
from reconciler.core.ports.store import Store
from tests.support.cases import each
from tests.support.waiting import until

SECRET = b"the webhook's own secret"
PUSH = b'{"ref": "refs/heads/main"}'
SIGNATURE = b"X-Hub-Signature-256: sha256=" + hmac.new(SECRET, PUSH, hashlib.sha256).hexdigest().encode()
HOST = b"Host: 127.0.0.1\r\n"
LONG = 3600.0


class Awake:
    """A daemon that is always well, and counts the polls that it is asked for."""

    alive = ready = True
    polls = 0
    environments = ("production",)

    def __init__(self) -> None:
        self.requests = RequestQueue(lambda: None)

    async def between_reconciliations(self, work: Callable[[], Awaitable[Any]], progress: Any) -> Any:
        return await self.requests.put(work, progress)

    def poll_now(self, _: str) -> None:
        self.polls += 1


class Site:
    """Both interfaces, in this process."""

    def __init__(self, interfaces: Interfaces, port: int, socket_path: str, views: Views) -> None:
        self.interfaces = interfaces
        self.port = port
        self.socket_path = socket_path
        self.views = views
        self.clients: list[Client] = []

    async def connect(self, data: bytes = b"") -> Client:
        return await self._client(Client(*await asyncio.open_connection("127.0.0.1", self.port)), data)

    async def command(self, data: bytes = b"") -> Client:
        return await self._client(Client(*await asyncio.open_unix_connection(self.socket_path)), data)

    async def _client(self, client: Client, data: bytes) -> Client:
        self.clients.append(client)
        await client.send(data)
        return client

    async def ask(self, data: bytes) -> bytes:
        """The whole answer to one request, which asks to close the connection."""
        return await (await self.connect(data)).rest()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        self._writer.transport.abort()

    async def answer(self) -> bytes:
        """The header of the next answer and what has come of its body."""
        return await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 60)

    async def rest(self) -> bytes:
        """Everything until the other side closes the connection."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await asyncio.wait_for(self._reader.read(65536), 60):
                data += chunk
        return data

    async def closed(self) -> bool:
        return await self.rest() == b""


def get(path: str, *headers: bytes, host: bytes = HOST) -> bytes:
    lines = b"".join(header + b"\r\n" for header in (*headers, b"Connection: close"))
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + host + lines + b"\r\n"


def post(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = b"".join(header + b"\r\n" for header in (*headers, b"Connection: close"))
    size = len(body) if length is None else length
    return b"POST /webhook HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n" % size + lines + b"\r\n" + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


Serving = Callable[..., contextlib.AbstractAsyncContextManager[Site]]


async def no_reload(_: Any) -> None:
    raise NotImplementedError


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """``serving(**times)`` serves both interfaces; every time that is not given is an hour."""

    @contextlib.asynccontextmanager
    async def serve(
        *,
        descriptors: int = 1024,
        metrics: bytes = b"# nothing\n",
        **times: float,
    ) -> AsyncIterator[Site]:
        for module, name in (
            (connections, "_HEADER_TIME"),
            (connections, "_IDLE_TIME"),
            (connections, "_LONGEST_LIFE"),
            (http_guard, "_TIME"),
            (webhook, "_BODY_TIME"),
        ):
            monkeypatch.setattr(module, name, times.get(name.strip("_").lower(), LONG))
        source, path = CurrentViews(), str(tmp_path / "control.sock")

        async def work() -> Any:
            raise NotImplementedError

        async def serve(_: Any, turn: Turn, __: Any) -> Any:
            return await turn(work)

        daemon, secret = Awake(), tmp_path / "secret"
        secret.write_bytes(SECRET)
        views = Views(
            cast(Daemon, daemon),
            cast(Store, None),
            lambda: metrics,
            serve,
            webhook.WebhookReceiver(str(secret), "main"),
        )
        async with serve_interfaces(
            source, reload=no_reload, control_socket=path, descriptors=descriptors
        ) as interfaces:
            where = await interfaces.listen(Http().model_copy(update={"listen": Address("127.0.0.1", 0)}))
            port = int(where.rpartition(":")[2])
            async with source.provide(views):
                site = Site(interfaces, port, path, views)
                yield site
                daemon.requests.close()
        for client in site.clients:
            client.close()

    return serve


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


# --- how long ---


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
async def test_a_request_that_does_not_arrive_in_time_ends_the_connection(serving: Serving, sent: bytes) -> None:
    async with serving(header_time=0.05) as site:
        assert await (await site.connect(sent)).closed()


async def test_a_later_request_has_a_time_of_its_own(serving: Serving) -> None:
    async with serving(header_time=0.2) as site:
        client = await site.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"200 OK" in await client.answer()
        await client.send(b"GET /healthz HTT")
        assert b"HTTP/1.1" not in await client.rest()


async def test_an_idle_connection_is_closed(serving: Serving) -> None:
    async with serving(idle_time=0.05) as site:
        client = await site.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"200 OK" in await client.answer()
        await client.rest()


async def test_a_connection_of_great_age_ends_with_an_answer(serving: Serving) -> None:
    async with serving(longest_life=-1.0) as site:
        client = await site.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await client.rest()
        assert b"Connection: close" in answer
        assert answer.endswith(b"alive\n")


async def test_a_client_that_does_not_read_is_cut_off(serving: Serving, lines: list[Any]) -> None:
    async with serving(metrics=b"x" * 20_000_000, time=0.5) as site:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", site.port))
            slow.sendall(get("/metrics"))
            assert await until(lambda: bool(lines))
    assert [line["event"] for line in lines] == ["HTTP client does not read its answer"]


async def test_a_body_that_does_not_arrive_in_time_is_answered(serving: Serving) -> None:
    async with serving(body_time=0.05) as site:
        answer = await site.ask(post(b"x", SIGNATURE, length=1000))
    assert status_of(answer) == 408


# --- the webhook's body ---


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(post(b"", length=1000), 403, id="no signature"),
        pytest.param(post(b"", b"X-Hub-Signature-256: sha256=abc", length=1000), 403, id="no signature's form"),
        pytest.param(post(b"", b"X-Gitlab-Token: guess", length=1000), 403, id="wrong token"),
        pytest.param(post(PUSH, b"X-Gitlab-Token: " + SECRET), 202, id="token"),
        pytest.param(post(b"", SIGNATURE, length=1024 * 1024 + 1), 413, id="too large"),
        pytest.param(post(PUSH, SIGNATURE), 202, id="signature"),
        pytest.param(post(PUSH + b" ", SIGNATURE), 403, id="forged"),
    ],
)
async def test_a_body_is_read_only_where_a_signature_needs_it(
    serving: Serving, request_: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_LINGER", 0.01)
    async with serving() as site:
        assert status_of(await site.ask(request_)) == status
        assert cast(Awake, site.views.daemon).polls == (status == 202)


async def test_a_chunked_body_is_bounded_too(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER", 0.01)
    head = b"POST /webhook HTTP/1.1\r\n" + HOST + SIGNATURE + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving() as site:
        client = await site.connect(head + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 40)
        assert b" 413 " in await client.answer()


# --- who makes room ---


async def test_a_new_client_takes_the_place_of_the_one_idle_longest(serving: Serving, lines: list[Any]) -> None:
    async with serving(descriptors=64) as site:
        clients = [await site.connect() for _ in range(10)]
        await clients[0].send(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"200 OK" in await clients[0].answer()
        for _ in range(5):
            assert b"200 OK" in await site.ask(get("/healthz"))
        assert await clients[1].closed()
        await clients[0].send(get("/healthz"))
        assert b"alive" in await clients[0].rest()
    assert {line["event"].partition(";")[0] for line in lines} == {"too many connections"}
    assert len(lines) == 1


async def test_waiting_commands_are_never_closed_and_are_answered_at_the_end(serving: Serving) -> None:
    body = b'{"kind": "sync"}'
    request = b"POST /api/v1/request HTTP/1.1\r\nHost: daemon\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with serving(descriptors=64, header_time=1.0) as site:
        commands = [await site.command(request) for _ in range(5)]
        for command in commands:
            assert b"200 OK" in await command.answer()
        assert await (await site.command(request)).closed()
        assert await (await site.connect()).closed()  # later than they, for want of a header
    for command in commands:
        assert b"the daemon is stopping" in await command.rest()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
async def test_what_is_no_request_is_refused_at_the_control_socket_without_a_traceback(
    serving: Serving, body: bytes, lines: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    request = b"POST /api/v1/request HTTP/1.1\r\nHost: daemon\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with serving() as site:
        assert status_of(await (await site.command(request)).answer()) == 400
    assert (lines, caplog.records) == ([], [])


async def test_without_descriptors_clients_wait_and_nothing_spins(
    serving: Serving, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_WITHOUT_DESCRIPTORS", 0.05)
    accept, attempts = connections.Listener._accept, []

    def counted(listener: connections.Listener, listening: socket.socket) -> None:
        attempts.append(listening)
        accept(listener, listening)

    monkeypatch.setattr(connections.Listener, "_accept", counted)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as site:
        with socket.socket() as client, contextlib.ExitStack() as stack:
            client.setblocking(False)
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            with contextlib.ExitStack() as taken:
                with contextlib.suppress(OSError):
                    while True:
                        taken.callback(os.close, os.dup(0))
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", site.port))
                await loop.sock_sendall(client, get("/healthz"))
                assert await until(lambda: bool(lines))
                began = loop.time()
                assert await until(lambda: len(attempts) >= 4)
                assert loop.time() - began > 0.1
            assert b"200 OK" in await asyncio.wait_for(loop.sock_recv(client, 65536), 60)
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("cannot accept a connection", "Too many open files")
    ]


@pytest.mark.parametrize(("descriptors", "caps"), [(64, (10, 5)), (256, (42, 21)), (1024, (64, 32)), (65536, (64, 32))])
def test_caps_leave_room_for_the_reconciliation(descriptors: int, caps: tuple[int, int]) -> None:
    assert connections.connection_caps(descriptors) == caps


# --- what is answered ---


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(get("/healthz"), 200, id="well"),
        pytest.param(get("/metrics"), 200, id="metrics"),
        pytest.param(get("/elsewhere"), 404, id="no such path"),
        pytest.param(get("/webhook"), 405, id="no such method"),
        pytest.param(post(PUSH), 403, id="not authentic"),
        pytest.param(get("/healthz", host=b"Host: evil.example\r\n"), 421, id="another host"),
        pytest.param(get("/elsewhere", host=b"Host: evil.example\r\n"), 421, id="another host's path"),
        pytest.param(get("/healthz", host=b""), 400, id="no host"),
        pytest.param(get("/healthz", host=HOST + b"Host: other\r\n"), 400, id="two hosts"),
        pytest.param(get("/healthz", host=b"").replace(b"HTTP/1.1", b"HTTP/1.0"), 200, id="old health checker"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 10_000 + b"\r\n\r\n", 400, id="long header"),
        pytest.param(b"BREW /pot HTCPCP/1.0\r\n\r\n", 400, id="another protocol"),
        pytest.param(get("/api/v1/status"), 500, id="a defect of ours"),
        pytest.param(
            b"POST /webhook HTTP/1.1\r\n"
            + HOST
            + SIGNATURE
            + b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
            400,
            id="a body that is no chunk",
        ),
    ],
)
async def test_every_answer_is_neutral(serving: Serving, request_: bytes, status: int) -> None:
    async with serving() as site:
        answer = await site.ask(request_)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert status_of(answer) == status
    assert b"\r\nx-content-type-options: nosniff" in head
    assert [line for line in head.splitlines() if line.startswith(b"server:")] == [b"server: reconciler"]
    assert b"python" not in answer.lower()
    assert b"aiohttp" not in answer.lower()


async def test_malformed_requests_give_one_line_a_minute_and_its_count(
    serving: Serving, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_QUIET", 1.0)
    async with serving() as site:
        for _ in range(20):
            assert status_of(await site.ask(b"\x00\x01\r\n\r\n")) == 400
        assert await until(lambda: len(lines) == 2)
    assert [(line["event"], line["log_level"]) for line in lines] == [("malformed HTTP request", "warning")] * 2
    assert [line["count"] for line in lines] == [1, 19]
    assert not any("exc_info" in line for line in lines)


@each(
    ("header", "local", "names", "allowed"),
    [
        ("127.0.0.1:9464", "127.0.0.1", (), True),
        ("localhost:9464", "127.0.0.1", (), True),
        ("LOCALHOST", "::1", (), True),
        ("localhost", "10.0.0.5", (), False),
        ("[::1]:9464", "::1", (), True),
        ("[0:0::1]", "::1", (), True),
        ("10.0.0.5:9464", "::ffff:10.0.0.5", ("::",), True),
        ("10.0.0.6:9464", "10.0.0.5", ("0.0.0.0",), False),
        ("evil.example:9464", "127.0.0.1", (), False),
        ("127.0.0.1.evil.example", "127.0.0.1", (), False),
        ("127.0.0.1@evil.example", "127.0.0.1", (), False),
        ("web-1:9464", "10.0.0.5", ("web-1",), True),
        ("Web-1.:9464", "10.0.0.5", ("web-1",), True),
        ("web-1.evil.example", "10.0.0.5", ("web-1",), False),
        ("[fe80::1]:1", "fe80::1%eth0", (), True),
        ("", "127.0.0.1", (), False),
    ],
)
def test_only_our_own_names_are_a_host(header: str, local: str, names: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed_host(header, local, names) is allowed

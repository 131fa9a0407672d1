"""The daemon's two interfaces: HTTP (read-only, plus the webhook), and a 0600 socket for the commands on this host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from reconciler.app.config.listening import Address
from reconciler.app.config.sections import Http
from reconciler.app.daemon.answers import serialize
from reconciler.app.daemon.client import FROM_MEMORY, REQUEST_PATH, Progress, Request
from reconciler.app.daemon.http.access import Access, read_token
from reconciler.app.daemon.http.api import add_api
from reconciler.app.daemon.http.connections import HEADERS, Listener, connection_caps
from reconciler.app.daemon.http.guard import control_guard, public_guard
from reconciler.app.daemon.http.listening_sockets import HttpSockets, bind_control_socket, bind_http
from reconciler.app.daemon.http.pages import page_routes
from reconciler.app.daemon.http.webhook import WebhookReceiver
from reconciler.app.daemon.logs import RepeatedWarnings, get_logger
from reconciler.app.daemon.loop import Daemon
from reconciler.app.daemon.request_queue import NotServedError
from reconciler.app.daemon.requester import requester_of
from reconciler.app.daemon.requests import Turn, list_runs
from reconciler.core.errors import OutsideError, ReconcilerError, RefusedError
from reconciler.core.history.entries import iso_instant
from reconciler.core.ports.store import Store

_WITHDRAWAL = 15.0  # seconds for the answers under way to end before a reload goes on without them
_GOODBYE = 5.0  # seconds for the answers under way when the daemon ends
_SERVICES = 2.0  # seconds for the engines to say how services are: who asks for the status waits 3


@dataclass(frozen=True, slots=True)
class Views:
    """What the handlers use: the daemon, its memory, the text of a scrape, and ``serve``, which serves a request.

    ``announced`` takes the status that the webhook answers with; ``plan_soon`` looks at the open pull requests.
    ``host`` and ``repository_url`` are the server configuration's, for the pages; ``comparisons`` returns its pairs of
    sides with their last results.
    """

    daemon: Daemon
    store: Store
    render_metrics: Callable[[], bytes]
    serve: Callable[[Request, Turn, Progress], Coroutine[Any, Any, Any]]
    webhook: WebhookReceiver | None = None
    announced: Callable[[int], None] = lambda _: None
    plan_soon: Callable[[], None] = lambda: None
    host: str = ""
    repository_url: str = ""
    http: str = ""
    """Where HTTP is served."""
    comparisons: Callable[[], list[dict[str, Any]]] = list
    """The pairs of sides that are compared, each with its last result."""

    async def status(self) -> dict[str, Any]:
        environments = await asyncio.gather(*(self._environment(name) for name in self.daemon.environments))
        daemon, history = {"running": True, "pid": os.getpid(), "http": self.http}, asdict(self.store.history_head())
        return {"daemon": daemon, "history": history, "environments": environments}

    async def _environment(self, name: str) -> dict[str, Any]:
        last, record = self.daemon.last_outcomes.get(name), self.store.environment(name)
        reconciler = self.daemon.reconcilers[name]
        doing = {
            "engine_away": reconciler.engine_away,
            "reconciling": serialize.serialize_activity(reconciler.activity),
        }
        if last is None:
            return {**serialize.serialize_environment(record, None, {}), **doing, "services": []}
        status = serialize.serialize_environment(
            record, last.outcome, self.store.applied(name), at=last.at, since=last.since
        )
        for change in (status["after"] or {"changes": []})["changes"]:
            change["since"] = iso_instant(last.targets[change["target"]][1])
        return {**status, **doing, **await serialize.serialize_services(reconciler, within=_SERVICES)}


class CurrentViews:
    """The views of the daemon that runs. Between two daemons, during a reload, whoever asks waits for the next one."""

    def __init__(self) -> None:
        self._views: Views | None = None
        self._provided = asyncio.Event()
        self._withdrawn = asyncio.Event()
        self._closed = False
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Views]:
        """The views, which stay usable inside. Raises NotServedError where no daemon comes any more."""
        while not self._provided.is_set():  # again where the next reload was faster
            await self._provided.wait()
        if self._closed or self._views is None:
            raise NotServedError
        self._users += 1
        self._unused.clear()
        try:
            yield self._views
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    @contextlib.asynccontextmanager
    async def provide(self, views: Views) -> AsyncIterator[None]:
        """These are the views inside; at the end nobody uses them any more."""
        self._views = views
        self._withdrawn.clear()
        self._provided.set()
        try:
            yield
        finally:
            self._provided.clear()
            self._withdrawn.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WITHDRAWAL):
                    await self._unused.wait()
            self._views = None

    async def withdrawal(self, views: Views) -> None:
        """Wait until these are no longer the views to use."""
        if self._views is views:
            await self._withdrawn.wait()

    def close(self) -> None:
        """No daemon comes any more: nobody waits for one."""
        self._closed = True
        self._provided.set()


class Interfaces:
    """Both interfaces, for as long as the process lives; ``listen`` moves the public one, on a reload."""

    def __init__(self, public: web.Server, control: web.Server, descriptors: int, warnings: RepeatedWarnings) -> None:
        caps = connection_caps(descriptors)
        self._public = Listener(public, caps[0], warnings, busy_may_go=True, name="unix socket")
        self._control = Listener(control, caps[1], warnings, busy_may_go=False, name="control socket")
        self._http: Http | None = None
        self._sockets = HttpSockets()

    @property
    def http(self) -> Http:
        """The settings in use. Nobody is served before there are some."""
        assert self._http is not None
        return self._http

    def hosts(self) -> tuple[str, ...]:
        """What a Host header may name, beside the local address of the connection."""
        listen = self.http.listen
        return (*([listen.host] if isinstance(listen, Address) else []), *self.http.allowed_hosts)

    async def listen(self, http: Http) -> str:
        """Serve HTTP at ``http.listen``, and no longer where it was; return where that is, with the port which the
        kernel chooses for 0.

        Raises RefusedError where that cannot be used, ConfigError for an unusable token; then the former one stays.
        """
        if http.token_file is not None:
            read_token(http.token_file)
        with _named(str(http.listen), "http.listen"):
            moves = self._http is None or http.listen != self._http.listen
            if moves or self._sockets.lost:
                former, self._sockets = self._sockets, await bind_http(http)
                self._public.listen(self._sockets.sockets)
                if moves:
                    former.remove_file()
            else:
                self._sockets.serve(http)
        self._http = http
        listen = http.listen
        return str(listen._replace(port=self._sockets.port) if isinstance(listen, Address) else listen)

    def listen_for_commands(self, path: str) -> None:
        """Serve the commands of this host at the socket. Raises RefusedError."""
        with _named(path, "state_dir"):
            self._control.listen([bind_control_socket(path)])

    def close(self) -> None:
        self._public.close()
        self._sockets.remove_file()
        self._control.close()


@contextlib.asynccontextmanager
async def serve_interfaces(
    source: CurrentViews,
    *,
    reload: Callable[[Progress], Coroutine[Any, Any, None]],
    control_socket: str,
    descriptors: int,
) -> AsyncIterator[Interfaces]:
    """Serve the control socket while inside, and HTTP once ``Interfaces.listen`` says where. At the end, whoever
    waits for ``source`` is refused. ``reload`` takes the server configuration again. ``descriptors`` is the limit of
    the process. Raises RefusedError."""
    warnings = RepeatedWarnings()
    access = Access(lambda: interfaces.http, warnings)
    app = web.Application(middlewares=[public_guard(lambda: interfaces.hosts(), warnings), access.guard()])
    _add_public(app, source, warnings)
    add_api(app, source)
    app.add_routes([web.get("/login", access.show_login), web.post("/login", access.log_in)])
    public = web.AppRunner(app, access_log=None, shutdown_timeout=_GOODBYE)
    control = web.AppRunner(_control(source, reload), access_log=None, shutdown_timeout=_GOODBYE)
    await public.setup()
    await control.setup()
    assert public.server is not None
    assert control.server is not None
    interfaces = Interfaces(public.server, control.server, descriptors, warnings)
    try:
        interfaces.listen_for_commands(control_socket)
        yield interfaces
    finally:
        interfaces.close()
        source.close()
        await public.cleanup()
        await control.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(control_socket)


@contextlib.contextmanager
def _named(where: str, setting: str) -> Iterator[None]:
    """Turn an OSError into a RefusedError that names the setting."""
    try:
        yield
    except OSError as error:
        # Neither a name that is not found nor a socket's path of more than 107 bytes is a number of the system's.
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        hint = f"Choose another {setting}"
        raise RefusedError(f"cannot listen ({reason})", where=where, hint=hint, id="cannot-listen") from error


def _add_public(app: web.Application, source: CurrentViews, warnings: RepeatedWarnings) -> None:
    async def metrics(_: web.Request) -> web.Response:
        async with source.use() as views:
            response = web.Response(
                body=views.render_metrics(),
                headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
            )
            response.enable_compression()  # Prometheus accepts gzip
            return response

    async def healthz(_: web.Request) -> web.Response:
        async with source.use() as views:
            return _probe_response(views.daemon.alive, "alive", "the loop has not turned lately")

    async def readyz(_: web.Request) -> web.Response:
        async with source.use() as views:
            away = "".join(f"\n{name}: {reason}" for name, reason in views.daemon.engines_away.items())
            return _probe_response(views.daemon.ready, f"ready{away}", f"the first reconciliation has not ended{away}")

    async def webhook(request: web.Request) -> web.Response:
        async with source.use() as views:
            if views.webhook is None:
                raise web.HTTPNotFound
            answer = await views.webhook.judge(request, warnings)
            views.announced(answer.status)
            if answer.polls:
                views.daemon.poll_now("webhook")
            if answer.plans:
                views.plan_soon()
            return web.Response(status=answer.status, text=f"{answer.text}\n")

    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    app.add_routes([web.post("/webhook", webhook)])
    app.add_routes(page_routes(source))


def _control(source: CurrentViews, reload: Callable[[Progress], Coroutine[Any, Any, None]]) -> web.Application:
    app = web.Application(middlewares=[control_guard()])

    async def serve(http_request: web.Request) -> web.StreamResponse:
        request = {**await _request_in(http_request), "requested_by": _requester_at(http_request)}
        if request["kind"] in FROM_MEMORY:  # also while something is reconciled
            return await _stream(http_request, lambda _: read_memory(request))
        if request["kind"] == "reload":  # it ends the daemon that the others are served by
            return await _stream(http_request, reload)
        return await _stream(http_request, lambda progress: serve_in_turn(request, progress))

    async def serve_in_turn(request: Request, progress: Progress) -> Any:
        """Serve it between two reconciliations; after a reload, in the next daemon."""
        while True:
            async with source.use() as views:
                with contextlib.suppress(NotServedError):
                    turn = functools.partial(views.daemon.between_reconciliations, progress=progress)
                    return await views.serve(request, turn, progress)
            await source.withdrawal(views)

    async def read_memory(request: Request) -> Any:
        async with source.use() as views:
            if request["kind"] == "history":
                return list_runs(views.store, views.daemon.reconcilers, request)
            if request["kind"] == "comparisons":
                return views.comparisons()
            return await views.status()

    app.add_routes([web.post(REQUEST_PATH, serve)])
    return app


async def _request_in(http_request: web.Request) -> dict[str, Any]:
    """The request that is sent to the control socket. Raises HTTPBadRequest where it is none."""
    try:
        request = await http_request.json()
    except ValueError:
        request = None
    if not isinstance(request, dict) or "kind" not in request:
        raise web.HTTPBadRequest
    return request


def _requester_at(http_request: web.Request) -> str:
    """Who is at the other end of the control socket, by what the kernel says of it."""
    connection = http_request.transport.get_extra_info("socket") if http_request.transport else None
    if connection is None:
        return ""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return requester_of(uid, pid)


async def _stream(
    http_request: web.Request, work: Callable[[Progress], Coroutine[Any, Any, Any]]
) -> web.StreamResponse:
    """Answer with one JSON object a line: progress during the work, then its result or why it was refused."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    task = asyncio.create_task(work(lambda text: lines.put_nowait(_line({"progress": text}))))
    task.add_done_callback(lambda _: lines.put_nowait(_last_line(task)))
    task.add_done_callback(lambda _: lines.put_nowait(None))
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
    with contextlib.suppress(ConnectionResetError):  # the reader has gone: the work continues without it
        await response.prepare(http_request)
        while (line := await lines.get()) is not None:
            await response.write(line)
        await response.write_eof()
    return response


def _last_line(task: asyncio.Task[Any]) -> bytes:
    if task.cancelled():
        ended = OutsideError("the daemon ended before this was done")
        return _line({"error": serialize.serialize_error(ended)})
    error = task.exception()
    if error is None:
        return _line({"result": task.result()})
    if isinstance(error, ReconcilerError):
        return _line({"error": serialize.serialize_error(error)})
    get_logger().error("a request failed unexpectedly", exc_info=error)
    hint = "The daemon's log has the traceback: `journalctl -u reconciler`"
    return _line({"error": serialize.serialize_error(ReconcilerError("internal error", where="daemon", hint=hint))})


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _probe_response(good: bool, text: str, problem: str) -> web.Response:
    return web.Response(text=f"{text}\n") if good else web.Response(status=503, text=f"{problem}\n")

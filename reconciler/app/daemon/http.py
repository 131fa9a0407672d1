"""The daemon's two interfaces: HTTP (read-only, plus the webhook), and a 0600 socket for the commands on this host."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from reconciler.app.daemon import serialize
from reconciler.app.daemon.client import REQUEST_PATH, Progress, Request
from reconciler.app.daemon.loop import Daemon
from reconciler.app.daemon.requester import requester_of
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.ports.store import Store

_LARGEST_WEBHOOK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Views:
    """What the handlers use: the daemon, its memory, the text of a scrape, and ``serve``, which serves a request.

    ``announced`` takes the status that the webhook answers with.
    """

    daemon: Daemon
    store: Store
    render_metrics: Callable[[], bytes]
    serve: Callable[[Request], Awaitable[Any]]
    webhook_secret: bytes | None = None
    announced: Callable[[int], None] = lambda _: None

    async def status(self) -> dict[str, Any]:
        environments = [await self._environment(name) for name in self.daemon.environments]
        return {"daemon": {"running": True, "pid": os.getpid()}, "environments": environments}

    async def _environment(self, name: str) -> dict[str, Any]:
        last, record = self.daemon.last_outcomes.get(name), self.store.environment(name)
        if last is None:
            return {**serialize.serialize_environment(record, None, {}), "services": []}
        status = serialize.serialize_environment(
            record, last.outcome, self.store.applied(name), at=last.at, since=last.since
        )
        for change in (status["after"] or {"changes": []})["changes"]:
            change["since"] = serialize.format_instant(last.targets[change["target"]][1])
        return {**status, **await serialize.serialize_services(self.daemon.reconcilers[name])}


@contextlib.asynccontextmanager
async def serve_http(views: Views, *, host: str, port: int, control_socket: str) -> AsyncIterator[int]:
    """Serve both interfaces while inside; yields the TCP port, which the kernel chooses where ``port`` is 0.

    Raises RefusedError where the address is in use.
    """
    public, control = web.AppRunner(_public(views), access_log=None), web.AppRunner(_control(views), access_log=None)
    await public.setup()
    await control.setup()
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(control_socket)  # ours: the state directory's lock is held
        await _start(web.TCPSite(public, host, port), f"{host}:{port}", "http.listen")
        old = os.umask(0o177)
        try:
            await _start(web.UnixSite(control, control_socket), control_socket, "state_dir")
        finally:
            os.umask(old)
        yield public.addresses[0][1]
    finally:
        await public.cleanup()
        await control.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(control_socket)


async def _start(site: web.BaseSite, where: str, setting: str) -> None:
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)  # a socket's path of more than 107 bytes
        raise RefusedError(f"cannot listen ({reason})", where=where, hint=f"Choose another {setting}") from error


def _public(views: Views) -> web.Application:
    app = web.Application(client_max_size=_LARGEST_WEBHOOK)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=views.render_metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def healthz(_: web.Request) -> web.Response:
        return _probe_response(views.daemon.alive, "alive", "the loop has not turned lately")

    async def readyz(_: web.Request) -> web.Response:
        return _probe_response(views.daemon.ready, "ready", "the first reconciliation has not ended")

    async def show_status(_: web.Request) -> web.Response:
        return web.json_response(await views.status())

    async def webhook(request: web.Request) -> web.Response:
        try:
            answer = await take_announcement(request)
        except web.HTTPException as refusal:  # the body is too large
            views.announced(refusal.status)
            raise
        views.announced(answer.status)
        return answer

    async def take_announcement(request: web.Request) -> web.Response:
        body = await request.read()
        if views.webhook_secret is None or not _authentic(request, body, views.webhook_secret):
            return web.Response(status=403, text="the signature or token does not match webhook.secret_file\n")
        views.daemon.poll_now("webhook")
        return web.Response(status=202, text="reconciling\n")

    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    app.add_routes([web.get("/api/v1/status", show_status), web.post("/webhook", webhook)])
    return app


def _control(views: Views) -> web.Application:
    app = web.Application()

    async def serve(http_request: web.Request) -> web.StreamResponse:
        request = {**await http_request.json(), "requested_by": _requester_at(http_request)}
        if request["kind"] == "status":  # from memory, also while something is reconciled
            return await _stream(http_request, lambda _: views.status())
        return await _stream(
            http_request, lambda progress: views.daemon.between_reconciliations(lambda: views.serve(request), progress)
        )

    app.add_routes([web.post(REQUEST_PATH, serve)])
    return app


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
    task.add_done_callback(lambda _: lines.put_nowait(None))
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    with contextlib.suppress(ConnectionResetError):  # the reader has gone: the work continues without it
        await response.prepare(http_request)
        while (line := await lines.get()) is not None:
            await response.write(line)
        await response.write(_line(_last_line(task)))
        await response.write_eof()
    return response


def _last_line(task: asyncio.Task[Any]) -> dict[str, Any]:
    try:
        return {"result": task.result()}
    except ReconcilerError as error:
        return {"error": {"what": error.what, "where": error.where, "hint": error.hint}}


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _authentic(request: web.Request, body: bytes, secret: bytes) -> bool:
    """GitHub, Gitea and Forgejo sign the body (HMAC-SHA256); GitLab sends the token itself."""
    signature = request.headers.get("X-Hub-Signature-256", "")
    token = request.headers.get("X-Gitlab-Token", "")
    expected = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    # A header may hold any byte, which aiohttp decodes with surrogates.
    given = signature.encode(errors="surrogateescape"), token.encode(errors="surrogateescape")
    return hmac.compare_digest(given[0], expected.encode()) or hmac.compare_digest(given[1], secret)


def _probe_response(good: bool, text: str, problem: str) -> web.Response:
    return web.Response(text=f"{text}\n") if good else web.Response(status=503, text=f"{problem}\n")

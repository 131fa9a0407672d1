"""What every request to the daemon passes: which Host it may name, and how long it may take."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from reconciler.app.config.listening import is_loopback
from reconciler.app.daemon.http.answers import OPENAPI_PATH, is_api, refuse
from reconciler.app.daemon.http.connections import HEADERS, MALFORMED, Connection
from reconciler.app.daemon.logs import RepeatedWarnings
from reconciler.app.daemon.request_queue import NotServedError
from reconciler.core.errors import OutsideError, RefusedError
from reconciler.core.text import printable

_TIME = 10.0  # seconds for the answer, a request's body included, and again for the client to read it
_LONGEST_NAME = 100  # characters of a Host that are logged


def is_allowed_host(header: str, local: str, names: Collection[str]) -> bool:
    """Given the Host header, the local address of the connection, and ``names`` beside it: is this us?

    A page of another site can make a browser connect here (DNS rebinding), but not name us in the Host header.
    """
    host, address = _plain(without_port(header)), _plain(local)
    return host in {address, *map(_plain, names)} or (host == "localhost" and is_loopback(address))


def public_guard(names: Callable[[], Collection[str]], warnings: RepeatedWarnings) -> Middleware:
    """The middleware of the HTTP address. ``names`` returns the hosts that may be named beside the local address."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        with connection.serving():
            refusal = _refuse_host(request, names(), warnings)
            response = refusal or await _answer(request, handler, warnings)
            response.headers.update(HEADERS)
            if connection.outlived or refusal:
                response.force_close()
            await _send(request, response, connection, warnings)
            return response

    return guard


def control_guard() -> Middleware:
    """The middleware of the control socket: a request may take as long as a reconciliation."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        with cast(Connection, request.protocol).serving():
            try:
                return await handler(request)
            except web.HTTPException as error:
                return _refusal(error, request)

    return guard


def _refuse_host(request: web.Request, names: Collection[str], warnings: RepeatedWarnings) -> web.StreamResponse | None:
    headers = request.headers.getall("Host", [])
    if not headers and request.version < (1, 1):  # a health checker; a browser always sends one
        return None
    if len(headers) != 1:
        return refuse(request, 400, RefusedError("exactly one Host header is needed"))
    if is_allowed_host(headers[0], local_address(request), names):
        return None
    peer = cast(Connection, request.protocol).peer
    warnings.note(
        "HTTP request for another host", error_id="host-not-served", host=ascii(headers[0][:_LONGEST_NAME]), peer=peer
    )
    problem, hint = "This Host is not served here", "Add it to http.allowed_hosts in the server configuration"
    return refuse(request, 421, RefusedError(problem, hint=f"{hint}.", id="host-not-served"))


async def _answer(request: web.Request, handler: Handler, warnings: RepeatedWarnings) -> web.StreamResponse:
    try:
        async with asyncio.timeout(_TIME):
            return await handler(request)
    except TimeoutError:
        warnings.note("HTTP request took too long", path=request.path[:_LONGEST_NAME])
        return refuse(request, 503, OutsideError(f"no answer within {_TIME:g} s"))
    except web.HTTPException as error:  # no such path or method, or a body that is too large
        return _refusal(error, request)
    except NotServedError:
        return refuse(request, 503, RefusedError("the daemon is stopping"))
    except web.RequestPayloadError as error:
        warnings.note(MALFORMED, peer=cast(Connection, request.protocol).peer, reason=type(error).__name__)
        return refuse(request, 400, RefusedError("malformed request"))
    except ConnectionError:  # it has gone in the middle of its body
        return web.Response(status=400)


def _refusal(error: web.HTTPException, request: web.Request) -> web.Response:
    allowed = {name: value for name, value in error.headers.items() if name == "Allow"}
    reason = RefusedError(f"{error.status} {error.reason}")
    if is_api(request.path):
        where, hint = printable(request.path[:_LONGEST_NAME]), f"{OPENAPI_PATH} describes the API"
        reason = RefusedError(error.reason.lower(), where=where, hint=hint)
    return refuse(request, error.status, reason, {**HEADERS, **allowed})


async def _send(
    request: web.Request, response: web.StreamResponse, connection: Connection, warnings: RepeatedWarnings
) -> None:
    """Send it here rather than after the middleware, where a client that does not read would never be cut off."""
    try:
        async with asyncio.timeout(_TIME):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        warnings.note("HTTP client does not read its answer", peer=connection.peer)
        connection.abort()
    except ConnectionError:  # it has gone
        connection.abort()


def local_address(request: web.Request) -> str:
    """The address that the client has connected to; "localhost" for a unix socket, as proxies call it."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return str(name[0]) if isinstance(name, tuple) else "localhost"


def without_port(header: str) -> str:
    """The host of a Host header; of IPv6 without brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _plain(host: str) -> str:
    """The host in the one form in which it can be compared."""
    host = host.strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)

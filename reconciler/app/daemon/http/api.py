"""The JSON API: what the daemon knows, as /openapi.json describes it. It changes nothing."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from reconciler.app.daemon.http.answers import API, OPENAPI_PATH, refuse
from reconciler.app.daemon.requests import check_environments, find_run, list_runs
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.model.answers import versioned
from reconciler.core.text import printable

if TYPE_CHECKING:
    from reconciler.app.daemon.http.interfaces import CurrentViews

_SMALL = 1400  # bytes that fit into one packet: compressing them saves nothing
HISTORY_LIMIT, MOST_RUNS = 20, 1000


def add_api(app: web.Application, source: CurrentViews) -> None:
    """Serve the API of the daemon that ``source`` has."""

    async def status(request: web.Request) -> web.Response:
        _parameters(request)
        async with source.use() as views:
            return _answer(request, await views.status())

    async def history(request: web.Request) -> web.Response:
        given = _parameters(request, "environment", "limit", "before")
        limit = _limit(given.get("limit", str(HISTORY_LIMIT)))
        async with source.use() as views:
            before, environments = given.get("before"), [given["environment"]] if "environment" in given else []
            check_environments(views.daemon.reconcilers, environments)
            if before is not None and find_run(views.store, before) is None:
                raise _no_run("before")
            listed = {"environments": environments, "limit": limit + 1, "before": before}
            runs = list_runs(views.store, views.daemon.reconcilers, listed)
        page, more = runs[:limit], len(runs) > limit
        return _answer(request, {"runs": page, "next": page[-1]["run"] if more else None})

    async def run(request: web.Request) -> web.Response:
        _parameters(request)
        async with source.use() as views:
            known = find_run(views.store, request.match_info["run"])
        if known is None:
            raise _no_run(request.path)
        return _answer(request, known)

    async def comparison(request: web.Request) -> web.Response:
        _parameters(request)
        async with source.use() as views:
            return _answer(request, {"comparisons": views.comparisons()})

    async def openapi(request: web.Request) -> web.Response:
        _parameters(request)
        return _sent(request, await asyncio.to_thread(_openapi_text))

    for path, handler in (
        (f"{API}/status", status),
        (f"{API}/history", history),
        (f"{API}/runs/{{run}}", run),
        (f"{API}/comparison", comparison),
        (OPENAPI_PATH, openapi),
    ):
        app.router.add_get(path, _refusing(handler))


def _no_run(where: str) -> RefusedError:
    hint = f"{API}/history has the ids; the oldest runs are forgotten"
    return RefusedError("no such run", where=printable(where), hint=hint)


class BadParameterError(RefusedError):
    """A query that the API does not have; what it names may well exist."""


def _refusing(handler: Handler) -> Handler:
    """The handler with our errors as answers: 400 for a bad parameter, 404 for what does not exist here, 503 where the
    state cannot be read."""

    @functools.wraps(handler)
    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except BadParameterError as error:
            return refuse(request, 400, error)
        except RefusedError as error:
            return refuse(request, 404, error)
        except ReconcilerError as error:
            return refuse(request, 503, error)

    return serve


def _parameters(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters. Raises BadParameterError for another one, one that is given twice, or an empty one."""
    hint = f"This path takes {', '.join(known)}" if known else "This path takes none"
    for name in request.query:
        if name not in known:
            raise BadParameterError("is not a parameter", where=printable(name), hint=hint)
    for name in known:
        if name in request.query and (len(request.query.getall(name)) > 1 or not request.query[name]):
            raise BadParameterError("is given twice, or without a value", where=name, hint=hint)
    return dict(request.query)


def _limit(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text) or int(text) > MOST_RUNS:
        raise BadParameterError("is not a number of runs", where="limit", hint=f"Give 1 to {MOST_RUNS}")
    return int(text)


def _answer(request: web.Request, data: Mapping[str, Any]) -> web.Response:
    return _sent(request, json.dumps(versioned(data)).encode())


def _sent(request: web.Request, body: bytes) -> web.Response:
    """The JSON; nothing where the client has the same already."""
    # Weak, because the bytes differ with the compression.
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-store"}
    known = request.headers.get("If-None-Match", "")
    if known.strip() == "*" or tag in (part.strip() for part in known.split(",")):
        return web.Response(status=304, headers=headers)
    response = web.Response(body=body, content_type="application/json", charset="utf-8", headers=headers)
    if len(body) > _SMALL:
        response.enable_compression()
    return response


@functools.cache
def _openapi_text() -> bytes:
    from reconciler.app.daemon.http.openapi import openapi  # pydantic takes a while to make it, and few ask

    return json.dumps(openapi(), indent=2).encode()

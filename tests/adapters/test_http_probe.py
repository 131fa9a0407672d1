"""Health URLs: what they may lead to."""

from __future__ import annotations

import aiohttp.web
from aiohttp.test_utils import TestServer

from reconciler.adapters.local.http_probe import HttpHealth
from reconciler.core.model.targets import HttpCheck


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    requested: list[str] = []

    async def redirect(request: aiohttp.web.Request) -> aiohttp.web.Response:
        requested.append(request.path)
        return aiohttp.web.Response(status=302, headers={"Location": "/elsewhere"})

    app = aiohttp.web.Application()
    app.router.add_get("/{path:.*}", redirect)
    async with TestServer(app) as server:
        address = str(server.make_url("/health"))
        assert await HttpHealth().ok(HttpCheck(address, 302))
        assert not await HttpHealth().ok(HttpCheck(address, 200))
    assert requested == ["/health", "/health"]

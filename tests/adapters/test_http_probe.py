"""Health URLs: what they may lead to, and whose certificates are trusted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import aiohttp.web
from aiohttp.test_utils import TestServer

from reconciler.adapters.local.http_probe import HttpHealth
from reconciler.core.model.targets import HttpCheck
from tests.support.commands import output
from tests.support.https import refusing_server

ASK = """\
import asyncio, sys
from reconciler.adapters.local.http_probe import HttpHealth
from reconciler.core.model.targets import HttpCheck
print(asyncio.run(HttpHealth().ok(HttpCheck(sys.argv[1], 401))))
"""
IMPORT = """\
import os, ssl
default, files = ssl.create_default_context, []
def spy(*arguments, **options):
    files.append(os.environ.get("SSL_CERT_FILE"))
    return default(*arguments, **options)
ssl.create_default_context = spy
import reconciler.app.daemon.http
print(files, os.environ.get("SSL_CERT_FILE"))
"""


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


def test_a_server_is_verified_by_the_authorities_of_this_machine(tmp_path: Path) -> None:
    with refusing_server(tmp_path / "server") as server:
        environment = {**os.environ, "SSL_CERT_FILE": str(server.certificate)}
        assert output(sys.executable, "-c", ASK, server.url, env=environment) == b"True\n"
        assert output(sys.executable, "-c", ASK, server.url) == b"False\n"
        assert set(server.protocols) == {"http/1.1"}


def test_the_daemon_reads_no_authorities_before_it_needs_them() -> None:
    environment = {**os.environ, "SSL_CERT_FILE": "/srv/authorities.pem"}
    assert output(sys.executable, "-c", IMPORT, env=environment) == b"['/dev/null'] /srv/authorities.pem\n"

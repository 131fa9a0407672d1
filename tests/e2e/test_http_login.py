"""A real browser at the login page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.test_page import findings, look_like
from tests.support.browser import Page, browser
from tests.support.server import Server

pytestmark = pytest.mark.browser

TOKEN = "0123456789abcdef0123456789abcdef"


@contextmanager
def another_site(link: str) -> Iterator[str]:
    """The address of a page with one link, on a site that is not the daemon's."""

    class Linking(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<a href="{link}">the run</a>'.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Linking) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://localhost:{serving.server_port}/"
        serving.shutdown()


async def text_becomes(page: Page, good: Callable[[str], bool]) -> None:
    async def text() -> str:
        return str(await page.evaluate("document.body ? document.body.innerText + location.href : ''"))

    last = ""
    for _ in range(600):
        if good(last := await text()):
            return
        await asyncio.sleep(0.05)
    pytest.fail(last)


async def log_in(page: Page, token: str) -> None:
    await page.evaluate(f"token.value = {token!r}; document.querySelector('form').requestSubmit()")


async def test_a_browser_logs_in_and_comes_back_from_another_sites_link(server: Server, tmp_path: Path) -> None:
    file = server.root / "http-token"
    file.touch(0o600)
    file.write_text(TOKEN)
    server.settings["http"]["token_file"] = str(file)
    server.commit({"api.env": b"A=1\n"}, server.plain(["api.env"]))
    run = server.sync()["run"]
    with server.daemon() as daemon:
        here = f"http://127.0.0.1:{daemon.port}"
        with another_site(f"{here}/runs/{run}") as linking:
            async with browser(tmp_path / "profile") as page:
                await page.open(here)
                assert await page.evaluate("location.href") == f"{here}/login?page=%2F"
                await log_in(page, "guess")
                await text_becomes(page, lambda text: "This is not the token" in text)
                for width, scheme in ((1280, "light"), (360, "dark")):
                    await look_like(page, width, scheme)
                    assert await findings(page) == []
                await log_in(page, TOKEN)
                await text_becomes(page, lambda text: "production" in text and text.endswith(f"{here}/"))
                assert await page.evaluate("document.cookie") == ""
                await page.open(linking)
                await page.evaluate("document.querySelector('a').click()")
                await text_becomes(page, lambda text: "api.env" in text and text.endswith(f"/runs/{run}"))
                assert not [message for message in page.messages if "Content Security Policy" in message]
                assert all(TOKEN not in address for address in page.requests)

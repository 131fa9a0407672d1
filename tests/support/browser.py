"""A real headless chromium with one page, spoken to by its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.components import program
from tests.support.waiting import eventually

STARTING = 60.0  # seconds
ENDING = 10.0


@dataclass(slots=True)
class Page:
    """``messages`` are the messages of the page's console, and the requests it made beside its own file."""

    socket: aiohttp.ClientWebSocketResponse
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _last: int = 0
    _loaded: bool = False

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order and return its result; events that come before it are noted."""
        self._last += 1
        await self.socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            message = json.loads(await self.socket.receive_str(timeout=STARTING))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message["method"] == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(parameters["exceptionDetails"]))
        elif message["method"] == "Page.loadEventFired":
            self._loaded = True
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    async def open(self, url: str) -> None:
        for domain in ("Log", "Runtime", "Network", "Page"):
            await self.ask(f"{domain}.enable")
        self._loaded = False
        await self.ask("Page.navigate", url=url)
        while not self._loaded:
            self._note(json.loads(await self.socket.receive_str(timeout=STARTING)))

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def screenshot(self) -> bytes:
        """The whole page, as a PNG."""
        answer = await self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])


@contextlib.asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Page]:
    """A browser with one empty page, its profile in ``directory``; it is ended at the end."""
    chromium = program("chromium")
    assert chromium is not None
    argv = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    argv += ["--remote-debugging-port=0", f"--user-data-dir={directory}", "--window-size=1200,900", "about:blank"]
    log = (directory.parent / f"{directory.name}.log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "HOME": str(directory)},
    )
    try:
        noted = directory / "DevToolsActivePort"
        port = eventually(lambda: noted.exists() and noted.read_text().partition("\n")[0], timeout=STARTING)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json()
            (address,) = (target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()

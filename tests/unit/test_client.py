"""How long a command waits for the daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp  # noqa: F401  # the client imports it late, which takes time of its own
import pytest

from reconciler.app.daemon import client
from reconciler.core.errors import OutsideError

HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.slow
async def test_a_status_that_begins_late_and_never_ends_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 4.0)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3.5)
        writer.write(HEADER)
        begun.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    path = str(tmp_path / "control.sock")
    async with await asyncio.start_unix_server(answer, path):
        with pytest.raises(OutsideError, match="does not answer within 4 s"):
            async with asyncio.timeout(7.0):
                await client.ask_daemon(path, {"kind": "status"}, lambda _: None)
        await ended.wait()
    assert begun.is_set()

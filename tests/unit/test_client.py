"""What a command does to ask the daemon, and how long it waits for it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.app.daemon import client
from reconciler.core.errors import OutsideError
from tests.support.commands import run

HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
HEAVY = (
    *("aiohttp", "asyncio", "asyncssh", "git", "pydantic", "rich", "sqlite3", "ssl", "structlog", "prometheus_client"),
    *("reconciler.adapters", "reconciler.app.wiring", "reconciler.app.daemon.requests", "reconciler.engine"),
)
PROGRAM = f"""
import sys
from reconciler.cli.main import main
try:
    main()
finally:
    print("imported:", *({{*{HEAVY}}} & sys.modules.keys()), file=sys.stderr)
"""


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
                await asyncio.to_thread(client.ask_daemon, path, {"kind": "status"}, lambda _: None)
        await ended.wait()
    assert begun.is_set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(b"", "stopped answering", id="nothing"),
        pytest.param(b"HTTP/1.0 500 Oh\r\n\r\n", "stopped answering", id="refused"),
        pytest.param(HEADER[:-2], "stopped before it was done", id="half a header"),
        pytest.param(HEADER + b'{"progress": "x"}\n', "stopped before it was done", id="progress only"),
        pytest.param(HEADER + b'{"result": [1', "stopped answering", id="half a result"),
    ],
)
async def test_half_an_answer_is_none(answer: bytes, message: str, tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    path = str(tmp_path / "control.sock")
    async with await asyncio.start_unix_server(serve, path):
        with pytest.raises(OutsideError, match=message):
            await asyncio.to_thread(client.ask_daemon, path, {"kind": "sync"}, lambda _: None)


@pytest.mark.parametrize("command", [["status"], ["sync"], ["history"], ["pause", "--all"]], ids=lambda words: words[0])
async def test_a_command_that_the_daemon_serves_imports_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = json.loads((await reader.readuntil(b"}")).partition(b"\r\n\r\n")[2])["kind"]
        result = {"daemon": {"running": True, "pid": 1}, "environments": []} if kind == "status" else []
        writer.write(HEADER + json.dumps({"result": result}).encode() + b"\n")
        writer.close()
        await writer.wait_closed()

    config = tmp_path / "reconciler.yaml"
    config.write_text(f"state_dir: {tmp_path}")
    async with await asyncio.start_unix_server(serve, tmp_path / "control.sock"):
        done: subprocess.CompletedProcess[bytes] = await asyncio.to_thread(
            run, sys.executable, "-c", PROGRAM, *command, "--config", config
        )
    assert (done.returncode, done.stderr.decode()) == (0, "imported:\n")

"""The one client of the control socket: a request goes to the daemon if it answers, else it is served here.

A request is plain JSON with a ``kind`` (see requests.py). The daemon answers with one JSON object a line: ``progress``
while it works, then one ``result`` or one ``error``. Heavy modules are imported only where they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.core.errors import OutsideError, ReconcilerError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

    from reconciler.app.config.server import ServerConfig

Progress = Callable[[str], None]
"""Takes what is being done, in a few words."""

Request = Mapping[str, Any]
"""A ``kind``, and what that kind needs."""

REQUEST_PATH = "/api/v1/request"

# A daemon answers immediately, also while it reconciles: its answer then begins with what it is doing.
_PATIENCE = 3.0  # seconds
_READS = ("status", "plan", "age")
_SEE_THE_LOG = "Its log says why: `journalctl -u reconciler`"
_Result = TypeVar("_Result")


def control_socket(state_dir: str) -> str:
    return os.path.join(state_dir, "control.sock")


def serve_request(config: ServerConfig, request: Request, progress: Progress, *, here: bool = True) -> Any:
    """Have the daemon serve the request if it answers, else serve it ``here`` under the same lock; return the result.

    Raises ReconcilerError, LockedError; without ``here`` OutsideError where no daemon runs.
    """
    return asyncio.run(_serve_request(config, request, progress, here))


async def _serve_request(config: ServerConfig, request: Request, progress: Progress, here: bool) -> Any:
    answer = await ask_daemon(control_socket(config.state_dir), request, progress)
    if answer is None and not here:
        raise OutsideError("the daemon is not running", where=control_socket(config.state_dir), hint=_SEE_THE_LOG)
    if answer is None:
        return await _serve_here(config, request, progress)
    if "error" in answer:
        raise ReconcilerError(**answer["error"])
    return answer["result"]


async def ask_daemon(path: str, request: Request, progress: Progress) -> dict[str, Any] | None:
    """The last line of the daemon's answer, or None where no daemon listens.

    Raises OutsideError; for a request that only reads, also if the answer does not begin within 3 s, and for ``status``
    if it does not end within them.
    """
    if not os.path.exists(path):  # noqa: ASYNC240
        return None
    import aiohttp

    try:
        async with (
            asyncio.timeout(_PATIENCE if request["kind"] == "status" else None),
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path), timeout=aiohttp.ClientTimeout(total=None)
            ) as session,
            await _answering(session, path, request, progress) as response,
        ):
            response.raise_for_status()
            async for line in response.content:
                answer = json.loads(line)
                if "progress" not in answer:
                    return dict(answer)
                progress(answer["progress"])
    except aiohttp.ClientConnectorError:
        return None  # a killed daemon has left the socket behind
    except TimeoutError:
        raise _silent(path) from None
    except aiohttp.ClientError as error:
        raise OutsideError("the daemon stopped answering", where=path, hint=_SEE_THE_LOG) from error
    raise OutsideError("the daemon stopped before it was done", where=path, hint=_SEE_THE_LOG)


async def _answering(session: ClientSession, path: str, request: Request, progress: Progress) -> ClientResponse:
    """The response, once the daemon has begun it. Raises OutsideError, where it reads only and takes too long."""
    asking = asyncio.ensure_future(session.post(f"http://daemon{REQUEST_PATH}", json=request))
    try:
        done, _ = await asyncio.wait({asking}, timeout=_PATIENCE)
        if not done:
            if request["kind"] in _READS:
                raise _silent(path)
            progress(f"the daemon does not answer within {_PATIENCE:g} s; waiting. Ctrl-C ends that")
        return await asking
    finally:
        asking.cancel()


def _silent(path: str) -> OutsideError:
    lock = os.path.join(os.path.dirname(path), "lock")
    holder = ""
    with contextlib.suppress(OSError), open(lock, encoding="utf-8", errors="replace") as file:
        holder = file.read(200).strip()
    name = f" ({holder})" if holder else ""
    hint = f"It is stopped, hangs or is overloaded. {_SEE_THE_LOG}; `systemctl restart reconciler` starts it again"
    return OutsideError(f"the daemon{name} does not answer within {_PATIENCE:g} s", where=path, hint=hint)


async def _serve_here(config: ServerConfig, request: Request, progress: Progress) -> Any:
    from reconciler.app.daemon import requests
    from reconciler.app.daemon.lock import exclusive
    from reconciler.app.daemon.requester import requester_of
    from reconciler.app.wiring.server import prepare_state_dir, runtime

    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, f"reconciler {request['kind']}"):
        async with runtime(config) as built:
            built.relay.listen(progress)
            work = requests.serve_without_daemon(built, {**request, "requested_by": requester_of(os.getuid(), "self")})
            return await (work if request["kind"] == "status" else _uninterrupted(work))


async def _uninterrupted(work: Awaitable[_Result]) -> _Result:
    """The result of ``work``, which is never cancelled half way: Ctrl-C and SIGTERM wait for its end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
    try:
        return await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

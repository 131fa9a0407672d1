"""Serves a request of the command line where no daemon runs: in the same way, under the same lock."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from typing import Any, TypeVar

from reconciler.app.config.server import ServerConfig, load_server_config
from reconciler.app.daemon import logs, requests
from reconciler.app.daemon.client import Progress, Request
from reconciler.app.daemon.lock import exclusive
from reconciler.app.daemon.requester import requester_of
from reconciler.app.wiring.server import Runtime, prepare_state_dir, runtime
from reconciler.core.errors import RefusedError

_Result = TypeVar("_Result")


def serve_here(config_file: str, request: Request, progress: Progress) -> Any:
    """Do what is requested and return plain data, as the daemon would. Raises ReconcilerError, LockedError."""
    config = load_server_config(config_file)
    requests.resolve_names(config.units, request)
    if request["kind"] == "restore":
        require_state(config)
    return asyncio.run(_serve(config, request, progress))


def require_state(config: ServerConfig) -> None:
    """Raises RefusedError where there is no state directory."""
    if not os.path.isdir(config.state_dir):
        hint = "Run `reconciler sync` or start the daemon first, or correct state_dir"
        raise RefusedError("nothing has run here yet", where=config.state_dir, hint=hint)


async def _serve(config: ServerConfig, request: Request, progress: Progress) -> Any:
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, f"reconciler {request['kind']}"):
        async with runtime(config) as built:
            built.relay.listen(progress)
            if request["kind"] == "comparisons":
                return await _compare(config, built)
            work = requests.serve_without_daemon(built, {**request, "requested_by": requester_of(os.getuid(), "self")})
            return await (work if request["kind"] == "status" else _uninterrupted(work))


async def _compare(config: ServerConfig, built: Runtime) -> list[dict[str, Any]]:
    """The pairs of the configuration, compared now."""
    from reconciler.app.daemon.comparisons import comparisons_of

    logs.set_up("error")  # what the daemon would log is in the answer
    comparisons = comparisons_of(config, built, None)
    await comparisons.compare_due()
    return comparisons.serialize()


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

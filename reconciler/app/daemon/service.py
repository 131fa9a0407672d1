"""`reconciler run`: the daemon from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable

from reconciler.app.config.server import ServerConfig
from reconciler.app.daemon import logs, requests
from reconciler.app.daemon.client import control_socket
from reconciler.app.daemon.http import Views, serve_http
from reconciler.app.daemon.lock import exclusive
from reconciler.app.daemon.loop import Daemon, FileWatching
from reconciler.app.wiring.server import Runtime, open_watch, prepare_state_dir, runtime
from reconciler.core.errors import ConfigError

_FOLLOW_AGAIN = 60.0  # seconds


def run_daemon(config: ServerConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises LockedError, ConfigError, StoreError, RefusedError (address in use)."""
    logs.set_up()
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, "reconciler run"):
        asyncio.run(_run_daemon(config))


async def _run_daemon(config: ServerConfig) -> None:
    logger = logs.get_logger()
    async with runtime(config) as built:
        watch = open_watch(config, logger.warning)
        daemon = _daemon_of(built, config, watch)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        views = Views(
            daemon,
            built.ports.store,
            built.metrics.render,
            functools.partial(requests.serve, built, daemon.reconcile),
            _webhook_secret(config),
            announced=built.metrics.announced,
        )
        address = config.http.listen
        async with serve_http(
            views, host=address.host, port=address.port, control_socket=control_socket(config.state_dir)
        ) as bound:
            logger.info("started", environments=list(daemon.environments), http=f"{address.host}:{bound}")
            async with _watching(built, watch, daemon):
                await daemon.run()
            logger.info("stopped")


def _daemon_of(built: Runtime, config: ServerConfig, watch: FileWatching) -> Daemon:
    return Daemon(
        built.reconcilers,
        built.rollouts,
        clock=built.ports.clock,
        metrics=built.metrics,
        poll_interval=config.repository.poll_interval,
        drift_interval=config.drift.interval,
        watch=watch,
        on_progress=built.relay.listen,
    )


@contextlib.asynccontextmanager
async def _watching(built: Runtime, watch: FileWatching, daemon: Daemon) -> AsyncIterator[None]:
    """While inside, changes of live files and containers wake the daemon."""
    tasks = [
        asyncio.create_task(watch.run(lambda: daemon.look_soon("watch"))),
        *(
            asyncio.create_task(_follow_engine(built, unit, lambda: daemon.look_soon("engine")))
            for unit in built.engines
        ),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_engine(built: Runtime, unit: str, touched: Callable[[], None]) -> None:
    """Call ``touched`` whenever something happens to a container of a stack of ours. Runs until cancelled."""
    while True:
        try:
            await built.engines[unit].follow(touched, lambda: built.reconcilers[unit].stack_directories)
        except Exception:  # noqa: BLE001  # a defect with one host must not end it for the others
            logs.get_logger().exception("following an engine failed", environment=unit)
            await asyncio.sleep(_FOLLOW_AGAIN)


def _webhook_secret(config: ServerConfig) -> bytes | None:
    """The secret that signs announcements; None without a webhook. Raises ConfigError: an empty one lets anybody in."""
    if config.webhook is None:
        return None
    path, hint = config.webhook.secret_file, "Put the secret there, or correct webhook.secret_file"
    try:
        with open(path, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"cannot read the webhook secret ({reason})", where=path, hint=hint) from error
    if not secret:
        raise ConfigError("the webhook secret is empty", where=path, hint=hint)
    return secret

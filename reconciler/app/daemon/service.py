"""`reconciler run`: the daemon from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import gc
import signal
from collections.abc import AsyncIterator, Callable, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.app.config.server import ServerConfig
from reconciler.app.daemon import logs, requests
from reconciler.app.daemon.client import Progress, control_socket
from reconciler.app.daemon.http.access import read_token
from reconciler.app.daemon.http.connections import raise_descriptor_limit
from reconciler.app.daemon.http.interfaces import CurrentViews, Interfaces, Views, serve_interfaces
from reconciler.app.daemon.http.webhook import WebhookReceiver, read_webhook_secret
from reconciler.app.daemon.lock import exclusive
from reconciler.app.daemon.loop import Daemon, FileWatching
from reconciler.app.daemon.systemd import ServiceManager, ServiceReports
from reconciler.app.wiring.server import Runtime, open_watch, prepare_state_dir, runtime
from reconciler.core.errors import ConfigError, ReconcilerError, RefusedError
from reconciler.core.model.runs import Activity
from reconciler.core.ports.observer import Observer
from reconciler.engine.target_revision import ask_git

if TYPE_CHECKING:
    from reconciler.app.daemon.comparisons import Comparisons
    from reconciler.engine.merge_plans import MergePlans

_FOLLOW_AGAIN = 60.0  # seconds
_FIRST_STACK = 1.0  # seconds between two looks whether there is one
_START_AGAIN = 10.0  # seconds


def run_daemon(
    config: ServerConfig, load: Callable[[], ServerConfig], early: Sized = (), *, log_level: str = "info"
) -> None:
    """Run until SIGTERM or SIGINT; SIGHUP takes the configuration from ``load`` again, between two reconciliations.
    Where systemd has started it, it reports there.

    ``early`` holds each SIGHUP that the caller's handler has received before the daemon has one of its own.
    Raises LockedError, ConfigError, StoreError, RefusedError (address in use).
    """
    logs.set_up(log_level)
    faulthandler.enable()  # what systemd aborts because it hangs says where, in the journal
    descriptors = raise_descriptor_limit()
    prepare_state_dir(config.state_dir)
    gc.freeze()  # what is imported stays: looking through it each time costs a tenth of the CPU time
    # With the default, a reconciliation of 1,000 targets has fifteen passes, and now and then one through everything,
    # which takes as long as half of it. What is in no cycle is freed without.
    gc.set_threshold(3_000)
    with exclusive(config.state_dir, "reconciler run"):
        asyncio.run(_Service(config, load, descriptors).run(early))


class _Service:
    """One daemon after the other, each with its own runtime: a reload lets one end and starts the next.

    The interfaces outlive a reload: clients, and operators whose requests wait, get the next daemon.
    """

    def __init__(self, config: ServerConfig, load: Callable[[], ServerConfig], descriptors: int) -> None:
        self._config = config
        self._load = load
        self._descriptors = descriptors
        self._next: ServerConfig | None = None
        self._stopping = asyncio.Event()
        self._daemon: Daemon | None = None
        self._comparisons: Comparisons | None = None
        self._running = False
        self._kept: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._manager = ServiceManager()
        self._reports = ServiceReports(self._manager, lambda: self._daemon if self._running else None)
        self._views = CurrentViews()
        self._logger = logs.get_logger()

    async def run(self, early: Sized) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if early:
            self._reload()
        path = control_socket(self._config.state_dir)
        async with (
            self._reporting(),
            serve_interfaces(
                self._views, reload=self._reload_requested, control_socket=path, descriptors=self._descriptors
            ) as interfaces,
        ):
            await self._serve(interfaces, self._config, "started")
            while not self._stopping.is_set():
                await self._change_configuration(interfaces)
        self._logger.info("stopped")

    @contextlib.asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._reports.run()) if self._manager.listens else None
        try:
            yield
        finally:
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _change_configuration(self, interfaces: Interfaces) -> None:
        """Run with the next configuration; return where that cannot start, so that the former one is next."""
        former, event = self._config, "reloaded" if self._next else "started"
        if self._next:
            self._config, self._next = self._next, None
        self._running = False
        try:
            await self._serve(interfaces, self._config, event)
        except Exception as error:
            if self._running:
                raise
            self._keep(error)
            if self._config is former:  # it cannot start now either, perhaps for want of room on a disk
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _START_AGAIN)
            self._config = former

    def _stop(self) -> None:
        self._stopping.set()
        self._reports.stopping()
        self._answer_reloads(_stops())
        if self._daemon:
            self._daemon.stop()

    def _reload(self) -> None:
        self._reports.reloading()
        try:
            self._next, self._kept = self._load_next(), None
        except Exception as error:  # noqa: BLE001  # a reload never ends the daemon
            self._keep(error)
            if self._running and not self._next:
                self._in_use()
            return
        if self._daemon:
            self._daemon.stop()

    async def _reload_requested(self, progress: Progress) -> None:
        """Reload, and return once the configuration is in use. Raises what keeps it from that."""
        if self._stopping.is_set():
            raise _stops()
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        if self._daemon:
            self._daemon.report_reconciliations(progress)
        self._reload()
        await answer

    def _in_use(self) -> None:
        """A configuration is in use, and no other one waits: report it, to whoever has requested a reload too."""
        self._reports.reloaded(kept=self._kept is not None)
        self._answer_reloads(self._kept)

    def _answer_reloads(self, error: Exception | None) -> None:
        for answer in [answer for answer in self._waiting if not answer.done()]:
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
        self._waiting.clear()

    def _load_next(self) -> ServerConfig:
        """The configuration, if a reload can take it. Raises ConfigError."""
        config = self._load()
        if config.state_dir != self._config.state_dir:
            hint = "Restart the daemon, or set it back"
            raise ConfigError("a reload cannot change it", where="state_dir", hint=hint)
        _webhook_of(config)
        if config.http.token_file is not None:
            read_token(config.http.token_file)
        return config

    def _keep(self, error: Exception) -> None:
        self._kept = error
        defect = None if isinstance(error, ReconcilerError) else error
        event, reason = "not reloaded, the former configuration stays", str(error)
        self._logger.error(event, reason=reason, error_id="reload-failed", exc_info=defect)

    def _compare(self, built: Runtime, config: ServerConfig) -> None:
        """Have the comparisons of the configuration made; results of the former daemon stay until then."""
        former, self._comparisons = self._comparisons, None
        if config.comparisons:  # imported here: the daemon of a server without any does not pay for their memory
            from reconciler.app.daemon.comparisons import comparisons_of

            self._comparisons = comparisons_of(config, built, former)

    async def _serve(self, interfaces: Interfaces, config: ServerConfig, event: str) -> None:
        """Run a daemon until it is stopped, or a reload is due."""
        bound = await interfaces.listen(config.http)
        async with runtime(config, daemon=True) as built:
            watch = open_watch(config, self._logger.warning)
            self._compare(built, config)
            observers = (*built.observers, *((self._comparisons,) if self._comparisons else ()))
            daemon = _daemon_of(built, config, watch, observers)
            if self._daemon:
                known = self._daemon.last_outcomes.items()
                daemon.last_outcomes = {unit: last for unit, last in known if unit in built.reconcilers}
            self._daemon = daemon
            views = Views(
                daemon,
                built.ports.store,
                built.metrics.render,
                functools.partial(requests.serve, built, daemon.reconcile),
                _webhook_of(config, built.merge_plans),
                announced=built.metrics.announced,
                plan_soon=built.merge_plans.look_soon if built.merge_plans else lambda: None,
                host=config.host,
                repository_url=config.repository.url,
                http=bound,
                comparisons=self._comparisons.serialize if self._comparisons else list,
            )
            if built.merge_plans:
                built.merge_plans.turn = daemon.between_reconciliations
            async with self._views.provide(views):
                self._running = True
                self._logger.info(event, environments=list(daemon.environments), http=bound)
                if self._stopping.is_set() or self._next:
                    daemon.stop()
                else:
                    self._in_use()
                async with _watching(built, watch, daemon, observers):
                    await daemon.run()


def _stops() -> RefusedError:
    return RefusedError("the daemon is stopping", hint="Its next start takes the configuration as it is then")


def _daemon_of(built: Runtime, config: ServerConfig, watch: FileWatching, observers: Sequence[Observer]) -> Daemon:
    # It is neither a part of what an operator waits for, nor a step of the loop's.
    quiet = replace(built.ports, progress=lambda _: None, activity=Activity())
    return Daemon(
        built.reconcilers,
        built.rollouts,
        ask_git=functools.partial(ask_git, quiet, built.reconcilers),
        clock=built.ports.clock,
        metrics=built.metrics,
        poll_interval=config.repository.poll_interval,
        drift_interval=config.drift.interval,
        watch=watch,
        on_progress=built.relay.listen,
        requested=built.ports.activity,
        observers=observers,
        on_head=built.forge.reports.head_seen if built.forge else lambda _: None,
    )


@contextlib.asynccontextmanager
async def _watching(
    built: Runtime, watch: FileWatching, daemon: Daemon, observers: Sequence[Observer]
) -> AsyncIterator[None]:
    """While inside, changes of live files and containers wake the daemon, and observers report its outcomes."""
    tasks = [
        asyncio.create_task(watch.run(lambda: daemon.look_soon("watch"))),
        *(
            asyncio.create_task(_follow_engine(built, unit, lambda: daemon.look_soon("engine")))
            for unit in built.engines
        ),
        *(asyncio.create_task(observer.run()) for observer in observers),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_engine(built: Runtime, unit: str, touched: Callable[[], None]) -> None:
    """Call ``touched`` whenever something happens to a container of a stack of ours, once there is a stack: nothing
    else needs an engine. Runs until cancelled."""
    while True:
        try:
            if built.reconcilers[unit].stack_directories:
                await built.engines[unit].follow(touched, lambda: built.reconcilers[unit].stack_directories)
        except Exception:  # noqa: BLE001  # a defect with one host must not end it for the others
            logs.get_logger().exception("following an engine failed", environment=unit)
            await asyncio.sleep(_FOLLOW_AGAIN)
        await asyncio.sleep(_FIRST_STACK)


def _webhook_of(config: ServerConfig, plans: MergePlans | None = None) -> WebhookReceiver | None:
    """Raises ConfigError where the secret cannot be used now."""
    if config.webhook is None:
        return None
    read_webhook_secret(config.webhook.secret_file)
    planned = plans.covers if plans else None
    return WebhookReceiver(config.webhook.secret_file, config.repository.branch, planned)

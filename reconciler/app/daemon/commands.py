"""What the commands do: functions from the server's file to plain data. A daemon that answers does the work."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from reconciler.app.config.scalars import DURATION
from reconciler.app.config.server import ServerConfig
from reconciler.app.daemon import logs, requests
from reconciler.app.daemon import serialize as show
from reconciler.app.daemon.lock import exclusive
from reconciler.app.daemon.loop import Daemon
from reconciler.app.wiring.server import Runtime, open_backups, open_store, prepare_state_dir, runtime
from reconciler.core.errors import ConfigError, OutsideError, ReconcilerError, RefusedError
from reconciler.core.model.requests import OperatorRequest, ReconcileRequest
from reconciler.core.model.runs import Outcome
from reconciler.engine.backup import find_backup
from reconciler.engine.restore import restore_backup
from reconciler.engine.rollout import select_units, without_needless_refusals

Tell = Callable[[str], None]

_SEE_ITS_LOG = "Its log says why: `journalctl -u reconciler`"


# --- the daemon ---


def run_daemon(config: ServerConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises LockedError, ConfigError, StoreError, RefusedError (address in use)."""
    logs.set_up()
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, "reconciler run"):
        asyncio.run(_run_daemon(config))


async def _run_daemon(config: ServerConfig) -> None:
    from reconciler.app.daemon.http import Views, serving

    async with runtime(config) as built:
        daemon = Daemon(
            built.passes,
            built.rollouts,
            clock=built.ports.clock,
            metrics=built.metrics,
            poll_interval=config.repository.poll_interval,
            drift_interval=config.drift.interval,
            watch=built.watch,
            on_progress=built.relay.listen,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        views = Views(
            daemon,
            built.ports.store,
            built.metrics.render,
            functools.partial(requests.carry_out, built.ports_of, tuple(built.passes)),
            _webhook_secret(config),
            announced=built.metrics.announced,
        )
        address = config.http.listen
        async with serving(views, host=address.host, port=address.port, control_socket=control_socket(config)) as bound:
            logger = logs.get_logger()
            logger.info("started", environments=list(daemon.environments), http=f"{address.host}:{bound}")
            listening = [
                asyncio.create_task(built.watch.run(lambda: daemon.look_soon("watch"))),
                asyncio.create_task(built.follow_engines(lambda: daemon.look_soon("engine"))),
            ]
            try:
                await daemon.run()
            finally:
                for task in listening:
                    task.cancel()
                await asyncio.gather(*listening, return_exceptions=True)
            logger.info("stopped")


def _webhook_secret(config: ServerConfig) -> bytes | None:
    """What signs announcements; None where there are none. Raises ConfigError: an empty one would let everybody in."""
    if config.webhook is None:
        return None
    path, hint = config.webhook.secret_file, "put the secret there, or correct webhook.secret_file"
    try:
        with open(path, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ConfigError(f"the webhook's secret cannot be read ({why})", where=path, hint=hint) from error
    if not secret:
        raise ConfigError("the webhook's secret is empty", where=path, hint=hint)
    return secret


def control_socket(config: ServerConfig) -> str:
    return os.path.join(config.state_dir, "control.sock")


# --- one pass ---


def make_pass(
    config: ServerConfig,
    trigger: str,
    environments: Sequence[str],
    take_over: Sequence[str],
    *,
    dry_run: bool,
    tell: Tell,
    order: OperatorRequest | None = None,
) -> list[dict[str, Any]]:
    """One pass, after the ``order`` if there is one; in the daemon if it answers, else here under the same lock.

    Raises RefusedError for an environment the server's file does not name, LockedError.
    """
    _check_environments(config, environments)
    if foreign := [name for name in take_over if not _is_known(config, name.partition("/")[0])]:
        hint = "A target is ENVIRONMENT/SOURCE, as `reconciler status` lists it"
        raise RefusedError(f"no target {', '.join(foreign)} here", hint=hint)
    asked = {
        "trigger": trigger,
        "dry_run": dry_run,
        "take_over": list(take_over),
        "environments": list(environments),
        "order": show.order(order),
    }
    return asyncio.run(_make_pass(config, asked, tell))


def order(config: ServerConfig, environment: str | None, wish: OperatorRequest, *, tell: Tell) -> list[dict[str, Any]]:
    """Carry out a person's order on one environment, and make the pass that follows from it. Raises as make_pass."""
    if environment is None and len(config.environment) > 1:
        hint = f"Name one with --environment: {', '.join(config.environment)}"
        raise RefusedError("this server follows several environments", hint=hint)
    name = environment or config.environment[0]
    return make_pass(config, wish.kind.value, [name], [], dry_run=False, tell=tell, order=wish)


def seconds(text: str, *, where: str) -> float:
    """Given a duration as in the files (30m), return it in seconds. Raises RefusedError."""
    try:
        return float(DURATION.read(text))
    except PydanticCustomError as error:
        hint = f"Write it as {DURATION.accepted}"
        raise RefusedError(f"{text!r} is not a duration", where=where, hint=hint) from error


def _check_environments(config: ServerConfig, names: Iterable[str]) -> None:
    if unknown := sorted(name for name in names if not _is_known(config, name)):
        hint = f"This server's file names: {', '.join(dict.fromkeys([*config.environment, *config.units]))}"
        raise RefusedError(f"no environment {', '.join(unknown)} here", hint=hint)


def _is_known(config: ServerConfig, name: str) -> bool:
    """Whether it is an environment of this server, or one on one of its hosts."""
    return name in config.environment or name in config.units


async def _make_pass(config: ServerConfig, asked: dict[str, Any], tell: Tell) -> list[dict[str, Any]]:
    answer = await _ask_daemon(config, "pass", asked, tell)
    return list(answer["outcomes"]) if answer is not None else await _pass_here(config, asked, tell)


async def _pass_here(config: ServerConfig, asked: dict[str, Any], tell: Tell) -> list[dict[str, Any]]:
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, f"reconciler {'sync' if asked['trigger'] == 'manual' else asked['trigger']}"):
        async with runtime(config) as built:
            built.relay.listen(tell)
            return list(await _uninterrupted(_passes(built, asked)))


async def _passes(built: Runtime, asked: dict[str, Any]) -> list[dict[str, Any]]:
    request = ReconcileRequest(
        asked["trigger"],
        dry_run=asked["dry_run"],
        take_over=asked["take_over"],
        operator=show.order_from(asked["order"]),
    )
    only = select_units(built.passes, asked["environments"])
    outcomes: list[Outcome] = []
    for rollout in built.rollouts:
        outcomes += await rollout.reconcile(request, only=only)
    return [show.outcome(outcome) for outcome in without_needless_refusals(outcomes)]


# --- errands ---


def adopt(config: ServerConfig, target: str, keys: Sequence[str], *, tell: Tell) -> dict[str, Any]:
    """Propose a live file, or some keys of it, for git; see engine/adopt.py. Raises ReconcilerError, LockedError."""
    environment, _, source = target.partition("/")
    if environment not in config.units or not source:
        hint = "A target is ENVIRONMENT/SOURCE, as `reconciler status` lists it"
        raise RefusedError(f"no target {target} here", hint=hint)
    return _run_errand(config, {"errand": "adopt", "target": target, "keys": list(keys)}, tell)


def age(config: ServerConfig, environment: str | None, max_age: float | None, *, tell: Tell) -> dict[str, Any]:
    """How old the secrets are; ``max_age`` in seconds. Raises ReconcilerError, LockedError."""
    _check_environments(config, [environment] if environment else [])
    chosen = [environment] if environment else list(config.environment)
    return _run_errand(config, {"errand": "age", "environments": chosen, "max_age": max_age}, tell)


def _run_errand(config: ServerConfig, asked: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """In the daemon if it answers, between two passes; else here under the same lock."""
    return asyncio.run(_errand(config, asked, tell))


async def _errand(config: ServerConfig, asked: dict[str, Any], tell: Tell) -> dict[str, Any]:
    answer = await _ask_daemon(config, "errand", asked, tell)
    if answer is None:
        return await _errand_here(config, asked, tell)
    if "refused" in answer:
        raise ReconcilerError(**answer["refused"])
    return dict(answer["done"])


async def _errand_here(config: ServerConfig, asked: dict[str, Any], tell: Tell) -> dict[str, Any]:
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, f"reconciler {asked['errand']}"):
        async with runtime(config) as built:
            built.relay.listen(tell)
            done = requests.carry_out(built.ports_of, tuple(built.passes), asked)
            return dict(await _uninterrupted(done))


async def _uninterrupted(work: Any) -> Any:
    """A pass is never cancelled half way: Ctrl-C and SIGTERM wait for its end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
    try:
        return await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _ask_daemon(config: ServerConfig, what: str, asked: dict[str, Any], tell: Tell) -> dict[str, Any] | None:
    """The daemon's answer, or None where no daemon listens. ``what`` is "pass" or "errand"."""
    if (path := _socket_left(config)) is None:
        return None
    import aiohttp

    connector = aiohttp.UnixConnector(path)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session,
            session.post(f"http://daemon/api/v1/{what}", json=asked) as answer,
        ):
            answer.raise_for_status()
            async for line in answer.content:
                data = json.loads(line)
                if "progress" not in data:
                    return dict(data)
                tell(data["progress"])
    except aiohttp.ClientConnectorError:
        return None  # a killed daemon has left the socket behind
    except aiohttp.ClientError as error:
        raise OutsideError("the daemon did not answer to the end", where=path, hint=_SEE_ITS_LOG) from error
    raise OutsideError("the daemon stopped before it was done", where=path, hint=_SEE_ITS_LOG)


def _socket_left(config: ServerConfig) -> str | None:
    """The control socket, if it is there: else aiohttp, which takes its time to load, is not needed."""
    path = control_socket(config)
    return path if os.path.exists(path) else None


# --- looking ---


def status(config: ServerConfig, *, tell: Tell) -> dict[str, Any]:
    """Per environment, target and stack, from the daemon, or from a look at the live files where none runs."""
    return asyncio.run(_status(config, tell))


async def _status(config: ServerConfig, tell: Tell) -> dict[str, Any]:
    answer = await _ask_daemon_status(config)
    return answer if answer is not None else await _status_here(config, tell)


async def _ask_daemon_status(config: ServerConfig) -> dict[str, Any] | None:
    """The daemon's answer, or None where no daemon listens."""
    if (path := _socket_left(config)) is None:
        return None
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
            session.get("http://daemon/api/v1/status") as answer,
        ):
            return dict(await answer.json())
    except aiohttp.ClientConnectorError:
        return None  # a killed daemon has left the socket behind
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OutsideError("the daemon did not answer", where=path, hint=_SEE_ITS_LOG) from error


async def _status_here(config: ServerConfig, tell: Tell) -> dict[str, Any]:
    prepare_state_dir(config.state_dir)
    with exclusive(config.state_dir, "reconciler status"):
        async with runtime(config) as built:
            built.relay.listen(tell)
            shown = [await _look(built, name) for name in built.passes]
    return {"daemon": {"running": False, "pid": None}, "environments": shown}


async def _look(built: Runtime, name: str) -> dict[str, Any]:
    one = built.passes[name]
    outcome = await one.reconcile(ReconcileRequest("status", poll=False, dry_run=True))
    record = built.ports.store.environment(name)
    return {**show.environment(record, outcome, at=built.ports.clock.now()), **await show.health_of(one)}


def history(config: ServerConfig, environment: str | None, limit: int) -> list[dict[str, Any]]:
    """Runs, newest first. Raises RefusedError for an environment the server's file does not name."""
    _check_environments(config, [environment] if environment else [])
    _need_state(config)
    store = open_store(config)
    try:
        return [show.run(one) for one in store.runs(_units_of(config, environment), limit)]
    finally:
        store.close()


def backups(config: ServerConfig, environment: str | None) -> list[dict[str, Any]]:
    """Backups, newest first. Raises RefusedError for an environment the server's file does not name."""
    _check_environments(config, [environment] if environment else [])
    _need_state(config)
    units = _units_of(config, environment)
    return [show.backup(one) for one in open_backups(config).list() if units is None or one.environment in units]


def verified_backups(config: ServerConfig, environment: str | None) -> list[dict[str, Any]]:
    """The same, each with the ``problems`` that reading all of its files and comparing their digests finds."""
    _check_environments(config, [environment] if environment else [])
    _need_state(config)
    directory = open_backups(config)
    units = _units_of(config, environment)
    found = [
        {**show.backup(one), "problems": list(directory.problems(one))}
        for one in directory.list()
        if units is None or one.environment in units
    ]
    problem = "its manifest.json cannot be read, so it cannot be restored. Look at its files yourself, or move it away"
    return found + [
        {"backup": identity, "environment": name, "files": [], "problems": [problem]}
        for name, identity in directory.unreadable()
        if units is None or name in units
    ]


def _units_of(config: ServerConfig, environment: str | None) -> frozenset[str] | None:
    """What an environment is called, also on each of its hosts; None for everything there is."""
    return None if environment is None else frozenset({environment, *select_units(config.units, [environment])})


def _need_state(config: ServerConfig) -> None:
    if not os.path.isdir(config.state_dir):
        hint = "Run `reconciler sync` or start the daemon first, or correct state_dir"
        raise RefusedError("nothing has run here yet", where=config.state_dir, hint=hint)


# --- putting a backup back ---


def restore(config: ServerConfig, identity: str, only: Sequence[str]) -> dict[str, Any]:
    """Put the files of a backup back; what they replace is backed up first. Raises ReconcilerError, LockedError."""
    _need_state(config)
    with exclusive(config.state_dir, "reconciler restore"):
        return asyncio.run(_restore(config, identity, only))


async def _restore(config: ServerConfig, identity: str, only: Sequence[str]) -> dict[str, Any]:
    async with runtime(config) as built:
        environment = find_backup(built.ports, identity).environment
        restored = await restore_backup(built.ports_of(environment), environment, identity, only)
        return {"restored": list(restored.paths), "from": restored.source, "backup": restored.backup}

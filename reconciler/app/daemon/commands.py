"""One function per operator command: from the server configuration's path to plain data. See client.py for who does the
work.

Modules that take time to load are imported where they are used: with a daemon, most commands need none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reconciler.app.daemon.client import Progress, Request, ask_daemon_of, control_socket, serve_request
from reconciler.core.errors import OutsideError, RefusedError

if TYPE_CHECKING:
    from reconciler.app.config.server import ServerConfig


def sync_environments(
    config_file: str,
    environments: Sequence[str],
    take_over: Sequence[str],
    progress: Progress,
    *,
    accept_projects: Sequence[str] = (),
    reason: str = "",
    skip_promotion: bool = False,
) -> list[dict[str, Any]]:
    """Reconcile now; ``accept_projects`` are stacks, NAME or ENVIRONMENT/NAME.

    Raises RefusedError for an environment that is not on this server, ConfigError, LockedError.
    """
    request = {
        "kind": "sync",
        "environments": list(environments),
        "take_over": list(take_over),
        "accept_projects": list(accept_projects),
        "reason": reason,
        "skip_promotion": skip_promotion,
    }
    return list(serve_request(config_file, request, progress))


def plan_environments(
    config_file: str, environments: Sequence[str], revision: str, progress: Progress
) -> list[dict[str, Any]]:
    """What a reconciliation would change, at ``revision`` if it is not "". Raises as sync_environments."""
    request = {"kind": "plan", "environments": list(environments), "revision": revision}
    return list(serve_request(config_file, request, progress))


def change_environment(
    config_file: str, environment: str | None, request: Request, progress: Progress
) -> list[dict[str, Any]]:
    """Roll back, unpin, pause, resume, retry, forget or accept a rewrite (the request's ``kind``), then reconcile.

    ``environment`` may be None where the server follows only one. Raises as sync_environments.
    """
    environments = [] if environment is None else [environment]
    return list(serve_request(config_file, {**request, "environments": environments}, progress))


def reload_daemon(config_file: str, progress: Progress) -> None:
    """Have the daemon take the server configuration again, and wait until it uses it.

    Raises ConfigError for a mistake in it, ReconcilerError where the daemon keeps the former one, RefusedError where
    none runs.
    """
    from reconciler.app.config.server import load_server_config

    config = load_server_config(config_file)  # with a mistake in it, the daemon need not be asked
    if ask_daemon_of(config_file, {"kind": "reload"}, progress) is None:
        hint = "Start it, or restart it if state_dir has changed"
        where = control_socket(config.state_dir)
        raise RefusedError("no daemon listens here", where=where, hint=hint, id="reload-failed")


def restore_files(
    config_file: str, backup: str, only: Sequence[str], progress: Progress, *, reason: str = ""
) -> dict[str, Any]:
    """Restore the files of a backup, or those of ``only`` (sources or live paths). Raises ReconcilerError."""
    request = {"kind": "restore", "backup": backup, "only": list(only), "reason": reason}
    return dict(serve_request(config_file, request, progress))


def adopt_target(
    config_file: str, target: str, keys: Sequence[str], progress: Progress, *, reason: str = ""
) -> dict[str, Any]:
    """Propose a live file, or some of its keys, for git: see engine/adopt.py. Raises ReconcilerError, LockedError."""
    request = {"kind": "adopt", "target": target, "keys": list(keys), "reason": reason}
    return dict(serve_request(config_file, request, progress))


def read_secret_ages(
    config_file: str, environment: str | None, max_age: float | None, progress: Progress
) -> dict[str, Any]:
    """How old the secrets are; ``max_age`` in seconds. Raises ReconcilerError, LockedError."""
    environments = [] if environment is None else [environment]
    request = {"kind": "age", "environments": environments, "max_age": max_age}
    return dict(serve_request(config_file, request, progress))


def read_status(config_file: str, progress: Progress, *, here: bool = True) -> dict[str, Any]:
    """Each environment, target and stack: from the daemon's memory, or (``here``) from the live files where none runs.

    Raises ReconcilerError.
    """
    return dict(serve_request(config_file, {"kind": "status"}, progress, here=here))


def list_runs(config_file: str, environment: str | None, limit: int) -> list[dict[str, Any]]:
    """Runs, newest first: from the daemon or, where none answers, from the state directory.

    Raises RefusedError for an environment that is not on this server.
    """
    request = {"kind": "history", "environments": [] if environment is None else [environment], "limit": limit}
    try:
        answer = ask_daemon_of(config_file, request, lambda _: None)
    except OutsideError:
        answer = None
    if answer is not None:
        return list(answer["result"])
    from reconciler.app.daemon import requests
    from reconciler.app.wiring.server import open_store

    config = _config_with_state(config_file, environment)
    store = open_store(config)
    try:
        return requests.list_runs(store, config.units, request)
    finally:
        store.close()


def list_backups(config_file: str, environment: str | None, *, verify: bool) -> list[dict[str, Any]]:
    """Backups, newest first; with ``verify`` each has the ``problems`` found by reading all of its files.

    Raises RefusedError for an environment that is not on this server.
    """
    from reconciler.app.daemon import serialize
    from reconciler.app.daemon.requests import units_of
    from reconciler.app.wiring.server import open_backups

    config = _config_with_state(config_file, environment)
    directory, units = open_backups(config), units_of(config.units, environment)
    listed = [backup for backup in directory.list() if units is None or backup.environment in units]
    if not verify:
        return [serialize.serialize_backup(backup) for backup in listed]
    problem = "its manifest.json cannot be read, so it cannot be restored. Check its files yourself, or move it away"
    return [
        *({**serialize.serialize_backup(backup), "problems": list(directory.problems(backup))} for backup in listed),
        *(
            {"backup": identity, "environment": name, "files": [], "problems": [problem]}
            for name, identity in directory.unreadable()
            if units is None or name in units
        ),
    ]


def _config_with_state(config_file: str, environment: str | None) -> ServerConfig:
    """Raises ConfigError; RefusedError where there is no such environment or nothing has run yet."""
    from reconciler.app.config.server import load_server_config
    from reconciler.app.daemon.requests import check_environments
    from reconciler.app.daemon.without_daemon import require_state

    config = load_server_config(config_file)
    check_environments(config.units, [environment] if environment else [])
    require_state(config)
    return config

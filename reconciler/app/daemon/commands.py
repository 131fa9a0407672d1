"""One function per operator command: from the server configuration to plain data. See client.py for who does the work.

Modules that take time to load are imported where they are used: with a daemon, most commands need none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.app.daemon import serialize
from reconciler.app.daemon.client import Progress, Request, serve_request
from reconciler.core.errors import RefusedError
from reconciler.core.model.targets import environment_of

if TYPE_CHECKING:
    from reconciler.app.config.server import ServerConfig

_TARGET_FORM = "A target is ENVIRONMENT/SOURCE, as `reconciler status` lists it"


def sync_environments(
    config: ServerConfig,
    environments: Sequence[str],
    take_over: Sequence[str],
    progress: Progress,
    *,
    accept_projects: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Reconcile now; ``accept_projects`` are stacks, NAME or ENVIRONMENT/NAME.

    Raises RefusedError for an environment that is not on this server, LockedError.
    """
    _check_environments(config, environments)
    if unknown := [target for target in take_over if not _is_known(config, target.partition("/")[0])]:
        raise RefusedError(f"no target {', '.join(unknown)} here", hint=_TARGET_FORM)
    accepted = [
        f"{environment}/{name}" if "/" not in name else name
        for name in accept_projects
        for environment in ((environments or config.environment) if "/" not in name else [""])
    ]
    if unknown := [name for name in accepted if not _is_known(config, name.partition("/")[0])]:
        hint = "A stack is ENVIRONMENT/NAME, as `reconciler status` lists it"
        raise RefusedError(f"no stack {', '.join(unknown)} here", hint=hint)
    request = {
        "kind": "sync",
        "environments": list(environments),
        "take_over": list(take_over),
        "accept_projects": accepted,
    }
    return list(serve_request(config, request, progress))


def plan_environments(
    config: ServerConfig, environments: Sequence[str], revision: str, progress: Progress
) -> list[dict[str, Any]]:
    """What a reconciliation would change, at ``revision`` if it is not "". Raises as sync_environments."""
    _check_environments(config, environments)
    request = {"kind": "plan", "environments": list(environments), "revision": revision}
    return list(serve_request(config, request, progress))


def change_environment(
    config: ServerConfig, environment: str | None, request: Request, progress: Progress
) -> list[dict[str, Any]]:
    """Roll back, unpin, pause, resume, retry or accept a rewrite (the request's ``kind``), then reconcile.

    ``environment`` may be None where the server follows only one. Raises as sync_environments.
    """
    if environment is None and len(config.environment) > 1:
        hint = f"Name one with --environment: {', '.join(config.environment)}"
        raise RefusedError("this server follows several environments", hint=hint)
    name = environment or config.environment[0]
    _check_environments(config, [name])
    return list(serve_request(config, {**request, "environments": [name]}, progress))


def restore_files(config: ServerConfig, backup: str, only: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Restore the files of a backup, or those of ``only`` (sources or live paths). Raises ReconcilerError."""
    _require_state(config)
    return dict(serve_request(config, {"kind": "restore", "backup": backup, "only": list(only)}, progress))


def adopt_target(config: ServerConfig, target: str, keys: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Propose a live file, or some of its keys, for git: see engine/adopt.py. Raises ReconcilerError, LockedError."""
    environment, _, source = target.partition("/")
    if environment not in config.units or not source:
        raise RefusedError(f"no target {target} here", hint=_TARGET_FORM)
    return dict(serve_request(config, {"kind": "adopt", "target": target, "keys": list(keys)}, progress))


def read_secret_ages(
    config: ServerConfig, environment: str | None, max_age: float | None, progress: Progress
) -> dict[str, Any]:
    """How old the secrets are; ``max_age`` in seconds. Raises ReconcilerError, LockedError."""
    _check_environments(config, [environment] if environment else [])
    chosen = [environment] if environment else list(config.environment)
    return dict(serve_request(config, {"kind": "age", "environments": chosen, "max_age": max_age}, progress))


def read_status(config: ServerConfig, progress: Progress, *, here: bool = True) -> dict[str, Any]:
    """Each environment, target and stack: from the daemon's memory, or (``here``) from the live files where none runs.

    Raises ReconcilerError.
    """
    return dict(serve_request(config, {"kind": "status"}, progress, here=here))


def list_runs(config: ServerConfig, environment: str | None, limit: int) -> list[dict[str, Any]]:
    """Runs, newest first. Raises RefusedError for an environment that is not on this server."""
    from reconciler.app.wiring.server import open_store

    _check_environments(config, [environment] if environment else [])
    _require_state(config)
    store = open_store(config)
    try:
        return [serialize.serialize_run(run) for run in store.runs(_units_of(config, environment), limit)]
    finally:
        store.close()


def list_backups(config: ServerConfig, environment: str | None, *, verify: bool) -> list[dict[str, Any]]:
    """Backups, newest first; with ``verify`` each has the ``problems`` found by reading all of its files.

    Raises RefusedError for an environment that is not on this server.
    """
    from reconciler.app.wiring.server import open_backups

    _check_environments(config, [environment] if environment else [])
    _require_state(config)
    directory, units = open_backups(config), _units_of(config, environment)
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


def _check_environments(config: ServerConfig, names: Iterable[str]) -> None:
    if unknown := sorted(name for name in names if not _is_known(config, name)):
        known = ", ".join(dict.fromkeys([*config.environment, *config.units]))
        raise RefusedError(f"no environment {', '.join(unknown)} here", hint=f"The server configuration has: {known}")


def _is_known(config: ServerConfig, name: str) -> bool:
    """Whether it is an environment of this server, or one on one of its hosts."""
    return name in config.environment or name in config.units


def _units_of(config: ServerConfig, environment: str | None) -> frozenset[str] | None:
    """What an environment is called, also on each of its hosts; None for all environments."""
    if environment is None:
        return None
    return frozenset({environment, *(unit for unit in config.units if environment_of(unit) == environment)})


def _require_state(config: ServerConfig) -> None:
    if not os.path.isdir(config.state_dir):
        hint = "Run `reconciler sync` or start the daemon first, or correct state_dir"
        raise RefusedError("nothing has run here yet", where=config.state_dir, hint=hint)

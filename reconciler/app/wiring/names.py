"""The names that a shell completes: read quickly, without checking anything, and none where they cannot be read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from reconciler.adapters.store_copy import applied_names
from reconciler.app.config.state_dir import DEFAULT_STATE_DIR


@dataclass(frozen=True, slots=True)
class KnownNames:
    """``targets`` and ``stacks`` are ENVIRONMENT/NAME, ``backups`` ids."""

    environments: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()
    backups: tuple[str, ...] = ()


def server_names(config_file: str) -> KnownNames:
    """What the server configuration and the state directory name."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        with open(config_file, encoding="utf-8") as file:
            settings = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe
        if isinstance(settings, dict):
            named, state = settings.get("environment", ()), str(settings.get("state_dir", DEFAULT_STATE_DIR))
            environments = tuple(map(str, named)) if isinstance(named, list) else (str(named),)
            return _with_state(environments, state)
    return KnownNames()


def _with_state(environments: tuple[str, ...], state_dir: str) -> KnownNames:
    rows: list[tuple[str, str, str]] = []
    with contextlib.suppress(sqlite3.Error):
        rows = applied_names(os.path.join(state_dir, "state.db"))
    targets = tuple(f"{environment}/{source}" for environment, source, _ in rows)
    stacks = tuple(dict.fromkeys(f"{environment}/{stack}" for environment, _, stack in rows if stack))
    units = tuple(dict.fromkeys((*environments, *(environment for environment, _, _ in rows))))
    return KnownNames(units, targets, stacks, tuple(_backups(os.path.join(state_dir, "backups"))))


def _backups(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for environment in sorted(os.listdir(directory)):
            yield from sorted(os.listdir(os.path.join(directory, environment)), reverse=True)


def clone_names(directory: str) -> KnownNames:
    """The environments below a clone's directory of them, and their sources."""
    with contextlib.suppress(OSError):
        names = [name for name in sorted(os.listdir(directory)) if _is_environment(os.path.join(directory, name))]
        targets = [f"{name}/{source}" for name in names for source in sorted(_sources(os.path.join(directory, name)))]
        return KnownNames(tuple(names), tuple(targets))
    return KnownNames()


def _is_environment(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, "environment.yaml"))


def _sources(directory: str) -> Iterator[str]:
    for parent, _, files in os.walk(directory):
        below = os.path.relpath(parent, directory)
        yield from (os.path.normpath(os.path.join(below, file)) for file in files if file != "environment.yaml")

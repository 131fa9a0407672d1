"""The ports without what writes, runs or counts: for looking at what a reconciliation would do, without a trace."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

from reconciler.core.model.runs import Activity
from reconciler.core.ports import Ports
from reconciler.core.ports.compose import Compose
from reconciler.core.ports.git import Git, GitWriter
from reconciler.core.ports.host import Host
from reconciler.core.ports.metrics import Metrics
from reconciler.core.ports.store import Backups, Store

_STORE_READS = (
    *("version", "environment", "environments", "applied", "digests", "ever_written", "ever_unguarded", "ran_services"),
    *("unfinished", "pending_restarts", "runs", "history_read", "first_seen"),
)
_HOST_READS = (
    "reach",
    "read",
    "read_all",
    "stamps",
    "editor",
    "ownership",
    "new_owner",
    "resolve",
    "sight",
    "leftovers",
)
_COMPOSE_READS = (
    *("project", "project_files", "other_project_files", "images", "own_hash", "containers", "deployed"),
    *("guests", "glance", "require_names", "endings", "names_in_use", "is_current", "noticing"),
)


class _OnlyReads:
    """Passes on the calls that are named, takes ``ignored`` ones without doing anything, and refuses all others."""

    def __init__(self, wrapped: object, allowed: Collection[str], ignored: Collection[str] = ()) -> None:
        self._wrapped = wrapped
        self._allowed = allowed
        self._ignored = ignored

    def __getattr__(self, name: str) -> Any:
        if name in self._allowed:
            return getattr(self._wrapped, name)
        if name in self._ignored:
            return lambda *_, **__: None
        raise AssertionError(f"a preview must not use {name}")


class _NoMetrics:
    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


def reading_ports(ports: Ports, git: Git) -> Ports:
    """The ports on another repository, with which nothing can be written, run or counted."""
    return replace(
        ports,
        git=git,
        git_writer=cast(GitWriter, _OnlyReads(None, ())),
        store=cast(Store, _OnlyReads(ports.store, _STORE_READS, ("remember_digests",))),
        backups=cast(Backups, _OnlyReads(None, ())),
        host=cast(Host, _OnlyReads(ports.host, _HOST_READS)),
        compose=cast(Compose, _OnlyReads(ports.compose, _COMPOSE_READS)),
        metrics=cast(Metrics, _NoMetrics()),
        progress=lambda _: None,
        activity=Activity(),
    )

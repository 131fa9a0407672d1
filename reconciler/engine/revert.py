"""The last part of a rollback: revert the failed revision in git, once the server has recovered."""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.errors import OutsideError, ReconcilerError, RevertRefusedError
from reconciler.core.model.records import EnvironmentRecord, Quarantine
from reconciler.core.model.revisions import Reverted, RevertRequest, RevertState
from reconciler.core.model.targets import environment_of
from reconciler.core.ports import Ports
from reconciler.engine.observe import path_in_git

_DAY = 86400.0  # seconds


async def revert_in_git(ports: Ports, environment: str) -> tuple[str, ReconcilerError | None]:
    """Make the revert that a quarantine has pending, if one has.

    Returns the result in words, and the error for which it will be retried; ("", None) if none is pending. Never raises
    ReconcilerError: whatever git says, the server stays as it is.
    """
    record = ports.store.environment(environment)
    quarantine = record.pending_revert
    if quarantine is None:
        return "", None
    try:
        _check_budget(ports, record)
        reverted = await ports.git_writer.revert(_request(ports, record, quarantine), ports.settings.git_revert)
    except OutsideError as error:
        return "", error
    except ReconcilerError as error:
        reverted = Reverted(RevertState.REFUSED, ports.settings.branch, "", f"not reverted: {error}")
    reverted = replace(reverted, reason=f"In git: {reverted.reason}")
    try:
        _store(ports, record, quarantine, reverted)
    except OutsideError as error:
        return reverted.reason, error
    return reverted.reason, None


def _check_budget(ports: Ports, record: EnvironmentRecord) -> None:
    """Raises RevertRefusedError if the environment, on all of its hosts together, has used up its reverts of a day."""
    environment = environment_of(record.name)
    hosts = [
        ports.store.environment(name) for name in ports.store.environments() if environment_of(name) == environment
    ]
    if sum(len(_recent_reverts(ports, host)) for host in hosts) >= ports.settings.max_reverts_per_day:
        problem = f"{ports.settings.max_reverts_per_day} revert(s) were pushed within 24 hours (rollback.max_per_day)"
        hint = "Find out why broken changes keep being merged, and revert by hand"
        raise RevertRefusedError(problem, where=f"environment {record.name}", hint=hint)


def _recent_reverts(ports: Ports, record: EnvironmentRecord) -> tuple[float, ...]:
    """The times of the pushes within a day; if the clock was set back, some lie in the future and count too."""
    now = ports.clock.now()
    return tuple(at for at in record.reverts if now - at < _DAY)


def _request(ports: Ports, record: EnvironmentRecord, quarantine: Quarantine) -> RevertRequest:
    return RevertRequest(
        environment=environment_of(record.name),
        directory=path_in_git(ports, record.name),
        failed=quarantine.revision.commit,
        good=quarantine.good,
        host=ports.settings.host,
        run=quarantine.run,
        reason=quarantine.reason,
    )


def _store(ports: Ports, record: EnvironmentRecord, quarantine: Quarantine, reverted: Reverted) -> None:
    pushed = reverted.state is RevertState.PUSHED
    reverts = (*_recent_reverts(ports, record), *((ports.clock.now(),) if pushed else ()))
    updated = replace(quarantine, revert=reverted.state, revert_note=reverted.reason)
    ports.metrics.rolled_back(record.name, "git", reverted.state is not RevertState.REFUSED)
    ports.store.note(
        quarantine.run, reverted.reason, replace(record.quarantined(updated), reverts=reverts), ports.clock.now()
    )

"""The last part of a rollback: take the failed revision back in git, when the server is long well again."""

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
    """Make the revert that a quarantine asks for, if it does.

    Returns what became of it, in words, and the trouble that it is tried again for; ("", None) where none is owed.
    Raises nothing: whatever git says, the server is as it is.
    """
    record = ports.store.environment(environment)
    quarantine = next((one for one in record.quarantines if one.revert is RevertState.PENDING), None)
    if quarantine is None:
        return "", None
    try:
        _check_budget(ports, record)
        done = await ports.git_writer.revert(_order(ports, record, quarantine), ports.settings.git_revert)
    except OutsideError as error:
        return "", error
    except ReconcilerError as error:
        done = Reverted(RevertState.REFUSED, ports.settings.branch, "", f"not reverted: {error}")
    done = replace(done, reason=f"In git: {done.reason}")
    try:
        _remember(ports, record, quarantine, done)
    except OutsideError as error:
        return done.reason, error
    return done.reason, None


def _check_budget(ports: Ports, record: EnvironmentRecord) -> None:
    """Raises RevertRefusedError where the environment, on all of its hosts together, has had its share of a day."""
    environment = environment_of(record.name)
    hosts = [
        ports.store.environment(name) for name in ports.store.environments() if environment_of(name) == environment
    ]
    if sum(len(_lately(ports, one)) for one in hosts) >= ports.settings.max_reverts_per_day:
        what = f"{ports.settings.max_reverts_per_day} revert(s) were pushed within 24 hours (rollback.max_per_day)"
        hint = "Find out what keeps merging what breaks, and revert by hand"
        raise RevertRefusedError(what, where=f"environment {record.name}", hint=hint)


def _lately(ports: Ports, record: EnvironmentRecord) -> tuple[float, ...]:
    """The times of the pushes within a day; a clock that was set back leaves some in the future, which count too."""
    now = ports.clock.now()
    return tuple(at for at in record.reverts if now - at < _DAY)


def _order(ports: Ports, record: EnvironmentRecord, quarantine: Quarantine) -> RevertRequest:
    return RevertRequest(
        environment=environment_of(record.name),
        directory=path_in_git(ports, record.name),
        failed=quarantine.revision.commit,
        good=quarantine.good,
        host=ports.settings.host,
        run=quarantine.run,
        reason=quarantine.reason,
    )


def _remember(ports: Ports, record: EnvironmentRecord, quarantine: Quarantine, done: Reverted) -> None:
    pushed = done.state is RevertState.PUSHED
    reverts = (*_lately(ports, record), *((ports.clock.now(),) if pushed else ()))
    settled = replace(quarantine, revert=done.state, revert_note=done.reason)
    ports.metrics.rolled_back(record.name, "git", done.state is not RevertState.REFUSED)
    ports.store.note(quarantine.run, done.reason, replace(record.quarantined(settled), reverts=reverts))

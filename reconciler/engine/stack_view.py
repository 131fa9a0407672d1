"""A stack before a change, and as Compose resolves it with the new files. Reads only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.decide.affected_services import reads
from reconciler.core.decide.one_shots import with_one_shots
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import known_variables
from reconciler.core.errors import ModelRefusedError, ReconcilerError, StartedOtherwiseError
from reconciler.core.model.compose import Container, DeployedService, ManagedFile, Project, Sight
from reconciler.core.model.plans import ServiceDrift
from reconciler.core.model.targets import OnChange, Parser, Stack, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.ahead import Ahead
from reconciler.engine.mounted_files import sights_of
from reconciler.engine.observe import Plaintexts, Snapshot, last_written
from reconciler.engine.stack_health import stopped_by_somebody


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack before the change: its resolved project (None where Compose cannot yet), its containers, and its env
    files that git manages, by path. ``policies`` says of each live file what a change means for who mounts it,
    ``sights`` by service and live path what its containers have of one that they mount by itself. The services that are
    ``left`` keep what they run with; nothing starts those that somebody ``stopped``; ``deployed`` are those that the
    engine itself keeps, ``drifts`` what somebody changed of these, ``put_back`` those that it rolled back itself.
    ``images`` are ids by the names that containers were made from, as far as they were asked for."""

    stack: Stack
    before: Project | None
    containers: tuple[Container, ...]
    managed: Mapping[str, ManagedFile] = field(default_factory=dict)
    policies: Mapping[str, OnChange] = field(default_factory=dict)
    sights: Mapping[str, Mapping[str, Sight]] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    deployed: tuple[DeployedService, ...] | None = None
    drifts: tuple[ServiceDrift, ...] = ()
    put_back: frozenset[str] = frozenset()
    images: Mapping[str, str] = field(default_factory=dict)


async def look_at_stack(
    ports: Ports,
    snapshot: Snapshot,
    stack: Stack,
    managed: Mapping[str, ManagedFile],
    staged: Mapping[str, Secret | None],
    ahead: Ahead,
) -> tuple[StackView, Project | None]:
    """The stack as it is now, and its project with what is staged. Raises ModelRefusedError where Compose refuses that;
    where it refuses the project before the change, that blames nobody. Raises StartedOtherwiseError."""
    # Compose takes the longest of all that comes before a write: the two projects are resolved side by side.
    resolving = asyncio.ensure_future(ahead.staged_project(stack, staged)) if staged else None
    before: Project | None = None
    try:
        try:
            before = await ahead.project(stack)
        except StartedOtherwiseError:
            if resolving is None:
                raise
        except ModelRefusedError:
            pass
        name = before.name if before else None
        containers = await ports.compose.containers(stack, name)
        deployed = await ports.compose.deployed(stack, name)
        targets = [state.target for state in snapshot.states if state.target.stack == stack.name]
        policies = {target.path: target.on_change for target in targets}
        sights = await sights_of(ports, policies, containers)
        stopped = await stopped_by_somebody(ports, stack.environment, stack, containers)
        ran = ports.store.ran_services(stack.environment)
        long_running = stopped | {service.service for service in ran if service.stack == stack.name}
        ended = with_one_shots(stack, before, containers, long_running)
        affected = {it.image for it in containers if before and any(reads(before, it.service, path) for path in staged)}
        images = await ports.compose.images(affected) if affected else {}
        view = StackView(
            ended, before, containers, managed, policies, sights, stopped=stopped, deployed=deployed, images=images
        )
        after = before if resolving is None else await _resolved(ports, stack, staged, ahead, resolving)
        return view, after
    finally:
        if resolving is not None:
            resolving.cancel()
            await asyncio.gather(resolving, return_exceptions=True)


async def _resolved(
    ports: Ports, stack: Stack, staged: Mapping[str, Secret | None], ahead: Ahead, resolving: asyncio.Future[Project]
) -> Project:
    """The project with what is staged, of the same files as the one before the change."""
    try:
        after = await resolving
    except ReconcilerError:
        if stack.id not in ahead.outdated:
            raise
    else:
        if stack.id not in ahead.outdated:
            return after
    return await ports.compose.project(stack, staged)


async def env_files(ports: Ports, snapshot: Snapshot, stack: Stack) -> dict[str, str]:
    """The stack's targets that Compose is meant to read, and where their links lead."""
    targets = [state.target for state in snapshot.states if state.target.stack == stack.name and state.desired]
    paths = [target.path for target in targets if target.parser is Parser.COMPOSE]
    return {path: await ports.host.resolve(path) for path in paths}


async def managed_files(
    ports: Ports, snapshot: Snapshot, stack: Stack, staged: Mapping[str, Secret | None], plaintexts: Plaintexts
) -> dict[str, ManagedFile]:
    """The stack's env files by path: as it is written, and with its links resolved."""
    managed: dict[str, ManagedFile] = {}
    for state in snapshot.states:
        target = state.target
        if target.stack != stack.name or target.parser is Parser.OPAQUE:
            continue
        live = snapshot.live[target.path]
        versions = [live.data if live else None, staged.get(target.path)]
        if state.last not in (None, state.live, state.desired):  # somebody else brought it from there to here
            versions.append(await _last_written(ports, snapshot, target, plaintexts))
        keys: set[str] = set()
        values: dict[str, str] = {}
        for data in versions:
            with contextlib.suppress(EnvFileError):  # nobody can read it: it gives no container a key
                keys |= {entry.key for entry in read_entries(data.reveal() if data else b"", target.parser)}
        with contextlib.suppress(EnvFileError):
            now = staged[target.path] if target.path in staged else versions[0]
            values = known_variables(now.reveal() if now else b"", target.parser)
        for path in (target.path, await ports.host.resolve(target.path)):
            managed[path] = ManagedFile(target.path, frozenset(keys), values)
    return managed


async def _last_written(ports: Ports, snapshot: Snapshot, target: Target, plaintexts: Plaintexts) -> Secret | None:
    """What was last applied to a live file; None where that is no longer known."""
    with contextlib.suppress(ReconcilerError):  # its keys are a help, and nothing waits for them
        data = await last_written(ports, target, snapshot.applied[target.path], plaintexts)
        return None if data is None else Secret(data)
    return None

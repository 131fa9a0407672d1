"""What an operator should know about a stack although nothing is to be done, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.decide.affected_services import RUNNING, holds, managed_keys, path_in, stale_keys
from reconciler.core.fidelity.swarm_spec import ignored_fields
from reconciler.core.model.compose import Container, ManagedFile, Project, Service
from reconciler.core.model.targets import Stack, StackKind
from reconciler.core.text import key_name, listed


def stack_notes(
    stack: Stack,
    project: Project | None,
    containers: Sequence[Container],
    env_files: Mapping[str, str],
    managed: Mapping[str, ManagedFile],
) -> list[str]:
    """Given a stack as it is, return what an operator should know although nothing is to be done, in sentences.

    ``env_files`` are the managed ones that are meant for Compose: their paths, and those with links resolved;
    ``managed`` is as in ``affected``.
    """
    if project is None:
        return []
    services = project.services.values()
    sources = {source for service in services for source in service.sources}
    read = project.environments.union(project.unresolved_env_files, *(service.env_files for service in services))
    mounted = {path for path in env_files if any(holds(source, env_files[path]) for source in sources)}
    unread = [path for path, real in env_files.items() if not read & {path, real} and path not in mounted]
    by_reason: dict[str, list[str]] = {}
    for service, reason in project.unresolved.items():
        by_reason.setdefault(reason, []).append(service)
    running = {container.service for container in containers if container.state in RUNNING}
    orphans = sorted(running - project.services.keys() - project.unresolved.keys())
    where = f"stack {stack.name}"
    sentences = [f"{where}: {path_in(stack, path)}: no service reads this env file" for path in sorted(unread)]
    if orphans:
        sentences.append(
            f"{where}: {listed(orphans)} still runs, and the project has no such service any more. "
            f"{_removal(stack, project, orphans)}"
        )
    for name in sorted(project.services):
        mine = [container for container in containers if container.service == name]
        keys = _unexplained_keys(project, project.services[name], mine, managed)
        if keys:
            way_on = f"`{project.invocation.start(name)}` in {stack.directory} gives it those of the project"
            if stack.kind is StackKind.SWARM:
                way_on = f"A change of it will wait for `reconciler sync --accept-project {stack.id}`"
            sentences.append(
                f"{where}: {name} runs with other values of {listed([key_name(key) for key in keys])} than the project "
                f"says, and no managed file explains that. {way_on}"
            )
    if project.kind is StackKind.SWARM:
        ignored = {name: ignored_fields(service) for name, service in sorted(project.services.items())}
        for name, fields in ignored.items():
            sentences += [f"{where}: Swarm ignores what {name} says as {listed(fields)}"] if fields else []
    for reason, names in sorted(by_reason.items()):
        sentences.append(f"{where}: left out {listed(sorted(names))}, which Compose cannot resolve: {reason}")
    return sentences


def _removal(stack: Stack, project: Project, orphans: Iterable[str]) -> str:
    """How an operator removes services that have left the project."""
    if stack.kind is StackKind.SWARM:
        names = " ".join(f"{project.name}_{name}" for name in orphans)
        return f"`docker service rm {names}` removes {'it' if ' ' not in names else 'them'}"
    return f"`{project.invocation.prune()}` in {stack.directory} removes it"


def _unexplained_keys(
    project: Project, service: Service, containers: Iterable[Container], managed: Mapping[str, ManagedFile]
) -> list[str]:
    """Names of the variables that a running container has otherwise than the service, and no managed file gives it."""
    keys = {*stale_keys(service, containers)}
    return sorted(keys - managed_keys(project, service, managed)) if keys else []

"""What an operator should know about a stack although nothing is to be done, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.decide.affected_services import RUNNING, holds, managed_keys, path_in, stale_keys
from reconciler.core.decide.next_steps import next_steps
from reconciler.core.model.compose import Container, ManagedFile, Project, Service
from reconciler.core.model.targets import Stack
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
    where, steps = f"stack {stack.name}", next_steps(stack, project)
    sentences = [f"{where}: {path_in(stack, path)}: no service reads this env file" for path in sorted(unread)]
    if orphans:
        sentences.append(
            f"{where}: {listed(orphans)} still runs, and the project has no such service any more. "
            f"{steps.remove(orphans)}"
        )
    for name in sorted(project.services):
        mine = [container for container in containers if container.service == name]
        keys = _unexplained_keys(project, project.services[name], mine, managed)
        if keys:
            sentences.append(
                f"{where}: {name} runs with other values of {listed([key_name(key) for key in keys])} than the project "
                f"says, and no managed file explains that. {steps.give_values(name)}"
            )
        sentences += [f"{where}: {note}" for note in project.services[name].notes]
    for reason, names in sorted(by_reason.items()):
        sentences.append(f"{where}: left out {listed(sorted(names))}, which Compose cannot resolve: {reason}")
    return sentences


def _unexplained_keys(
    project: Project, service: Service, containers: Iterable[Container], managed: Mapping[str, ManagedFile]
) -> list[str]:
    """Names of the variables that a running container has otherwise than the service, and no managed file gives it."""
    keys = {*stale_keys(service, containers)}
    return sorted(keys - managed_keys(project, service, managed)) if keys else []

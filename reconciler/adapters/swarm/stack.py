"""A stack of a Docker Swarm, resolved by Compose and deployed with `docker stack deploy`. Implements the Compose port.

Only the manager that we run at is asked; what happens on the nodes is Swarm's own doing, and read from its tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.adapters import process
from reconciler.adapters.compose.awaiting import finished, noticing
from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.remotes import Written
from reconciler.adapters.compose.resolver import ProjectResolver
from reconciler.adapters.swarm import errors
from reconciler.adapters.swarm.api import STACK_LABEL, Json, SwarmEngine, is_of_stack
from reconciler.adapters.swarm.contents import KINDS, contents_of, owner_of, with_contents
from reconciler.adapters.swarm.notes import managed_directories, notes_on
from reconciler.adapters.swarm.refusals import require_deployable
from reconciler.adapters.swarm.registry_login import has_login
from reconciler.adapters.swarm.stack_file import stack_file
from reconciler.adapters.swarm.tasks import (
    NAMESPACE_LABEL,
    PAUSED,
    ROLLED_BACK,
    containers_of,
    lost_update,
    references,
    service_name,
    wanted,
)
from reconciler.core.decide.invocation import manifest_invocation
from reconciler.core.errors import EngineUnavailableError, NodeLostError, RefusedError
from reconciler.core.fidelity.deployed import deployed_differences
from reconciler.core.fidelity.swarm_service import (
    DEFINITION_LABEL,
    IMAGE_LABEL,
    REFERENCE_LABEL,
    deployed_service,
    expected_fields,
    image_reference,
    network_ids,
)
from reconciler.core.fidelity.swarm_spec import own_definition
from reconciler.core.model.compose import Container, DeployedService, Invocation, Project, ProjectFiles, Service
from reconciler.core.model.targets import Stack, StackKind
from reconciler.core.ports.host import Host
from reconciler.core.secret import Digester
from reconciler.core.text import listed

_DEPLOY = process.Limits(timeout=600.0, grace=60.0, stderr=4 * process.MIB)
_TRIES = 5  # of a deploy that something else was faster than
_LISTEN_AGAIN = 5.0  # seconds until an engine that does not answer is asked again


class DockerSwarm:
    """The stacks of the Swarm whose manager one machine is."""

    def __init__(self, context: ComposeContext, host: Host, digest: Digester, written: Written = frozenset) -> None:
        self._context = context
        self._host = host
        self._digest = digest
        self._engine = SwarmEngine(context.engine)
        self._resolver = ProjectResolver(context, self._running, written)
        self._stacks: dict[str, Stack] = {}
        self._names: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        self._known = asyncio.Event()
        # By service id, until it is known to run: the template of the tasks that we have deployed; None where Swarm has
        # rolled it back already. Where Swarm rolls back to that, the update was somebody else's.
        self._deployed: dict[str, Json | None] = {}
        self._watched: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        await self._engine.close()

    async def follow(self, touched: Callable[[], None], directories: Callable[[], Collection[str]]) -> None:
        """Call ``touched`` whenever a service, config, secret or container here of a stack of ours changes, or a node;
        when the Swarm answers (again), and when it is lost. Runs until it is cancelled."""

        async def reported(attributes: Mapping[str, str]) -> None:
            if (
                is_of_stack(attributes, self._names.values())
                or "state.new" in attributes
                or "availability.new" in attributes
            ):
                touched()

        await self._known.wait()
        while True:
            with contextlib.suppress(EngineUnavailableError):
                await self._engine.greet()
                touched()
                try:
                    await self._engine.follow_swarm(reported)
                finally:
                    touched()
            await asyncio.sleep(_LISTEN_AGAIN)

    # --- the project ---

    async def project_files(self, stack: Stack, staged: Staged | None = None) -> ProjectFiles:
        """What Compose reads as the stack's project, by the manifest."""
        return await self._resolver.project_files(stack, [manifest_invocation(stack)], staged)

    async def project(self, stack: Stack, staged: Staged | None = None) -> Project:
        """The project as Compose resolves it, with the configs and secrets that its services get.

        Raises ModelRefusedError, also for what Swarm cannot run, and EngineUnavailableError.
        """
        await self._resolver.require_directory(stack.directory)
        resolved = await self._resolver.resolve(stack, manifest_invocation(stack), staged)
        self._stacks[resolved.name] = stack
        self._names[stack.id] = resolved.name
        self._known.set()
        require_deployable(resolved, stack)

        async def read(path: str) -> bytes | None:
            if staged and path in staged:
                data = staged[path]
                return None if data is None else data.reveal()
            return await self._context.read_file(path)

        project = await with_contents(resolved, stack, self._digest, read, functools.partial(owner_of, self._host))
        services = {
            name: replace(self._as_deployed(project.name, service), notes=notes_on(service, stack.managed))
            for name, service in project.services.items()
        }
        return replace(project, kind=StackKind.SWARM, services=services)

    async def is_current(self, stack: Stack, project: Project) -> bool:
        """Whether Compose would resolve the project so again, from the files as they are; False in doubt."""
        return await self._resolver.is_current(manifest_invocation(stack), project)

    async def _running(self, stack: Stack, invocation: Invocation) -> frozenset[str]:
        name = invocation.project or self._names.get(stack.id, "")
        return frozenset(map(service_name, await self._engine.services(name))) if name else frozenset()

    # --- what runs ---

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """The places of the stack's services, by its namespace. Raises EngineUnavailableError, and once NodeLostError
        where a lost node has spoilt an update of ours: another deploy ends that."""
        self._nodes, down = await self._engine.nodes()
        return await self._places(project or await self._name(stack), down)

    async def deployed(self, stack: Stack, project: str | None) -> tuple[DeployedService, ...] | None:
        """The stack's services as the Swarm keeps them, sorted. Raises EngineUnavailableError."""
        name = project or await self._name(stack)
        services = await self._engine.services(name)
        networks = await self._engine.networks(network_ids(services))
        return tuple(sorted((deployed_service(name, it, networks) for it in services), key=lambda it: it.name))

    def _as_deployed(self, stack: str, service: Service) -> Service:
        digest = self._digest(service.definition.reveal())
        return replace(service, deploys_as=expected_fields(stack, service), digest=digest)

    @contextlib.asynccontextmanager
    async def noticing(self, project: Project) -> AsyncIterator[asyncio.Event]:
        """Swarm reports no events of tasks: the event is set for services, and for containers here. Whoever waits for
        services gets a NodeLostError for updates that another process began, too."""
        async with noticing(functools.partial(self._engine.listen_to, project.name)) as noticed:
            self._watched.add(project.name)
            try:
                yield noticed
            finally:
                self._watched.discard(project.name)

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The same without asking for the names of new nodes."""
        return await self._places(await self._name(stack))

    async def _places(self, name: str, down: Collection[str] = ()) -> tuple[Container, ...]:
        services, tasks = await self._engine.services(name), await self._engine.tasks(name)
        for service in services:
            watched = service["ID"] in self._deployed or name in self._watched
            if watched and (reason := self._lost(service, tasks, down)):
                self._deployed.pop(service["ID"], None)
                raise NodeLostError(reason, where=f"stack {name}")
        containers: list[Container] = []
        for service in services:
            own = [task for task in tasks if task["ServiceID"] == service["ID"]]
            kept = self._deployed.get(service["ID"]) == service["Spec"]["TaskTemplate"]
            lost = service["ID"] in self._deployed and not kept
            places = containers_of(service, own, self._nodes, ours=lost, down=down)
            if kept and _runs(service, places):
                del self._deployed[service["ID"]]  # what Swarm rolls back from now on is somebody else's update
            containers += places
        return tuple(sorted(containers, key=lambda container: (container.service, container.number)))

    def _lost(self, service: Json, tasks: Iterable[Json], down: Collection[str]) -> str:
        return lost_update(service, [task for task in tasks if task["ServiceID"] == service["ID"]], self._nodes, down)

    async def _stuck(self, project: str, services: Iterable[Json]) -> frozenset[str]:
        """The services whose update waits for a lost node: the same definition would not begin another one."""
        updating = [service for service in services if (service.get("UpdateStatus") or {}).get("State") == "updating"]
        if not updating:
            return frozenset()
        (self._nodes, down), tasks = await self._engine.nodes(), await self._engine.tasks(project)
        return frozenset(service_name(service) for service in updating if self._lost(service, tasks, down))

    async def _name(self, stack: Stack) -> str:
        """The stack's name in the Swarm: the project's."""
        return stack.project or self._names.get(stack.id) or (await self.project(stack)).name

    # --- changes ---

    async def require_names(
        self, project: Project, services: Sequence[str], scale: Mapping[str, int] | None = None
    ) -> None:
        """Swarm names tasks by itself."""

    async def recreate(
        self, project: Project, services: Sequence[str], *, scale: Mapping[str, int] | None = None, force: bool = False
    ) -> None:
        """Deploy these services, and nothing else of the stack; Swarm updates those whose definition differs.

        ``force``: also where it does not, if a directory that the service mounts holds a managed file. Raises
        ModelRefusedError, EngineUnavailableError, ChangedMeanwhileError.
        """
        chosen = [project.services[name] for name in services]
        managed = self._stacks[project.name].managed
        forced = [service.name for service in chosen if force and managed_directories(service, managed)]
        await self._deploy(project, chosen, scale or {}, forced)

    async def restart(self, project: Project, services: Sequence[str]) -> None:
        """Replace the tasks of these services, one batch after the other. They get what the project says now, but stay
        as many as they are."""
        await self._deploy(project, [project.services[name] for name in services], None, services)

    async def signal(self, project: Project, service: str, signal: str) -> None:
        """Raises RefusedError: the manifest cannot ask for it."""
        raise RefusedError(f"Swarm sends no signals to {service}", hint="Use on_change: restart")

    async def _deploy(
        self,
        project: Project,
        services: Sequence[Service],
        scale: Mapping[str, int] | None,
        forced: Collection[str],
    ) -> None:
        """``forced`` are services whose tasks are to be replaced even if nothing differs; without a ``scale``, each
        keeps as many tasks as the Swarm wants of it now."""
        if not services:
            return
        async with self._locks[project.name]:
            before = await self._by_name(project.name)
            if scale is None:
                scale = {name: count for name, facts in before.items() if (count := wanted(facts)) is not None}
            networks = await self._engine.networks(network_ids(before.values()))
            stuck = await self._stuck(project.name, before.values())
            due = [
                service
                for service in services
                if not _is_deployed(project.name, service, before.get(service.name), networks, scale)
            ]
            if due:
                await self._deploy_file(project, due, scale, before)
            after = await self._by_name(project.name)
            for service in services:
                facts, was = after.get(service.name), before.get(service.name)
                if facts is None:
                    continue
                if service in due and _rolled_back(facts):
                    self._deployed[facts["ID"]] = None
                elif service.name in {*forced, *stuck} and was is not None and _same_tasks(was, facts):
                    self._deployed[facts["ID"]] = await self._engine.force_update(facts)
                else:
                    self._deployed[facts["ID"]] = facts["Spec"]["TaskTemplate"]
            await self._remove_unused(project)

    async def _deploy_file(
        self, project: Project, services: Sequence[Service], scale: Mapping[str, int], before: Mapping[str, Json]
    ) -> None:
        await self._provide(project, services)
        config = await self._context.docker_config()
        options: dict[tuple[str, ...], list[Service]] = {}
        images: dict[str, str] = {}
        for service in services:
            mode, images[service.name] = _resolution(project.name, service, before.get(service.name))
            login = ["--with-registry-auth"] if has_login(config, _image_of(service)) else []
            options.setdefault((*login, "--resolve-image", mode), []).append(service)
        for chosen, group in sorted(options.items(), key=lambda item: item[0]):
            labels = {service.name: _labels(service, images[service.name]) for service in group}
            completed = await self._run_deploy(project, stack_file(group, labels, scale, images), chosen)
            if not completed.ok:
                raise errors.of_deploy(project, completed, listed(sorted(labels)))

    async def _run_deploy(self, project: Project, file: bytes, options: Sequence[str]) -> process.Completed:
        argv = ["docker", "stack", "deploy", "--compose-file", "-", *options]
        detach = ["--detach"]
        for _ in range(_TRIES):
            command = [*argv, *detach, project.name]
            completed = await finished(self._resolver.run(command, project.invocation.directory, _DEPLOY, file))
            if errors.knows_no_detach(completed):
                detach = []
            elif not errors.updated_meanwhile(completed):
                break
        return completed

    async def _provide(self, project: Project, services: Iterable[Service]) -> None:
        """Make the configs and secrets that the services need and the Swarm does not have."""
        read = self._context.read_file
        contents = [content for service in services for content in await contents_of(service, self._digest, read)]
        labels = {NAMESPACE_LABEL: project.name, STACK_LABEL: self._stacks[project.name].id}
        for kind in KINDS:
            needed = {content.name: content for content in contents if content.kind == kind}
            known = await self._engine.objects(kind, sorted(needed))
            for name in sorted(needed.keys() - known.keys()):
                content = needed[name]
                given = {**content.labels, **labels}
                await self._engine.create(kind, name, content.data.reveal(), given, content.template_driver)

    async def _remove_unused(self, project: Project) -> None:
        """Remove configs and secrets that we made for the project and no service of the Swarm refers to, now or before
        its last update, and no task."""
        stack = self._stacks[project.name].id
        ours = {kind: (await self._engine.objects_of(kind, project.name, stack)).values() for kind in KINDS}
        if not any(ours.values()):
            return
        tasks: defaultdict[str, list[Json]] = defaultdict(list)
        for task in await self._engine.tasks():
            tasks[task["ServiceID"]].append(task)
        used = {name for service in await self._engine.services() for name in references(service, tasks[service["ID"]])}
        for kind, identities in ours.items():
            for identity in identities:
                if identity not in used:
                    await self._engine.remove(kind, identity)

    async def _by_name(self, project: str) -> dict[str, Json]:
        return {service_name(service): service for service in await self._engine.services(project)}


def _is_deployed(
    stack: str, service: Service, facts: Json | None, networks: Mapping[str, str], scale: Mapping[str, int]
) -> bool:
    """Whether the Swarm has the service as it is to be deployed. Another deploy would only make it forget the
    definition before, to which it rolls back."""
    if facts is None or (facts.get("UpdateStatus") or {}).get("State") in PAUSED:
        return False
    deployed = deployed_service(stack, facts, networks)
    if deployed.replicas not in (None, scale.get(service.name, service.replicas)):
        return False
    return deployed.deployed_as == service.digest and not deployed_differences(service, deployed)


def _same_tasks(before: Json, after: Json) -> bool:
    same: bool = before["Spec"]["TaskTemplate"] == after["Spec"]["TaskTemplate"]
    return same


def _rolled_back(service: Json) -> bool:
    return (service.get("UpdateStatus") or {}).get("State") in ROLLED_BACK


def _runs(service: Json, places: Iterable[Container]) -> bool:
    """Whether the last update of the service has ended well, or nothing of it was to be updated."""
    ended = (service.get("UpdateStatus") or {}).get("State", "") in ("", "completed")
    return ended and all(place.state == "running" and place.health != "starting" for place in places)


def _resolution(stack: str, service: Service, facts: Json | None) -> tuple[str, str]:
    """How `docker stack deploy` resolves the service's image, and the image to deploy: a registry says which one a
    reference stands for only where the project names another one than now, and than before the last update. But for
    "always", the command leaves an image there that somebody else has chosen."""
    image = _image_of(service)
    now, before = ((facts or {}).get(name) for name in ("Spec", "PreviousSpec"))
    if now is not None and image_reference(now["Labels"]) == image:
        mode = "never" if _runs_image(stack, service, now) else "always"
        return mode, str(now["Labels"].get(IMAGE_LABEL))
    if before is not None and image_reference(before["Labels"]) == image and _runs_image(stack, service, before):
        digest = before["TaskTemplate"]["ContainerSpec"]["Image"].partition("@")[2]
        if digest and "@" not in image:
            return "never", f"{image}@{digest}"
    return "changed", image


def _runs_image(stack: str, service: Service, spec: Json) -> bool:
    return deployed_service(stack, {"Spec": spec}, {}).fields["image"] == service.deploys_as["image"]


def _labels(service: Service, image: str) -> dict[str, str]:
    """Those of ours that the service gets when it is deployed with this image."""
    reference = {} if image == _image_of(service) else {REFERENCE_LABEL: _image_of(service)}
    return {DEFINITION_LABEL: service.digest, **reference}


def _image_of(service: Service) -> str:
    """As the project names it."""
    return str(own_definition(service).get("image") or "")

"""The part of the Docker engine's API that is about a Swarm: services, tasks, nodes, configs and secrets."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.adapters.compose.docker_api import QUICK, Engine, unless_gone
from reconciler.adapters.compose.engine_address import EngineAddress
from reconciler.adapters.swarm.tasks import NAMESPACE_LABEL
from reconciler.core.errors import EngineUnavailableError, ModelRefusedError, SwarmUnavailableError

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.exceptions import DockerError

Json = Mapping[str, Any]

STACK_LABEL = "io.reconciler.stack"
"""On configs and secrets of ours: the id of the stack that they were made for."""

_EVENTS = {
    "type": ["service", "node", "config", "secret", "container"],
    "event": ["create", "update", "remove", "start", "die", "destroy"],
}
# What a manager says that cannot decide anything, in the words of swarmkit and moby.
_NO_MANAGER = ("not a swarm manager", "node is not part of a swarm")
_NO_QUORUM = ("does not have a leader", "too few managers", "deadlineexceeded", "context deadline exceeded")


def swarm_error(message: str, where: str) -> SwarmUnavailableError | None:
    """What a message of the engine, or of the docker command, says about the Swarm itself; None for nothing."""
    text = message.lower()
    if any(words in text for words in _NO_MANAGER):
        hint = "Run `docker swarm init`, join it as a manager, or correct swarm_manager in the server configuration"
        return SwarmUnavailableError("this host is not a Swarm manager", where=where, hint=hint)
    if any(words in text for words in _NO_QUORUM):
        hint = "More than half of the managers must be online: `docker node ls` on another manager shows them"
        return SwarmUnavailableError("the Swarm has no leader", where=where, hint=hint)
    return None


def is_of_stack(attributes: Mapping[str, str], namespaces: Collection[str]) -> bool:
    """Whether an event with these attributes is about something of one of the stacks: services have no labels there."""
    name = attributes.get("name", "")
    return attributes.get(NAMESPACE_LABEL) in namespaces or any(name.startswith(f"{known}_") for known in namespaces)


class SwarmEngine(Engine):
    """Asks and commands the Swarm whose manager one engine is. Raises SwarmUnavailableError where that is no manager,
    or the managers have no quorum, EngineUnavailableError where the engine does not answer."""

    def __init__(self, address: Callable[[], Awaitable[EngineAddress]]) -> None:
        super().__init__(address)
        self._networks: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def _connected(self, within: float | None = QUICK, *, afresh: bool = False) -> AsyncIterator[Docker]:
        """Without an answer nobody knows what the Swarm does meanwhile: its files wait too."""
        try:
            async with super()._connected(within, afresh=afresh) as docker:
                yield docker
        except SwarmUnavailableError:
            raise
        except EngineUnavailableError as error:
            raise SwarmUnavailableError(error.what, where=error.where, hint=error.hint) from error

    def _failure(self, error: DockerError, where: str) -> EngineUnavailableError:
        return swarm_error(error.message, where) or super()._failure(error, where)

    async def services(self, namespace: str | None = None) -> list[Json]:
        """The services of the stack; without one, of the Swarm."""
        return await self._listed("services", {} if namespace is None else {NAMESPACE_LABEL: namespace})

    async def tasks(self, namespace: str | None = None) -> list[Json]:
        """The tasks of the stack that the Swarm still knows; without one, of the Swarm."""
        return await self._listed("tasks", {} if namespace is None else {NAMESPACE_LABEL: namespace})

    async def nodes(self) -> tuple[dict[str, str], frozenset[str]]:
        """The names of the nodes by id, and the ids of those that are down."""
        async with self._connected() as docker:
            nodes = await docker._query_json("nodes")
        names = {node["ID"]: node["Description"].get("Hostname", "") for node in nodes}
        return names, frozenset(node["ID"] for node in nodes if node["Status"]["State"] == "down")

    async def networks(self, ids: Collection[str]) -> Mapping[str, str]:
        """The names of these networks by id, without those that are gone. A name never changes; no list has those that
        Docker makes by itself (host, bridge)."""
        for identity in sorted(set(ids) - self._networks.keys()):
            async with self._connected() as docker:
                facts = await unless_gone(docker._query_json(f"networks/{identity}"))
            if facts is not None:
                self._networks[identity] = facts["Name"]
        return self._networks

    async def force_update(self, service: Json) -> Json:
        """Have every task of the service replaced, by its own update_config. Returns the template of the new ones."""
        spec = json.loads(json.dumps(service["Spec"]))
        spec["TaskTemplate"]["ForceUpdate"] = int(spec["TaskTemplate"].get("ForceUpdate") or 0) + 1
        await self._post(f"services/{service['ID']}/update", spec, version=service["Version"]["Index"])
        template: Json = spec["TaskTemplate"]
        return template

    async def objects(self, kind: str, names: Sequence[str]) -> dict[str, str]:
        """The ids of the configs or secrets (``kind``) with one of these names, by name."""
        if not names:
            return {}
        async with self._connected() as docker:
            objects = await docker._query_json(kind, params={"filters": json.dumps({"name": list(names)})})
        return {thing["Spec"]["Name"]: thing["ID"] for thing in objects if thing["Spec"]["Name"] in names}

    async def objects_of(self, kind: str, namespace: str, stack: str) -> dict[str, str]:
        """The ids of the configs or secrets that were made for the stack (its name in the Swarm, and its id), by
        name. Another reconciler may manage another stack by the same id."""
        labels = {NAMESPACE_LABEL: namespace, STACK_LABEL: stack}
        return {thing["Spec"]["Name"]: thing["ID"] for thing in await self._listed(kind, labels)}

    async def create(self, kind: str, name: str, data: bytes, labels: Mapping[str, str], driver: str = "") -> None:
        """Make a config or secret, filled in by the template ``driver`` ("" for none); one of that name that is there
        already stays. Raises ModelRefusedError where the Swarm does not take it."""
        spec: dict[str, Any] = {"Name": name, "Labels": dict(labels), "Data": base64.b64encode(data).decode()}
        if driver:
            spec["Templating"] = {"Name": driver}
        if await self._post(f"{kind}/create", spec, tolerated=(400, 409)) == 400:
            problem = f"the Swarm does not take the {kind.removesuffix('s')} {name}"
            hint = "It checks name, size and template: `docker config create` with the same file shows the cause"
            raise ModelRefusedError(problem, hint=hint, id="swarm-refused")

    async def remove(self, kind: str, identity: str) -> None:
        """Remove a config or secret, unless it is in use or gone."""
        from aiodocker.exceptions import DockerError

        async with self._connected() as docker:
            try:
                async with docker._query(f"{kind}/{identity}", method="DELETE"):
                    pass
            except DockerError as error:
                if error.status not in (400, 404, 409):
                    raise

    async def _listed(self, path: str, labels: Mapping[str, str]) -> list[Json]:
        """Those with all of the labels."""
        filters = json.dumps({"label": [f"{label}={value}" for label, value in labels.items()]} if labels else {})
        async with self._connected() as docker:
            listed: list[Json] = await docker._query_json(path, params={"filters": filters})
        return listed

    async def _post(self, path: str, data: Any, *, tolerated: Sequence[int] = (), **parameters: Any) -> int:
        """The status of a tolerated error; 0 for none."""
        from aiodocker.exceptions import DockerError

        async with self._connected() as docker:
            try:
                await docker._query_json(path, method="POST", params=parameters, data=data)
            except DockerError as error:
                if error.status not in tolerated or swarm_error(error.message, ""):
                    raise
                return error.status
        return 0

    async def listen_to(self, namespace: str, report: Callable[[], None]) -> None:
        """Call ``report`` whenever a service of the stack changes, or an update of it comes further, and whenever a
        container of it here starts, ends, or turns healthy or unhealthy. Raises EngineUnavailableError where the
        connection is lost."""

        def reported(attributes: Mapping[str, str]) -> None:
            if is_of_stack(attributes, [namespace]):
                report()

        filters = {"type": ["service", "container"], "event": [*_EVENTS["event"], "health_status"]}
        await self._listen(filters, reported)

    async def follow_swarm(self, report: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
        """Call ``report`` with the name and labels of each service, config or secret that changes, and with nothing
        for a node. Ends only by an error. Raises EngineUnavailableError where the connection is lost."""
        await self._follow(_EVENTS, report)

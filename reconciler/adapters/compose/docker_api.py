"""The Docker engine's API, over one connection that stays open: containers of a Compose project.

Finding containers by their labels needs no compose file and no env file: it works while those are broken, and costs a
tenth of any compose command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reconciler.adapters.compose import errors, guests
from reconciler.adapters.compose.engine_address import EngineAddress
from reconciler.adapters.imports import import_aiohttp
from reconciler.core.errors import EngineUnavailableError
from reconciler.core.model.compose import Container, Ending, Guest, StartedAs

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.containers import DockerContainer
    from aiodocker.exceptions import DockerError

PROJECT_LABEL = "com.docker.compose.project"
DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
FILES_LABEL = "com.docker.compose.project.config_files"
ENV_FILES_LABEL = "com.docker.compose.project.environment_file"
SERVICE_LABEL = "com.docker.compose.service"
NUMBER_LABEL = "com.docker.compose.container-number"
DEPENDENCIES_LABEL = "com.docker.compose.depends_on"
# `docker compose run` makes containers of a service too; they run somebody's command, not the service.
NOT_ONE_OFF = "com.docker.compose.oneoff=False"

QUICK = 30.0  # seconds for a question to the engine
SLOW = 600.0  # seconds for a restart: a container may take its whole stop_grace_period
# What an operator, a crash or a restart policy does to containers. Health probes are left out: an event each second.
_EVENTS = {"type": ["container"], "event": ["start", "die", "stop", "destroy"], "label": [PROJECT_LABEL]}
# What tells how a container ended: `stop` follows `die` where the engine was asked to stop it, by whatever signal.
_ENDING_EVENTS = ("start", "kill", "die", "stop")
_ENDING_SIGNALS = frozenset({"2", "3", "9", "15"})  # INT, QUIT, KILL, TERM: others are meant for the process to go on
# The engine's list has exit codes and health in a sentence only: "Exited (1) 3 minutes ago", "Up 5 minutes
# (healthy)", "Up 2 seconds (health: starting)".
_EXIT_CODE = re.compile(r"^Exited \((\d+)\)")
_HEALTH = re.compile(r"\((?:health: )?(healthy|unhealthy|starting)\)$")
# An engine that did not answer gets less time until it does, and is left alone for a moment: a reconciliation asks it
# several times, and its files must not wait for each.
_IMPATIENT = 3.0  # seconds for a question
_LEFT_ALONE = 1.0  # seconds
_KILLED = 137  # by an operator, or by the kernel when memory runs out: the list does not say which
_NO_CONNECTION = 900  # aiodocker's word for it, as a status
_NOT_FOUND = 404


class Engine:
    """Asks and commands one engine, wherever ``address`` says it is. The connection is made by the first call, and
    belongs to its event loop."""

    def __init__(self, address: Callable[[], Awaitable[EngineAddress]]) -> None:
        self._address = address
        self._docker: Docker | None = None
        self._failed: tuple[float, EngineUnavailableError] | None = None
        self._image_configurations: dict[str, Mapping[str, Any]] = {}
        self._shares: dict[str, dict[str, list[str]]] = {}

    async def close(self) -> None:
        if self._docker is not None:
            await self._docker.close()
            self._docker = None

    async def find(
        self, label: str, keep: Callable[[Mapping[str, str]], bool] = lambda _: True
    ) -> list[DockerContainer]:
        """Containers, running or not, with this label, as the engine lists them; `keep` sees their labels."""
        async with self._connected() as docker:
            containers = await docker.containers.list(all=True, filters={"label": [NOT_ONE_OFF, label]})
        return [container for container in containers if keep(container["Labels"])]

    async def named(self, names: Iterable[str]) -> list[DockerContainer]:
        """The containers, of anybody, that have one of these names."""
        exactly = [f"^/{re.escape(name)}$" for name in names]
        if not exactly:
            return []
        async with self._connected() as docker:
            return list(await docker.containers.list(all=True, filters={"name": exactly}))

    async def running(self) -> list[DockerContainer]:
        """Every container that runs, of anybody."""
        async with self._connected() as docker:
            return list(await docker.containers.list())

    async def inspect(self, summaries: Iterable[DockerContainer]) -> tuple[Container, ...]:
        """What the engine knows of each, sorted by service; one that has gone meanwhile is skipped."""
        inspected = await asyncio.gather(*(self._inspect(summary.id) for summary in summaries))
        containers = [container for container in inspected if container is not None]
        return tuple(sorted(containers, key=lambda container: (container.service, container.id)))

    async def summarise(self, summaries: Iterable[DockerContainer]) -> tuple[Container, ...]:
        """What the list itself says about each, sorted by service; for a killed one what inspect says."""
        containers = [_summary(summary) for summary in summaries]
        for index, container in enumerate(containers):
            if container.exit_code == _KILLED:
                containers[index] = await self._inspect(container.id) or container
        return tuple(sorted(containers, key=lambda container: (container.service, container.id)))

    async def restart(self, container: DockerContainer) -> None:
        """Stop it, with the grace it was made with, and start it again."""
        await self._command(container, "restart", SLOW, lambda it: it.restart())

    async def kill(self, container: DockerContainer, signal: str) -> None:
        await self._command(container, f"send {signal} to", QUICK, lambda it: it.kill(signal=signal))

    async def greet(self) -> None:
        """Raises EngineUnavailableError where it does not answer."""
        async with self._connected() as docker:
            await docker.version()

    async def follow(self, report: Callable[[Mapping[str, str]], Awaitable[None]]) -> None:
        """Call ``report`` with its labels whenever a container of a Compose project starts, ends or goes. Ends only
        by an error.

        Raises EngineUnavailableError where the connection is lost.
        """
        await self._follow(_EVENTS, report)

    async def _follow(
        self, filters: Mapping[str, Sequence[str]], report: Callable[[Mapping[str, str]], Awaitable[None]]
    ) -> None:
        async with self._connected(None) as docker:
            events = docker.events.subscribe(create_task=False)  # type: ignore[no-untyped-call]
            listening = asyncio.create_task(docker.events.run(filters=json.dumps(filters)))
            try:
                while (event := await events.get()) is not None:
                    await report(event["Actor"]["Attributes"])
                await listening
            finally:
                listening.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await listening
        raise EngineUnavailableError("the Docker engine ended the stream of events")

    async def listen(self, label: str, report: Callable[[], None]) -> None:
        """Call ``report`` whenever a container with that label starts, ends, or turns healthy or unhealthy. Raises
        EngineUnavailableError where the connection is lost."""
        filters = {**_EVENTS, "event": [*_EVENTS["event"], "health_status"], "label": [label]}
        await self._listen(filters, lambda _: report())

    async def _listen(self, filters: Mapping[str, Sequence[str]], report: Callable[[Mapping[str, str]], None]) -> None:
        """Call ``report`` with the attributes of each event, over a stream of its own."""
        async with (
            self._connected(None) as docker,
            docker._query("events", params={"filters": json.dumps(filters)}, timeout=None) as response,
        ):
            with contextlib.closing(response):
                async for line in response.content:
                    report(json.loads(line)["Actor"]["Attributes"])

    async def guests(self) -> tuple[Guest, ...]:
        """The containers that share a namespace or volumes with another, sorted by name. What a container shares never
        changes, so only new ones are inspected for it."""
        async with self._connected() as docker:
            listed = await docker.containers.list(all=True)
            ids = {container.id: container.id for container in listed}
            self._shares = {identity: shared for identity, shared in self._shares.items() if identity in ids}
            for facts in await self._facts(ids.keys() - self._shares.keys()):
                self._shares[facts["Id"]] = guests.shares(facts["HostConfig"])
            ids |= {name.lstrip("/"): container.id for container in listed for name in container["Names"]}
            sharing = {identity: shared for identity, shared in self._shares.items() if shared}
            owners = {ids[it] for shared in sharing.values() for group in shared.values() for it in group if it in ids}
            by_id = {facts["Id"]: facts for facts in await self._facts({*sharing, *owners})}
        labels = (PROJECT_LABEL, SERVICE_LABEL, DIRECTORY_LABEL)
        sharers = [guests.guest(by_id[identity], by_id, ids, labels) for identity in sharing if identity in by_id]
        return tuple(sorted(sharers, key=lambda guest: guest.name))

    async def _facts(self, identities: Iterable[str]) -> list[Mapping[str, Any]]:
        """What inspect says of each that is still there."""
        async with self._connected() as docker:
            inspected = await asyncio.gather(
                *(unless_gone(docker.containers.container(identity).show()) for identity in sorted(identities))
            )
        return [facts for facts in inspected if facts is not None]

    async def endings(self, containers: Collection[str]) -> Mapping[str, Ending]:
        """How these containers (ids) ended, by the events that the engine still knows: the last few hundred.

        Asked over a connection of its own: an engine that is ending stops every container and still answers on those
        that it has, and that must not look like somebody's doing. It takes no new ones.
        """
        filters = {"type": ["container"], "event": list(_ENDING_EVENTS), "container": sorted(containers)}
        async with self._connected(afresh=True) as docker:
            # Until now by the engine's clock: with a later time it would wait for that.
            now = datetime.fromisoformat((await docker.system.info())["SystemTime"]).timestamp()
            parameters = {"since": "0", "until": f"{now:.6f}", "filters": json.dumps(filters)}
            async with docker._query("events", params=parameters) as response:
                lines = (await response.read()).splitlines()
        return _endings(map(json.loads, lines))

    async def rename(self, container: DockerContainer, name: str) -> None:
        async with self._connected() as docker:
            await docker.containers.container(container.id).rename(name)

    async def _inspect(self, identity: str) -> Container | None:
        async with self._connected() as docker:
            facts = await unless_gone(docker.containers.container(identity).show())
        if facts is None:
            return None
        state, config = facts["State"], facts["Config"]
        image = await self._image_configuration(facts["Image"], config)
        health = (state.get("Health") or {}).get("Status", "")
        return Container(
            id=identity,
            service=config["Labels"].get(SERVICE_LABEL, ""),
            number=number_of(config["Labels"]),
            state=state["Status"],
            health="" if health == "none" else health,
            exit_code=state.get("ExitCode", 0),
            restarts=facts.get("RestartCount", 0),
            name=facts.get("Name", "").lstrip("/"),
            started_at=state.get("StartedAt", ""),
            finished_at=state.get("FinishedAt", ""),
            image=config.get("Image", ""),
            out_of_memory=state.get("OOMKilled", False),
            environment=variables(config.get("Env") or ()),
            image_environment=variables(image.get("Env") or ()),
            depends_on=conditions(config["Labels"]),
            facts=facts,
            image_facts=image,
        )

    async def images(self, references: Iterable[str]) -> Mapping[str, str]:
        """The ids of the images that these names stand for now; one that is not there is left out."""
        names = sorted(set(references))
        async with self._connected() as docker:
            images = await asyncio.gather(*(unless_gone(docker.images.inspect(name)) for name in names))
        return {name: facts["Id"] for name, facts in zip(names, images, strict=True) if facts is not None}

    async def _image_configuration(self, image: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an image gives to its containers; `default` where somebody has removed the image."""
        if image not in self._image_configurations:
            async with self._connected() as docker:
                facts = await unless_gone(docker.images.inspect(image))
            if facts is None:
                return default
            self._image_configurations[image] = facts["Config"] or {}
        return self._image_configurations[image]

    async def _command(
        self,
        container: DockerContainer,
        verb: str,
        within: float,
        command: Callable[[DockerContainer], Awaitable[None]],
    ) -> None:
        """Give the engine a command that may fail because of what the files say."""
        from aiodocker.exceptions import DockerError

        refusal: DockerError | None = None
        async with self._connected(within) as docker:
            try:
                await command(docker.containers.container(container.id))
            except DockerError as error:
                if error.status == _NO_CONNECTION:
                    raise
                refusal = error
        if refusal is not None:
            # Not raised from the engine's own error: it may quote anything.
            labels = container["Labels"]
            raise errors.explain(
                refusal.message,
                refusal.status,
                directory=labels.get(DIRECTORY_LABEL, ""),
                doing=f"{verb} {labels[SERVICE_LABEL]}",
                command="docker compose up",
            )

    @contextlib.asynccontextmanager
    async def _connected(self, within: float | None = QUICK, *, afresh: bool = False) -> AsyncIterator[Docker]:
        """A connected client; what goes wrong with it inside the block is said in our own errors. ``afresh``: it has a
        connection of its own, for this block."""
        if self._failed is not None:
            at, known = self._failed
            if time.monotonic() - at < _LEFT_ALONE:
                raise EngineUnavailableError(known.what, where=known.where, hint=known.hint)
            within = _IMPATIENT if within == QUICK else within
        try:
            async with self._asking(within, afresh=afresh) as docker:
                yield docker
        except EngineUnavailableError as error:
            if error.files_stay_ours:
                self._failed = time.monotonic(), error
            raise
        self._failed = None

    @contextlib.asynccontextmanager
    async def _asking(self, within: float | None, *, afresh: bool) -> AsyncIterator[Docker]:
        import_aiohttp()
        import aiohttp
        from aiodocker import Docker
        from aiodocker.exceptions import DockerError

        address = await self._address()
        where = address.name
        silent = EngineUnavailableError(
            "the Docker engine does not answer",
            where=where,
            hint="Start it (`systemctl start docker`), or correct DOCKER_HOST of the service",
        )
        try:
            async with asyncio.timeout(within):
                if afresh:
                    async with Docker(url=address.url, context=address.context) as docker:
                        yield docker
                else:
                    yield self._client(address)
        except TimeoutError as error:
            raise EngineUnavailableError(f"no answer from the Docker engine in {within:g} s", where=where) from error
        except DockerError as error:
            if error.status == _NO_CONNECTION:
                raise silent from error
            raise self._failure(error, where) from error
        except (aiohttp.ClientError, OSError, ValueError, AssertionError) as error:
            # The assertion is aiodocker's, where it finds no socket.
            raise silent from error

    def _failure(self, error: DockerError, where: str) -> EngineUnavailableError:
        """What it means that the engine answers with an error that nobody expects."""
        return EngineUnavailableError(f"the Docker engine fails (status {error.status})", where=where)

    def _client(self, address: EngineAddress) -> Docker:
        from aiodocker import Docker

        if self._docker is None:
            self._docker = Docker(url=address.url, context=address.context)
        return self._docker


def _summary(listed: DockerContainer) -> Container:
    """Given an entry of the engine's list, return what it says about the container."""
    sentence = listed["Status"]
    code, health = _EXIT_CODE.search(sentence), _HEALTH.search(sentence)
    return Container(
        id=listed.id,
        service=listed["Labels"].get(SERVICE_LABEL, ""),
        number=number_of(listed["Labels"]),
        state=listed["State"],
        health=health[1] if health else "",
        exit_code=int(code[1]) if code else 0,
        depends_on=conditions(listed["Labels"]),
        name=listed["Names"][0].lstrip("/") if listed["Names"] else "",
    )


def _endings(events: Iterable[Mapping[str, Any]]) -> dict[str, Ending]:
    """Given events of containers, oldest first, return how each of those ended that were not started again."""
    endings: dict[str, Ending] = {}
    killed: set[str] = set()
    for event in events:
        identity, action, attributes = event["Actor"]["ID"], event["Action"], event["Actor"]["Attributes"]
        if action == "start":
            endings.pop(identity, None)
            killed.discard(identity)
        elif action == "kill":
            killed |= {identity} if attributes.get("signal") in _ENDING_SIGNALS else set()
        elif action == "stop":
            endings[identity] = Ending.STOPPED
        elif endings.get(identity) is not Ending.STOPPED:
            by_itself = Ending.FINISHED if attributes.get("exitCode") == "0" else Ending.DIED
            endings[identity] = Ending.KILLED if identity in killed else by_itself
    return endings


def started_as(labels: Mapping[str, str], *, running: bool, created: float) -> StartedAs:
    """What the labels of a container say about the command that made it."""
    return StartedAs(
        project=labels.get(PROJECT_LABEL, ""),
        directory=labels.get(DIRECTORY_LABEL, ""),
        files=tuple(path for path in labels.get(FILES_LABEL, "").split(",") if path),
        env_files=tuple(path for path in labels.get(ENV_FILES_LABEL, "").split(",") if path),
        running=running,
        created=created,
    )


def number_of(labels: Mapping[str, str]) -> int:
    """Which replica of its service a container is."""
    text = labels.get(NUMBER_LABEL, "")
    return int(text) if text.isdecimal() else 1


async def unless_gone(answer: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The answer; None where the engine no longer knows what was asked for."""
    from aiodocker.exceptions import DockerError

    try:
        return await answer
    except DockerError as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def in_waves(containers: Sequence[DockerContainer]) -> Iterator[list[DockerContainer]]:
    """Given containers, return them in groups such that each comes after those it depends on."""
    waiting = list(containers)
    while waiting:
        services = {container["Labels"][SERVICE_LABEL] for container in waiting}
        ready = [container for container in waiting if not services & _dependencies(container)] or waiting
        yield ready
        waiting = [container for container in waiting if container not in ready]


def _dependencies(container: DockerContainer) -> set[str]:
    return conditions(container["Labels"]).keys() - {container["Labels"][SERVICE_LABEL]}


def conditions(labels: Mapping[str, str]) -> dict[str, str]:
    """Services with their conditions, from Compose's label "api:service_started:true,db:service_healthy:false"."""
    entries = (entry.split(":") for entry in labels.get(DEPENDENCIES_LABEL, "").split(",") if entry)
    return {service: "".join(rest[:1]) for service, *rest in entries}


def variables(entries: Iterable[str]) -> dict[str, str]:
    """Given "NAME=value" entries, return them by name. A bare name is one that Compose could not inherit."""
    pairs = (entry.partition("=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals}

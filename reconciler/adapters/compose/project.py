"""Docker Compose: resolves projects, finds their containers and renews them. Implements the Compose port.

Compose is started where the stack lives (compose_place.py), with PATH, HOME, PWD and DOCKER_* only: the daemon's own
variables would win over those of the files. Looking at containers goes to the engine directly (compose_engine.py): it
is cheap, and works while an env file is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.adapters import process
from reconciler.adapters.compose import errors
from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose import model as compose_model
from reconciler.adapters.compose.context import Place, Staged
from reconciler.adapters.compose.docker_api import (
    DEPENDENCIES_LABEL,
    DIRECTORY_LABEL,
    PROJECT_LABEL,
    SERVICE_LABEL,
    Engine,
)
from reconciler.core.dotenv.grammar import EnvFileError, parse_env_file
from reconciler.core.errors import EngineUnavailableError, ReconcilerError, StackGoneError
from reconciler.core.model.compose import Container, Project
from reconciler.core.model.targets import Stack

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

# A resolved project holds every inline config; what Compose says of an `up` is a few lines per service.
_RESOLVE = process.Limits(timeout=60.0, grace=5.0, stdout=64 * process.MIB, stderr=process.MIB)
# A container may take its whole stop_grace_period. Compose is never killed lightly: it would leave a container with a
# temporary name, or none.
_UP = process.Limits(timeout=600.0, grace=60.0, stderr=4 * process.MIB)
# Compose makes the new container beside the old one as <first 12 digits of the old id>_<name>.
_TEMPORARY_NAME = re.compile(r"/[0-9a-f]{12}_(.+)")
# Exit codes of the docker command where its compose plugin was killed: what it makes of "no exit code", and a shell's.
_KILLED = frozenset({255, 137})
# Seconds before an `up` that met what an interrupted one left is tried again.
_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0)
_LISTEN_AGAIN = 5.0  # seconds until an engine that does not answer is asked again
_LAST_ORDERS = 60.0  # seconds that an `up` may go on after we were told to stop

_MISPLACED = "Correct the stack's directory or files in the manifest, or put the compose file there"


class DockerCompose:
    """`docker compose` and the engine behind it, at one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._engine = Engine(place.engine)
        self._names: dict[str, str] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        await self._engine.close()

    async def follow(self, touched: Callable[[], None], directories: Callable[[], Collection[str]]) -> None:
        """Call ``touched`` whenever a container of a stack in one of the ``directories`` starts, ends or goes; and once
        the engine answers (again), as some of that may have been missed. Runs until it is cancelled.
        """

        async def told(labels: Mapping[str, str]) -> None:
            place = await self._place.resolve(labels.get(DIRECTORY_LABEL, ""))
            if place in [await self._place.resolve(directory) for directory in directories()]:
                touched()

        while True:
            with contextlib.suppress(EngineUnavailableError):
                await self._engine.greet()
                touched()
                await self._engine.follow(told)
            await asyncio.sleep(_LISTEN_AGAIN)

    # --- the project ---

    async def project(self, stack: Stack, staged: Staged | None = None) -> Project:
        """The project as Compose resolves it, all profiles; with `staged` as if those files were in place.

        A profile whose env file is missing is left out, unless the stack names it: it belongs to another machine.
        What is staged is seen through relative paths only; see compose_stage.py.
        Raises ModelRefusedError, EngineUnavailableError.
        """
        await self._require_directory(stack.directory)
        configuration = await self._configuration(stack, staged)
        await self._require_compose_file(stack, configuration, staged or {})
        if staged is None:
            output = await self._config(stack, stack.directory, "", {})
            model = _parsed(stack, output, "")
        else:
            async with self._place.farm(stack.directory, staged) as root:
                output = await self._config(stack, root + stack.directory, root, staged)
                model = _parsed(stack, output, root)
        if compose_model.names_variables(model):
            compose_model.add_variables(model, configuration.variables.get)
        project = compose_model.project(model)
        if staged is None:
            self._names[stack.id] = project.name
        return project

    async def project_files(self, stack: Stack) -> frozenset[str]:
        """Absolute paths of the files Compose reads as project configuration, whether they exist or not."""
        return (await self._configuration(stack)).project

    async def environment_files(self, stack: Stack) -> frozenset[str]:
        """Absolute paths of the files whose variables Compose interpolates with: `.env`, and those of includes."""
        return (await self._configuration(stack)).environments

    async def _configuration(self, stack: Stack, staged: Staged | None = None) -> compose_files.Configuration:
        return await self._place.configuration(stack.directory, stack.files, staged or {})

    async def _require_directory(self, path: str) -> None:
        if not await self._place.has_directory(path):
            raise StackGoneError("the stack's directory does not exist", where=path, hint=_MISPLACED)

    async def _require_compose_file(
        self, stack: Stack, configuration: compose_files.Configuration, staged: Staged
    ) -> None:
        """Without a compose file here, Compose would take one from a directory above: another project's."""
        if not configuration.main:
            raise StackGoneError("there is no compose file", where=stack.directory, hint=_MISPLACED)
        for path in configuration.main:
            if staged.get(path) is None and (path in staged or not await self._place.has_file(path)):
                raise StackGoneError("the compose file is missing, or cannot be read", where=path, hint=_MISPLACED)

    async def _config(self, stack: Stack, directory: str, root: str, staged: Staged) -> bytes:
        async def attempt(profiles: Sequence[str]) -> process.Completed:
            argv = [*_compose(stack, profiles), "config", "--format", "json"]
            return await self._run(argv, directory, _RESOLVE)

        completed = await _with_profiles(stack, attempt)
        if not completed.ok:
            raise _error(stack, completed, "resolve the project", "docker compose config", root, staged)
        return completed.stdout

    # --- containers ---

    async def containers(self, stack: Stack, project: str | None) -> tuple[Container, ...]:
        """Containers of the project, found by their labels (by the stack's directory where the name is unknown).

        Raises EngineUnavailableError.
        """
        return await self._engine.inspect(await self._list(stack, project))

    async def glance(self, stack: Stack) -> tuple[Container, ...]:
        """The stack's containers as the engine lists them, in one cheap call. Raises EngineUnavailableError."""
        return await self._engine.summarise(await self._list(stack, self._names.get(stack.id)))

    async def _list(self, stack: Stack, project: str | None) -> list[DockerContainer]:
        if project is not None:
            return await self._engine.find(f"{PROJECT_LABEL}={project}")
        # Compose notes the directory as it was typed, which may have led through a link.
        place = await self._place.resolve((await self._configuration(stack)).directory)
        found = await self._engine.find(DIRECTORY_LABEL)
        return [one for one in found if await self._place.resolve(one["Labels"][DIRECTORY_LABEL]) == place]

    # --- changes ---

    async def recreate(self, stack: Stack, project: str, services: Sequence[str], *, force: bool = False) -> None:
        """`up -d --no-deps` for these services, all their replicas, in the order of their dependencies.

        `force` also recreates those in which Compose sees no difference: it does not see a changed mounted file or
        inline config. Cancelling lets Compose finish, for a while. Raises ModelRefusedError, EngineUnavailableError.
        """
        if not services:
            return
        flags = ["--detach", "--no-deps", "--no-build", "--pull", "never", *(["--force-recreate"] if force else [])]

        async def attempt(profiles: Sequence[str]) -> process.Completed:
            argv = [*_compose(stack, profiles), "--project-name", project, "up", *flags, "--", *services]
            return await self._run(argv, stack.directory, _UP)

        async with self._locks[project]:
            completed = await _finished(_with_profiles(stack, attempt))
            for pause in _PAUSES:
                if not errors.is_conflict(_said(completed)):
                    break
                # An `up` that was cut off left a container with a temporary name, at worst one per service; each try
                # has one removed, and the engine may take its time with that.
                await asyncio.sleep(pause)
                completed = await _finished(_with_profiles(stack, attempt))
            if not completed.ok:
                raise _error(stack, completed, f"start {', '.join(services)}", "docker compose up")
            await self._restore_names(stack, project, services)

    async def restart(self, stack: Stack, project: str, services: Sequence[str]) -> None:
        """Restart the containers of these services; each after those of them that it depends on.

        Their environment stays what it was. Raises ModelRefusedError, EngineUnavailableError.
        """
        async with self._locks[project]:
            containers = await self._of_services(stack, project, services)
            for wave in _waves(containers):
                await _together(self._engine.restart(container) for container in wave)

    async def signal(self, stack: Stack, project: str, service: str, signal: str) -> None:
        """Send the running containers of the service a signal, such as HUP.

        Raises ModelRefusedError, EngineUnavailableError.
        """
        containers = await self._of_services(stack, project, [service])
        await _together(self._engine.kill(one, signal) for one in containers if one["State"] == "running")

    async def _restore_names(self, stack: Stack, project: str, services: Sequence[str]) -> None:
        """Rename containers that still have the temporary name of an `up` that was cut off."""
        containers = await self._list(stack, project)
        taken = {name for container in containers for name in container["Names"]}
        for container in containers:
            found = _TEMPORARY_NAME.fullmatch(container["Names"][0])
            if found and f"/{found[1]}" not in taken and container["Labels"].get(SERVICE_LABEL) in services:
                await self._engine.rename(container, found[1])

    async def _of_services(self, stack: Stack, project: str, services: Sequence[str]) -> list[DockerContainer]:
        containers = await self._list(stack, project)
        return [container for container in containers if container["Labels"].get(SERVICE_LABEL) in services]

    # --- processes ---

    async def _run(self, argv: Sequence[str], directory: str, limits: process.Limits) -> process.Completed:
        await self._require_directory(directory)
        try:
            return await self._place.run(argv, directory, limits)
        except process.MissingProgramError as error:
            hint = "Install Docker Engine and its Compose plugin (v2)"
            raise EngineUnavailableError("docker is not installed, or not on PATH", hint=hint) from error


def _compose(stack: Stack, profiles: Sequence[str]) -> list[str]:
    files = [word for name in stack.files for word in ("--file", name)]
    return ["docker", "compose", *files, *(word for name in profiles for word in ("--profile", name))]


async def _with_profiles(
    stack: Stack, attempt: Callable[[Sequence[str]], Awaitable[process.Completed]]
) -> process.Completed:
    """Try with all profiles; where one lacks its env file, with those the stack names."""
    completed = await attempt(["*"])
    if not completed.ok and errors.lacks_env_file(_said(completed)):
        completed = await attempt(stack.profiles)
    return completed


async def _finished(work: Coroutine[None, None, process.Completed]) -> process.Completed:
    """Wait for the work to end. When cancelled, let it end first, for a while: half an `up` leaves services down."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=_LAST_ORDERS)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        raise


async def _together(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it at once and wait for all of it; then raise what went wrong first."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _waves(containers: Sequence[DockerContainer]) -> Iterator[list[DockerContainer]]:
    """Given containers, return them in groups such that each comes after those it depends on."""
    waiting = list(containers)
    while waiting:
        services = {container["Labels"][SERVICE_LABEL] for container in waiting}
        ready = [container for container in waiting if not services & _dependencies(container)] or waiting
        yield ready
        waiting = [container for container in waiting if container not in ready]


def _dependencies(container: DockerContainer) -> set[str]:
    """Names of services, from Compose's label "api:service_started:true,db:service_healthy:false"."""
    label = container["Labels"].get(DEPENDENCIES_LABEL, "")
    return {entry.split(":")[0] for entry in label.split(",")} - {container["Labels"][SERVICE_LABEL]}


def _parsed(stack: Stack, output: bytes, root: str) -> compose_model.Model:
    with contextlib.suppress(ValueError):
        return compose_model.read(output, root)
    # Not raised from the ValueError: that one holds the output, with every secret in it.
    raise EngineUnavailableError("what `docker compose config` printed is no JSON", where=stack.directory)


def _said(completed: process.Completed) -> str:
    return completed.stderr.decode(errors="replace")


def _error(
    stack: Stack,
    completed: process.Completed,
    doing: str,
    command: str,
    root: str = "",
    staged: Staged | None = None,
) -> ReconcilerError:
    """What a failed command means. `root` is the farm's, where it ran in one."""
    if completed.timed_out:
        return EngineUnavailableError(f"docker compose took too long to {doing}", where=stack.directory)
    if completed.exit_code < 0 or completed.exit_code in _KILLED:
        hint = "Look for the kernel's out-of-memory killer (dmesg); it is tried again"
        return EngineUnavailableError(
            f"docker compose was killed before it could {doing}", where=stack.directory, hint=hint
        )
    stderr = _said(completed)
    if root:
        stderr = stderr.replace(root, "")
    suspect = _broken_env_file(staged or {}) if errors.blames_unnamed_env_file(stderr) else None
    return errors.explain(
        stderr, completed.exit_code, directory=stack.directory, doing=doing, command=command, suspect=suspect
    )


def _broken_env_file(staged: Staged) -> str | None:
    for path, data in staged.items():
        try:
            parse_env_file(data.reveal() if data else b"")
        except EnvFileError:
            return path
    return None

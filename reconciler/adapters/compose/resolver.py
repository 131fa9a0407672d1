"""Resolves the project of a stack with `docker compose config`, as it is or with staged files in place.

For whatever engine runs the project in the end: who uses it says how Compose is run, and which services run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.adapters import process
from reconciler.adapters.compose import files as compose_files
from reconciler.adapters.compose import model as compose_model
from reconciler.adapters.compose import uses
from reconciler.adapters.compose.context import ComposeContext, Staged
from reconciler.adapters.compose.inputs import inputs_digest
from reconciler.adapters.compose.remotes import Written, may_fetch
from reconciler.adapters.compose.unresolvable import unresolvable
from reconciler.core.compose_names import ENVIRONMENT_NAME
from reconciler.core.decide.invocation import named_paths
from reconciler.core.errors import (
    EngineUnavailableError,
    ExhaustedError,
    ModelRefusedError,
    ReconcilerError,
    StackGoneError,
    StartedOtherwiseError,
)
from reconciler.core.model.compose import Invocation, Project, ProjectFiles, Service
from reconciler.core.model.targets import Stack

# A resolved project holds every inline config.
_RESOLVE = process.Limits(timeout=60.0, grace=5.0, stdout=64 * process.MIB, stderr=process.MIB)

_MISPLACED = "Correct the stack's directory or files in the manifest, or put the compose file there"


class ProjectResolver:
    """`docker compose config` on one machine. ``running`` gives the names of a stack's services that run; ``written``
    what reconciler has written there."""

    def __init__(
        self,
        context: ComposeContext,
        running: Callable[[Stack, Invocation], Awaitable[Collection[str]]],
        written: Written,
    ) -> None:
        self._context = context
        self._running = running
        self._written = written

    async def resolve(self, stack: Stack, invocation: Invocation, staged: Staged | None) -> Project:
        """The project, all profiles; with `staged` as if those files were in place.

        Where a service of some profile cannot be resolved, as its env file is missing or broken, only the profiles of
        running services and those that the stack names are active: it belongs to another machine.
        What is staged is not seen where the compose file names it by an absolute path; see staging.py.
        Raises ModelRefusedError, StartedOtherwiseError, EngineUnavailableError.
        """
        configuration = await self._context.configuration(invocation, staged or {})
        await self._require_files(stack, invocation, configuration, staged or {})
        if staged is None:
            return await self._resolve(stack, invocation, configuration, "", {})
        async with self._context.farm(stack.directory, staged) as root:
            return await self._resolve(stack, invocation, configuration, root, staged)

    async def is_current(self, invocation: Invocation, project: Project) -> bool:
        """Whether Compose, run so, would resolve the project so again from the files as they are: see inputs.py."""
        configuration = await self._context.configuration(invocation, {})
        inputs = await inputs_digest(self._context, invocation, configuration, {})
        return bool(inputs) and inputs == project.inputs

    async def project_files(
        self, stack: Stack, invocations: Iterable[Invocation], staged: Staged | None
    ) -> ProjectFiles:
        """What Compose reads as the project, run in these ways."""
        # COMPOSE_* keys of the `.env` where Compose is started count, even where nothing is interpolated from it.
        environments = frozenset({os.path.join(stack.directory, ENVIRONMENT_NAME)})
        files: frozenset[str] = frozenset()
        for invocation in invocations:
            configuration = await self._context.configuration(invocation, staged or {})
            files |= configuration.project
            environments |= configuration.environments
        return ProjectFiles(files, environments)

    async def require_directory(self, path: str) -> None:
        """Raises StackGoneError."""
        if not await self._context.has_directory(path):
            raise StackGoneError("the stack's directory does not exist", where=path, hint=_MISPLACED)

    async def _require_files(
        self, stack: Stack, invocation: Invocation, configuration: compose_files.Configuration, staged: Staged
    ) -> None:
        """Without a compose file here, Compose would take one from a directory above: another project's."""
        if not configuration.main:
            raise StackGoneError("there is no compose file", where=stack.directory, hint=_MISPLACED)
        named = frozenset(named_paths(stack))
        for path in (*configuration.main, *invocation.env_files):
            if staged.get(path) is not None or (path not in staged and await self._context.has_file(path)):
                continue
            if path not in named and path in (*invocation.files, *invocation.env_files):
                raise StartedOtherwiseError(
                    "the running containers were started with this file, and it is missing or cannot be read",
                    where=path,
                    hint=f"Restore it, or start the project without it by hand, in {stack.directory}",
                )
            kind = "env file" if path in invocation.env_files else "compose file"
            raise StackGoneError(f"the {kind} is missing, or cannot be read", where=path, hint=_MISPLACED)

    async def _resolve(
        self,
        stack: Stack,
        invocation: Invocation,
        configuration: compose_files.Configuration,
        root: str,
        staged: Staged,
    ) -> Project:
        """Run `config` there; ``root`` is the farm's, "" for the files as they are."""

        fetches = await may_fetch(self._context, configuration, staged, self._written)

        async def attempt(active: Iterable[str]) -> process.Completed:
            argv = ["docker", "compose", *invocation.options(active, root), "config", "--format", "json"]
            return await self.run(argv, root + stack.directory, _RESOLVE, fetches=fetches)

        # Before Compose reads them: what changes meanwhile is then noticed afterwards.
        inputs = await inputs_digest(self._context, invocation, configuration, staged)
        active: tuple[str, ...] = ("*",)
        completed = await attempt(active)
        reason: ReconcilerError | None = None
        if not completed.ok and any(uses.profiles(configuration.written).values()):
            reason = await unresolvable(self._context, invocation, completed, configuration, root, staged)
            if not isinstance(reason, ModelRefusedError):
                raise reason
            active = await self._active_profiles(stack, invocation, configuration)
            completed = await attempt(active)
        if not completed.ok:
            raise await unresolvable(self._context, invocation, completed, configuration, root, staged)
        model = _parsed(stack, completed.stdout, root)
        if compose_model.names_variables(model):
            compose_model.add_variables(model, configuration.variables.get)
        project = compose_model.project(model)
        left_out = uses.profiles(configuration.written).keys() - project.services.keys() if reason else set()
        return replace(
            project,
            services=await self._with_uses(project.services, configuration.written),
            invocation=invocation,
            profiles=active,
            environments=await self._with_real(configuration.environments),
            inputs="" if reason else inputs,  # which profiles are active depends on containers then
            unresolved_env_files=await self._with_real(uses.env_files_of(configuration.written, left_out)),
            unresolved=dict.fromkeys(left_out, f"{reason.where}: {reason.what}") if reason else {},
        )

    async def _with_uses(
        self, services: Mapping[str, Service], written: Sequence[compose_files.Written]
    ) -> dict[str, Service]:
        """The services with what only the text of the compose files shows."""
        env_files, references = uses.env_files(written), uses.references(written)
        return {
            name: replace(
                service,
                env_files=await self._with_real(env_files.get(name, frozenset())),
                references=references.get(name, {}),
            )
            for name, service in services.items()
        }

    async def _with_real(self, paths: frozenset[str]) -> frozenset[str]:
        """The paths, and where a link leads elsewhere that place too."""
        return paths | frozenset(await asyncio.gather(*map(self._context.resolve, paths)))

    async def _active_profiles(
        self, stack: Stack, invocation: Invocation, configuration: compose_files.Configuration
    ) -> tuple[str, ...]:
        """The profiles of the services that run, and those that the stack names."""
        by_service = uses.profiles(configuration.written)
        running = await self._running(stack, invocation)
        used = {profile for service in running for profile in by_service.get(service, frozenset())}
        return tuple(sorted({*stack.profiles, *used}))

    async def may_fetch(self, invocation: Invocation) -> bool:
        """Whether Compose, run so, may fetch what the project includes."""
        return await may_fetch(self._context, await self._context.configuration(invocation, {}), {}, self._written)

    async def run(
        self,
        argv: Sequence[str],
        directory: str,
        limits: process.Limits,
        stdin: bytes | None = None,
        *,
        fetches: bool = False,
    ) -> process.Completed:
        """Run a docker command in the directory. Raises StackGoneError, EngineUnavailableError."""
        await self.require_directory(directory)
        try:
            return await self._context.run(argv, directory, limits, stdin, fetches=fetches)
        except ExhaustedError as error:
            raise EngineUnavailableError(error.what, where=directory, hint=error.hint, id=error.id) from error
        except process.MissingProgramError as error:
            hint = "Install Docker Engine and its Compose plugin (v2)"
            raise EngineUnavailableError("docker is not installed, or not on PATH", hint=hint) from error


def _parsed(stack: Stack, output: bytes, root: str) -> compose_model.Model:
    with contextlib.suppress(ValueError):
        return compose_model.read(output, root)
    # Not raised from the ValueError: that one holds the output, with every secret in it.
    raise EngineUnavailableError("what `docker compose config` printed is no JSON", where=stack.directory)

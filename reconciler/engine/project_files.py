"""What Compose reads as a project is never ours to write: which files that are on this host, and who wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.decide import guards
from reconciler.core.dotenv.grammar import EnvFileError, parse_env_file
from reconciler.core.errors import EngineUnavailableError, GuardError, ReconcilerError
from reconciler.core.model.compose import ProjectFiles
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret

_MOVE = (
    "Whoever can merge could run anything as root. Move the project's files to where reconciler never writes, or set "
    "allow_compose_files: true in the server configuration"
)


@dataclass(slots=True)
class ProjectFileGuard:
    """The files that Compose reads as project configuration on the ``host``, of the ``stacks`` and of every project
    that has containers; looked up once, and only where a file is about to be written. ``guarded`` are the real
    paths whose new content cannot change what Compose runs."""

    ports: Ports
    host: str
    stacks: Sequence[Stack]
    guarded: set[str] = field(default_factory=set)
    _known: tuple[frozenset[str], frozenset[str]] | None = None
    _by_stack: dict[str, ProjectFiles] = field(default_factory=dict)

    async def unwritable(self, path: str, data: Secret | None, before: Secret | None) -> list[GuardError]:
        """Given a real path, what would be written there (None: nothing, it would go) and what git or an operator had
        there, return why it may not be."""
        desired = b"" if data is None else data.reveal()
        trusted = None if before is None or self.ports.store.ever_unguarded(self.host, [path]) else before.reveal()
        reasons: list[GuardError] = []
        if not self.ports.settings.allow_compose_files:
            if self._known is None:
                self._known = await self._all()
            reasons = guards.project_files(path, *self._known, desired, trusted)
        if not reasons and _control_nothing_new(trusted, desired):
            self.guarded.add(path)
        return reasons

    async def refusals(self, stack: Stack, staged: Mapping[str, Secret | None]) -> list[GuardError]:
        """Why the stack may not be touched: reconciler has written, some time, what Compose reads as its project."""
        if self.ports.settings.allow_compose_files:
            return []
        now = after = await self._of_stack(stack)
        if staged.keys() & (now.files | now.environments):  # else the walk through the files is the same
            after = await self.ports.compose.project_files(stack, staged)
        files = await self._real(now.files | after.files)
        environments = await self._real(now.environments | after.environments)
        written = self.ports.store.ever_written(self.host, {*files, *environments})
        unguarded = self.ports.store.ever_unguarded(self.host, environments.keys())
        problems = [
            f"Compose reads {path} as this project, and reconciler has written it before. {_MOVE}"
            for path in sorted(written & files.keys())
            if path in staged or await self._read(path) is not None
        ]
        for path in sorted(written & environments.keys() - files.keys()):
            # Else an operator has put it there, or the guard has compared it with what they had.
            if path in staged and await self.ports.host.resolve(path) in self.guarded:
                continue
            if path not in staged and path not in unguarded:
                continue
            data = staged[path] if path in staged else await self._read(path)
            if keys := _control_keys(b"" if data is None else data.reveal()):
                said = f"{path} sets {', '.join(keys)}, and reconciler has written it before"
                problems.append(f"{said}. {_MOVE}")
        return [GuardError(problem, where=stack.id, id="project-file") for problem in problems]

    async def _all(self) -> tuple[frozenset[str], frozenset[str]]:
        # All at the same time: each asks the engine for its containers.
        projects = await asyncio.gather(self._foreign(), *map(self._of_stack, self.stacks))
        names = (
            await self._real({path for project in projects for path in project.files}),
            await self._real({path for project in projects for path in project.environments}),
        )
        return frozenset(map(guards.folded, names[0])), frozenset(map(guards.folded, names[1]))

    async def _foreign(self) -> ProjectFiles:
        try:
            return await self.ports.compose.other_project_files()
        except EngineUnavailableError:
            return ProjectFiles(frozenset(), frozenset())  # what is written meanwhile stays known: see refusals()

    async def _of_stack(self, stack: Stack) -> ProjectFiles:
        if stack.id not in self._by_stack:
            self._by_stack[stack.id] = await self.ports.compose.project_files(stack)
        return self._by_stack[stack.id]

    async def _real(self, paths: Iterable[str]) -> dict[str, str]:
        """The paths as they are typed and with links resolved: a link must not give a file a second name."""
        real: dict[str, str] = {}
        for path in paths:
            real[path] = path
            real[await self.ports.host.resolve(path)] = path
        return real

    async def _read(self, path: str) -> Secret | None:
        try:
            live = await self.ports.host.read(path)
        except ReconcilerError:
            return Secret(b"")  # something is there
        return live.data if live is not None else None


def _control_nothing_new(before: bytes | None, desired: bytes) -> bool:
    """Whether Compose would find no control key in the content, if it read it, or the same as before."""
    try:
        keys = guards.control_keys(entry.key for entry in parse_env_file(desired))
        return not keys or not guards.changed_control_keys(before, desired)
    except EnvFileError:
        return False


def _control_keys(data: bytes) -> list[str]:
    try:
        return guards.control_keys(entry.key for entry in parse_env_file(data))
    except EnvFileError:
        return []  # Compose refuses it

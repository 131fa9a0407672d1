"""What is asked of Compose and the engine before the answer is needed, while something else takes its time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from reconciler.core.errors import ReconcilerError
from reconciler.core.model.compose import Guest, Project
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret

_Staged = Mapping[str, Secret | None]


class Ahead:
    """The answers, each for one use. Made for one reconciliation, as a project holds values: ``close`` drops the rest.

    ``in_vain`` are stacks (ids) of which nothing says that they are still as they were resolved: they are not again.
    Without it, nothing is asked ahead. ``outdated`` are those that have changed since they were resolved.
    """

    def __init__(self, ports: Ports, in_vain: set[str] | None = None) -> None:
        self._ports = ports
        self._asks = in_vain is not None
        self._in_vain = set() if in_vain is None else in_vain
        self._begun: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self.outdated: set[str] = set()

    def resolve(self, stack: Stack, staged: _Staged | None = None) -> None:
        """Begin to resolve the stack's project: as it is, and with what is to be staged."""
        if stack.id not in self._in_vain:
            self._begin(("project", stack.id), lambda: self._ports.compose.project(stack))
        if staged is not None:
            self._begin(("staged", stack.id), lambda: self._ports.compose.project(stack, staged))

    async def project(self, stack: Stack) -> Project:
        """The stack's project as it is now, not when it was begun. Raises as ``Compose.project`` does."""
        self.outdated.discard(stack.id)
        if ("project", stack.id) in self._begun:
            with contextlib.suppress(ReconcilerError):  # it may no longer be so
                project: Project = await self._take(("project", stack.id))
                if await self._ports.compose.is_current(stack, project):
                    return project
                if not project.inputs:  # nor will it be known the next time
                    self._in_vain.add(stack.id)
            self.outdated.add(stack.id)
        return await self._ports.compose.project(stack)

    async def staged_project(self, stack: Stack, staged: _Staged) -> Project:
        """The same with what is staged, as ``resolve`` was given it. Raises as ``Compose.project`` does."""
        if ("staged", stack.id) in self._begun:
            project: Project = await self._take(("staged", stack.id))
            return project
        return await self._ports.compose.project(stack, staged)

    def ask_for_guests(self) -> None:
        self._begin(("guests", ""), self._ports.compose.guests)

    async def guests(self) -> tuple[Guest, ...]:
        """Raises EngineUnavailableError."""
        if ("guests", "") in self._begun:
            guests: tuple[Guest, ...] = await self._take(("guests", ""))
            return guests
        return await self._ports.compose.guests()

    async def close(self) -> None:
        begun, self._begun = self._begun, {}
        for future in begun.values():
            future.cancel()
        await asyncio.gather(*begun.values(), return_exceptions=True)

    def _begin(self, question: tuple[str, str], ask: Callable[[], Awaitable[Any]]) -> None:
        if self._asks and question not in self._begun:
            self._begun[question] = asyncio.ensure_future(ask())

    async def _take(self, question: tuple[str, str]) -> Any:
        """Once it has an answer, it is forgotten: who asks again wants to know how it is by then."""
        try:
            return await self._begun[question]
        finally:
            self._begun.pop(question, None)

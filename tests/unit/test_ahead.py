"""What takes long before a write is begun early, never answers for what has changed since, and is not left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from reconciler.core.errors import BadCiphertextError
from reconciler.core.model.compose import Project, ProjectFiles
from reconciler.core.model.runs import Result
from reconciler.core.model.targets import Stack
from reconciler.core.secret import Secret
from reconciler.engine import planning
from reconciler.engine.guards import file_problems
from tests.fakes import API, APP, FakeCompose, FakeDecryptor, World, reconcile_once

LONG = 10.0  # seconds


class Timeline:
    """Compose says when it begins to resolve; sops and the guard on project files wait for that."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = {"as it is": asyncio.Event(), "staged": asyncio.Event()}
        self.while_decrypting: Callable[[], None] = lambda: None
        self.resolved = 0
        self._project, self._decrypt = world.compose.project, world.decryptor.decrypt
        self._files = world.compose.other_project_files
        monkeypatch.setattr(FakeCompose, "project", lambda _, *arguments: self.project(*arguments))
        monkeypatch.setattr(FakeCompose, "other_project_files", lambda _: self.other_project_files())
        monkeypatch.setattr(FakeDecryptor, "decrypt", lambda _, *arguments: self.decrypt(*arguments))

    async def project(self, stack: Stack, staged: Mapping[str, Secret | None] | None = None) -> Project:
        self.resolved += staged is None
        self.begun["as it is" if staged is None else "staged"].set()
        return await self._project(stack, staged)

    async def decrypt(self, *arguments: Any) -> Secret:
        async with asyncio.timeout(LONG):
            await self.begun["as it is"].wait()
        self.while_decrypting()
        return await self._decrypt(*arguments)

    async def other_project_files(self) -> ProjectFiles:
        async with asyncio.timeout(LONG):
            await self.begun["as it is"].wait()
        return await self._files()


@pytest.fixture
def timeline(world: World, monkeypatch: pytest.MonkeyPatch) -> Timeline:
    world.commit("b", api="A=2", worker="W=1")
    return Timeline(world, monkeypatch)


async def test_a_stack_is_resolved_while_sops_decrypts_and_while_the_guards_look(
    world: World, timeline: Timeline
) -> None:
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.live("api") == "A=2"
    assert timeline.resolved == 1


async def test_an_edit_since_then_has_it_resolved_again(world: World, timeline: Timeline) -> None:
    timeline.while_decrypting = lambda: world.host.put(API, b"A=9\n")
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.live("api") == "A=2"
    assert timeline.resolved == 2


async def test_an_edit_since_then_has_it_resolved_again_with_what_is_staged_too(
    world: World, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else git would be blamed for what the edit changes between the two."""

    async def guards(*arguments: Any) -> list[Any]:
        async with asyncio.timeout(LONG):
            await timeline.begun["staged"].wait()
        world.host.put(f"{APP}/other.env", b"O=1\n")
        return await file_problems(*arguments)

    monkeypatch.setattr(planning, "file_problems", guards)
    assert (await reconcile_once(world)).result is Result.APPLIED
    assert world.steps.count("model-staged") == 2
    assert timeline.resolved == 2


async def test_nothing_goes_on_after_a_source_that_cannot_be_decrypted(
    world: World, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(*_: Any) -> None:
        timeline.begun["as it is"].set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeCompose, "project", forever)
    world.decryptor.error = BadCiphertextError("damaged", where=API)
    assert (await reconcile_once(world)).result is Result.STALLED
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_of_several_stacks_none_is_resolved_ahead(world: World, timeline: Timeline) -> None:
    """The first run of a server would start Compose for all of them at the same time."""
    world.other_stacks = (Stack("production", "other", APP),)
    world.compose.stacks = {"worker": "other"}
    world.commit("c", api="A=3", worker="W=3")
    for begun in timeline.begun.values():
        begun.set()

    def check() -> None:
        assert timeline.resolved == 0

    timeline.while_decrypting = check
    await reconcile_once(world)

"""Plans what a change means for containers that share a namespace or volumes with those that it touches.

Decided in core/decide/guests.py. Reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from reconciler.core.decide.guests import Follow, broken_by, cut_off, follow
from reconciler.core.model.compose import Action, ActionKind, Container, Guest, Project
from reconciler.core.model.targets import Stack
from reconciler.core.ports import Ports
from reconciler.engine.ahead import Ahead
from reconciler.engine.observe import Snapshot

OF_NO_STACK = ""
"""Where the notes are on containers that are cut off, whatever stack they belong to: all are looked at together."""


class Looked(Protocol):
    """A stack that was looked at."""

    @property
    def containers(self) -> Sequence[Container]: ...


class Planning(Protocol):
    """A plan in the making; see planning.py."""

    ports: Ports
    snapshot: Snapshot
    ahead: Ahead
    actions: list[Action]
    projects: dict[str, Project | None]
    notes: dict[str, tuple[str, ...]]
    broken: set[str]

    @property
    def views(self) -> Mapping[str, Looked]: ...

    async def follow(self, stack: Stack, followers: Sequence[Action]) -> str: ...


async def follow_guests(planning: Planning) -> None:
    """Add to the plan what guests of touched containers need, in waves; and notes on those that the change breaks, or
    that are cut off already. Raises EngineUnavailableError."""
    guests = await planning.ahead.guests()
    planning.notes[OF_NO_STACK] = ()
    if not guests:
        return
    homes = await _homes(planning, guests)
    _renew_orphaned(planning, guests)
    handled: set[str] = set()
    while True:
        touched = _touched(planning)
        fresh = [guest for guest in guests if guest.id not in handled]
        needs = {guest.id: needed for guest in fresh if (needed := _needs(planning, guest, touched, homes))}
        if not needs:
            break
        handled |= needs.keys()
        following = [guest for guest in fresh if guest.id in needs]
        for name in dict.fromkeys(_home(homes, guest) for guest in following):
            mine = [guest for guest in following if _home(homes, guest) == name]
            await _follow_in_stack(planning, homes, mine, needs)
    _note_cut_off(planning, guests, homes, handled)


async def _homes(planning: Planning, guests: Collection[Guest]) -> dict[str, Stack]:
    """The managed stacks that guests belong to, by the guest's id."""
    homes: dict[str, Stack] = {}
    identities = {guest.id for guest in guests}
    for stack in planning.snapshot.desired.manifest.stacks:
        view = planning.views.get(stack.name)
        containers = view.containers if view else await planning.ports.compose.glance(stack)
        homes |= {container.id: stack for container in containers if container.id in identities}
    return homes


def _home(homes: Mapping[str, Stack], guest: Guest) -> str:
    return homes[guest.id].name if guest.id in homes else OF_NO_STACK


def _touched(planning: Planning) -> dict[str, Action]:
    """The planned actions, by the containers that they touch."""
    return {
        container.id: action
        for action in planning.actions
        for container in planning.views[action.stack].containers
        if container.service == action.service
    }


def _needs(
    planning: Planning, guest: Guest, touched: Mapping[str, Action], homes: Mapping[str, Stack]
) -> Follow | None:
    """What the guest needs; None for nothing, or where its project says whose guest it is: that is planned already."""
    name = _home(homes, guest)
    project = planning.projects.get(name)
    service = project.services.get(guest.service) if project else None
    by_project = service.namespace_of | service.volumes_of if service else frozenset[str]()
    others = {
        identity: action
        for identity, action in touched.items()
        if action.stack != name or action.service not in by_project
    }
    return follow(guest, others, name)


async def _follow_in_stack(
    planning: Planning, homes: Mapping[str, Stack], guests: Sequence[Guest], needs: Mapping[str, Follow]
) -> None:
    """Plan for the guests of one stack, all or else one by one, or note that the change breaks them."""
    home = homes.get(guests[0].id)
    if home is None:
        obstacle = "it is part of no managed stack"
        planning.broken |= {guest.id for guest in guests}
    else:
        obstacle = await planning.follow(home, [needs[guest.id].action(home.name, guest.service) for guest in guests])
    if obstacle and home is not None and len(guests) > 1:
        for guest in guests:
            await _follow_in_stack(planning, homes, [guest], needs)
        return
    for guest in guests if obstacle else ():
        if guest.running:
            name = needs[guest.id].owners[0].stack
            sentence = broken_by(guest, needs[guest.id], obstacle)
            planning.notes[name] = (*planning.notes.get(name, ()), sentence)


def _renew_orphaned(planning: Planning, guests: Collection[Guest]) -> None:
    """A planned restart of a guest whose owner is gone would fail: it is recreated."""
    gone = {guest.id: guest for guest in guests if guest.gone}
    actions = []
    for action in planning.actions:
        containers = planning.views[action.stack].containers
        orphaned = any(container.service == action.service and container.id in gone for container in containers)
        if orphaned and action.kind is not ActionKind.SIGNAL:
            action = replace(action, kind=ActionKind.RECREATE, force=True)
        actions.append(action)
    planning.actions = actions


def _note_cut_off(
    planning: Planning, guests: Collection[Guest], homes: Mapping[str, Stack], handled: Collection[str]
) -> None:
    """Note the guests that have lost what they share: those of managed stacks, and those whose owner is or was of one.
    What others do to each other on this engine is not ours to report."""
    touched = _touched(planning)
    known = planning.ports.store.environment(planning.snapshot.desired.manifest.environment).cut_off
    ours = {container.id for view in planning.views.values() for container in view.containers}
    for guest in guests:
        concerns_us = guest.id in homes or guest.id in known or any(ours & owners for owners in guest.shares.values())
        if guest.lost and concerns_us and guest.id not in touched and guest.id not in handled:
            name = _home(homes, guest)
            where = f"stack {name}: " if name else ""
            planning.notes[OF_NO_STACK] = (*planning.notes[OF_NO_STACK], f"{where}{cut_off(guest)}")

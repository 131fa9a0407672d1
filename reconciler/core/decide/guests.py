"""Decides what a change means for containers that live in a namespace, or with volumes, of one that it touches. Pure.

A container that is recreated, or only restarted, gets new namespaces: its guests keep the old ones, which lead nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.model.compose import Action, ActionKind, Guest
from reconciler.core.text import listed

_VOLUMES = "volumes"


@dataclass(frozen=True, slots=True)
class Follow:
    """What a guest needs after the ``owners`` were touched: ``kind``, with the reason in words, and when."""

    kind: ActionKind
    reason: str
    wave: int
    owners: tuple[Action, ...]

    def action(self, stack: str, service: str) -> Action:
        """The same for the service of a stack. Compose sees no difference in a guest, so a recreate must be forced."""
        force = self.kind is ActionKind.RECREATE
        return Action(stack, service, self.kind, self.reason, force=force, wave=self.wave)


def follow(guest: Guest, touched: Mapping[str, Action], stack: str = "") -> Follow | None:
    """Given the actions by the containers (ids) that they touch, return what the guest needs; None for nothing.

    ``stack`` is the guest's own: services of it are called by their name alone. A guest of a container that is
    recreated must be recreated: it has noted that one's id, and a restart ends with "No such container".
    """
    reasons: list[str] = []
    owners: list[Action] = []
    for word, identities in guest.shares.items():
        for identity in sorted(identities & touched.keys()):
            owner = touched[identity]
            if owner.kind is ActionKind.SIGNAL or (word == _VOLUMES and owner.kind is not ActionKind.RECREATE):
                continue
            name = owner.service if owner.stack == stack else f"{owner.stack}/{owner.service}"
            reasons.append(f"uses the volumes of {name}" if word == _VOLUMES else f"shares the {word} of {name}")
            owners.append(owner)
    if not owners:
        return None
    recreated = any(owner.kind is ActionKind.RECREATE for owner in owners)
    kind = ActionKind.RECREATE if recreated else ActionKind.RESTART
    return Follow(kind, "; ".join(dict.fromkeys(reasons)), max(owner.wave for owner in owners) + 1, tuple(owners))


def broken_by(guest: Guest, needs: Follow, obstacle: str) -> str:
    """What an operator should know of a guest that the change breaks, as it may not be touched (``obstacle``)."""
    owner = needs.owners[0]
    verb = "recreate" if needs.kind is ActionKind.RECREATE else "restart"
    sentence = f"stack {owner.stack}: the {verb} of {owner.service} breaks {guest.name}, which {needs.reason}"
    return f"{sentence}: {obstacle}. {_advice(guest, needs.kind)} afterwards"


def cut_off(guest: Guest) -> str:
    """What an operator should know of a guest that has lost what it shares."""
    fate = "was removed" if guest.gone else "was restarted since"
    kind = ActionKind.RECREATE if guest.gone else ActionKind.RESTART
    return f"{guest.name} is cut off: the container whose {listed(guest.lost)} it shares {fate}. {_advice(guest, kind)}"


def _advice(guest: Guest, kind: ActionKind) -> str:
    if kind is ActionKind.RESTART:
        return f"Restart it with `docker restart {guest.name}`"
    if guest.project:
        command = f"docker compose -p {guest.project} up -d --force-recreate {guest.service}"
        return f"Recreate it with `{command}` in {guest.directory}"
    return "Remove it and run it again"

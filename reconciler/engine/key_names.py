"""Which keys of a live file differ from git's, by name, and the bytes that would be written."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from reconciler.core.decide.classify import with_authors, with_keys
from reconciler.core.dotenv.ignored_keys import with_server_keys
from reconciler.core.errors import ReconcilerError
from reconciler.core.model.plans import Aspect, Change, Effect, KeyChange, Kind
from reconciler.core.model.targets import Parser, Target
from reconciler.core.ports import Ports
from reconciler.core.secret import Secret
from reconciler.engine.observe import Plaintexts, Snapshot, key_change, last_written, named_keys


class KeyNames:
    """Remembers, by the two digests, which keys differ: not every reconciliation decrypts a held or reported file."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None], KeyChange] = {}
        self._apart: dict[tuple[str, str | None], tuple[KeyChange, KeyChange]] = {}

    async def name_keys(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Change:
        """The change with the names of its keys, and whose they are: git's or a hand's."""
        named = await self._name_keys(ports, snapshot, change, plaintexts)
        if not named.drifted or named.restored_from or Aspect.COSMETIC in named.aspects:
            return named
        path = named.target.path
        return replace(named, edited_by=await ports.host.editor(path, snapshot.live[path]))

    async def _name_keys(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Change:
        keys = await self._of(ports, snapshot, change, plaintexts)
        change = with_keys(change, keys)
        live = snapshot.live[change.target.path]
        if live is None or Aspect.CONTENT not in change.aspects:
            return change
        if change.kind is Kind.DRIFT:
            by_hand = KeyChange(added=keys.removed, removed=keys.added, changed=keys.changed)
            return with_authors(change, by_hand, KeyChange(), live.modified_at)
        if change.kind is Kind.CONFLICT:
            by_hand, from_git = await self._of_both(ports, snapshot, change, plaintexts)
            return with_authors(change, by_hand, from_git, live.modified_at)
        return replace(change, from_git=keys) if change.kind is Kind.UPDATE else change

    async def _of(self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> KeyChange:
        if change.target.parser is Parser.OPAQUE or Aspect.CONTENT not in change.aspects | _creates(change):
            return KeyChange()
        live = snapshot.live[change.target.path]
        pair = _pair(ports, snapshot, change.target)
        if pair not in self._known:
            desired = await desired_bytes(snapshot, change, plaintexts) or Secret(b"")
            self._known[pair] = key_change(
                change.target, desired.reveal(), None if live is None else live.data.reveal()
            )
        return self._known[pair]

    async def _of_both(
        self, ports: Ports, snapshot: Snapshot, change: Change, plaintexts: Plaintexts
    ) -> tuple[KeyChange, KeyChange]:
        """What a hand, and what git has changed since the file was last written; nothing where that is not known."""
        target, pair = change.target, _pair(ports, snapshot, change.target)
        live, last = snapshot.live[target.path], snapshot.applied[target.path]
        if pair not in self._apart and live is not None:
            self._apart[pair] = KeyChange(), KeyChange()
            with contextlib.suppress(ReconcilerError):  # names are a help, and nothing waits for them
                written = await last_written(ports, target, last, plaintexts)
                desired = (await plaintexts.of(target, snapshot.desired.blobs[target.source])).reveal()
                if written is not None:
                    by_hand = key_change(target, live.data.reveal(), written)
                    added = named_keys(target, by_hand.added, live.data.reveal())
                    self._apart[pair] = replace(by_hand, added=added), key_change(target, desired, written)
        return self._apart[pair]

    def keep(self, ports: Ports, snapshot: Snapshot) -> None:
        """Forget pairs that no longer occur."""
        if not self._known and not self._apart:
            return
        pairs = {_pair(ports, snapshot, state.target) for state in snapshot.states if state.desired is not None}
        self._known = {pair: keys for pair, keys in self._known.items() if pair in pairs}
        self._apart = {pair: both for pair, both in self._apart.items() if pair in pairs}


def _pair(ports: Ports, snapshot: Snapshot, target: Target) -> tuple[str, str | None]:
    """What the names of a target's keys depend on."""
    live = snapshot.live[target.path]
    return snapshot.desired.digests[target.source], None if live is None else ports.digest(live.data.reveal())


def _creates(change: Change) -> frozenset[Aspect]:
    return frozenset({Aspect.CONTENT}) if Aspect.MISSING in change.aspects else frozenset()


async def desired_bytes(snapshot: Snapshot, change: Change, plaintexts: Plaintexts) -> Secret | None:
    """What would be written; None: the file would be deleted. Ignored keys keep their live value."""
    target, live = change.target, snapshot.live[change.target.path]
    if change.effect is Effect.DELETE:
        return None
    data = await plaintexts.of(target, snapshot.desired.blobs[target.source])
    if not target.ignore_keys or live is None:
        return data
    return Secret(with_server_keys(data.reveal(), live.data.reveal(), target.parser, target.ignore_keys))

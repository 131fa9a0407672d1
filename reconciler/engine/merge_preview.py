"""What merging a pull request would do to one environment on one host: a dry run without a trace.

Whoever opens the pull request may have no key, and must not learn from the answer whether a value is what they guess.
So what is said depends on what git shows, on names, and on the server, never on whether a new value equals a current
one: where it does, the services are planned for another value (docs/plan-before-merge.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from reconciler.core.decide import guards
from reconciler.core.decide.suspension import suspension_of
from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.errors import GuardError, ManifestError, ReconcilerError
from reconciler.core.forge.merge_plan import ContractsVerdict, PlannedFile, PlannedService, PlannedUnit
from reconciler.core.model.compose import Action
from reconciler.core.model.plans import Effect, KeyChange, Plan
from reconciler.core.model.revisions import Blob, Revision
from reconciler.core.model.targets import Format, Manifest, Parser, Stack, Target, host_of
from reconciler.core.ports import Ports
from reconciler.core.ports.git import MergedBranch
from reconciler.core.secret import Secret
from reconciler.core.secrets.unlike_values import with_unlike_values
from reconciler.core.sops.cipher_diff import compare_ciphertexts
from reconciler.engine.contracts import broken_contracts, contract_path
from reconciler.engine.key_names import KeyNames
from reconciler.engine.memory import Claims
from reconciler.engine.observe import (
    Desired,
    Plaintexts,
    compared,
    load_desired,
    observe,
    path_in_git,
    read_manifest,
)
from reconciler.engine.planning import Prepared, prepare
from reconciler.engine.reading_ports import reading_ports
from reconciler.engine.stack_planning import Permissions

# Their sentences say what git and the server configuration show; of any other problem only the id is said.
_SAYABLE = frozenset({"broken-contract", "missing-source", "missing-manifest", "missing-contract", "project-file"})


@dataclass(frozen=True, slots=True)
class _Side:
    """One environment at one commit, as git shows it."""

    manifest: Manifest | None
    blobs: Mapping[str, Blob] = field(repr=False)

    def target_at(self, path: str) -> Target | None:
        return (
            next((target for target in self.manifest.targets if target.path == path), None) if self.manifest else None
        )


@dataclass(slots=True)
class MergePreview:
    """One preview: ``load`` reads and decrypts the merge result beside the reconciliations, ``plan`` looks at the
    server, while nothing is reconciled."""

    ports: Ports
    unit: str
    claims: Claims
    merged: MergedBranch
    _plaintexts: Plaintexts = field(init=False)
    _before: _Side = field(init=False)
    _desired: Desired | None = None
    _answer: PlannedUnit | None = None

    @property
    def label(self) -> str:
        """The environment with its host."""
        return self.unit if host_of(self.unit) else f"{self.unit}@{self.ports.settings.host}"

    def __post_init__(self) -> None:
        self.ports = reading_ports(self.ports, self.merged.git)
        self._plaintexts = Plaintexts(self.ports)

    async def load(self) -> None:
        """Read the environment at the merge result. Problems become the answer."""
        try:
            await self._load()
        except ReconcilerError as error:
            self._answer = _refused(self.label, error)

    async def _load(self) -> None:
        directory = path_in_git(self.ports, self.unit)
        before, revision = [
            await self.ports.git.revision(commit, directory) for commit in (self.merged.target, self.merged.commit)
        ]
        if before.subtree == revision.subtree:
            self._answer = PlannedUnit(self.label)
            return
        self._before = await self._side(before)
        desired = await load_desired(self.ports, self.unit, revision, self._plaintexts)
        self.claims.require_free(desired.manifest)
        self._desired = desired

    async def _side(self, revision: Revision) -> _Side:
        """The environment before the merge, as far as it can be read."""
        blobs: dict[str, Blob] = {}
        try:
            manifest = await read_manifest(self.ports, self.unit, revision)
        except ReconcilerError:
            return _Side(None, blobs)
        for target in manifest.targets:
            path = path_in_git(self.ports, target.environment, target.source)
            try:
                blob = await self.ports.git.read(revision.commit, path)
            except ReconcilerError:
                continue
            if blob is not None:
                blobs[target.source] = blob
        return _Side(manifest, blobs)

    async def plan(self) -> PlannedUnit:
        """What would be done. Only while nothing is reconciled. Never raises ReconcilerError."""
        if self._answer is not None or self._desired is None:
            return self._answer or PlannedUnit(self.label)
        try:
            return await self._plan(self._desired)
        except ReconcilerError as error:
            return _refused(self.label, error)

    async def _plan(self, desired: Desired) -> PlannedUnit:
        changed = [target for target in desired.manifest.targets if self._is_changed(target, desired)]
        files = await self._planned_files(changed, desired)
        contracts, broken = await self._contracts(changed, desired)
        masked = await self._with_other_values(_without_checks(desired), changed)
        # Without the stacks first: Compose is not asked about files that may not even be written.
        guarded = await self._prepared(_with_stacks(masked, ()))
        if refusals := (*broken, *guarded.problems):
            return PlannedUnit(self.label, files, contracts=contracts, problems=tuple(map(_said, refusals)))
        trusted, later = await self._trusted(changed, desired)
        names = frozenset(stack.name for stack in trusted if any(target.stack == stack.name for target in changed))
        prepared = await self._prepared(_with_stacks(masked, trusted), names)
        if prepared.problems or await self._refuses_other_values(_with_stacks(masked, trusted), changed, names):
            # Perhaps only because another value was put in place: whether one was must not show.
            later = (*later, "services decided after the merge")
            return PlannedUnit(self.label, files, contracts=contracts, later=later)
        return PlannedUnit(
            self.label,
            files,
            tuple(_service(action, files, changed) for action in prepared.plan.actions),
            _untouched(prepared, names),
            contracts,
            waits=(*self._pinned(), *_waits(prepared.plan, {target.path for target in changed})),
            later=(*later, *(["the Docker engine does not answer now"] if prepared.away else ())),
        )

    async def _prepared(self, desired: Desired, look_at: Collection[str] = ()) -> Prepared:
        ports, known = self.ports, self._before.manifest.stacks if self._before.manifest else ()
        return await prepare(
            ports,
            await observe(ports, desired),
            KeyNames(),
            self._plaintexts,
            permissions=Permissions(neighbours=(*self.claims.neighbours(self.unit), *known)),
            suspension=suspension_of(ports.store.environment(self.unit), ports.clock.now()),
            look_at=look_at,
        )

    def _pinned(self) -> list[str]:
        pin = self.ports.store.environment(self.unit).pin
        return [f"pinned to {pin.revision.short} until `reconciler unpin`"] if pin else []

    async def _contracts(
        self, changed: Collection[Target], desired: Desired
    ) -> tuple[ContractsVerdict, list[ReconcilerError]]:
        """Whether the contracts of what changes hold, whatever the server has now; and the breaches."""
        breaches: list[ReconcilerError] = []
        mine = [target for target in changed if target.contracts]
        judged = [target for target in mine if await self._contracts_stay(target, desired)]
        for target in judged:
            data = await self._plaintexts.of(target, desired.blobs[target.source])
            problems = await broken_contracts(self.ports, desired.revision, target, data)
            breaches += [GuardError(str(problem), where=target.id, id=problem.id) for problem in problems]
        if breaches:
            return ContractsVerdict.BROKEN, breaches
        verdict = ContractsVerdict.HOLD if mine else ContractsVerdict.NONE
        return verdict if len(judged) == len(mine) else ContractsVerdict.EDITED, []

    # --- what git shows ---

    def _is_changed(self, target: Target, desired: Desired) -> bool:
        old = self._before.target_at(target.path)
        blob = self._before.blobs.get(old.source) if old else None
        return old != target or blob is None or blob.id != desired.blobs[target.source].id

    async def _contracts_stay(self, target: Target, desired: Desired) -> bool:
        """Whether the target has the contracts that it had, unchanged, for the same source, read in the same way: else
        whoever writes a contract, or gives it another file, could ask it about a value."""
        old = self._before.target_at(target.path)
        before, after = (
            side and (side.source, side.contracts, side.parser, side.ignore_keys) for side in (old, target)
        )
        if before != after:
            return False
        for contract in target.contracts:
            path = contract_path(self.ports, contract)
            blobs = [
                await self.ports.git.read(commit, path) for commit in (self.merged.target, desired.revision.commit)
            ]
            if None in blobs or blobs[0] != blobs[1]:
                return False
        return True

    async def _planned_files(self, changed: Collection[Target], desired: Desired) -> tuple[PlannedFile, ...]:
        files = []
        for target in changed:
            old, blob = self._before.target_at(target.path), desired.blobs[target.source]
            former = self._before.blobs.get(old.source) if old else None
            if old is None:
                there = await self.ports.host.read(target.path) is not None
                effect = (
                    "is new; a file is there already: recorded if it is the same, else held" if there else "created"
                )
                files.append(PlannedFile(target.source, effect, self._shown_keys(target, None, blob) or KeyChange()))
                continue
            moved = "" if old.source == target.source else f" (was {old.source})"
            if former is not None and former.id == blob.id:
                files.append(PlannedFile(target.source, f"has other settings{moved}"))
                continue
            keys = self._shown_keys(target, former, blob)
            anew = "encrypted anew: written only if a value differs"
            effect = anew if self._rewritten(target, former, blob) else "for other recipients: not written"
            effect = f"written{moved}" if keys is not None or former is None else effect
            files.append(PlannedFile(target.source, effect, keys or KeyChange()))
        after = {target.path for target in desired.manifest.targets}
        gone = (
            [target for target in self._before.manifest.targets if target.path not in after]
            if (self._before.manifest)
            else []
        )
        stays = [
            PlannedFile(target.source, "leaves git" + (", is deleted" if target.prune else "; the live file stays"))
            for target in gone
        ]
        return (*files, *stays)

    def _shown_keys(self, target: Target, old: Blob | None, new: Blob) -> KeyChange | None:
        """The keys that git shows as changed, without a key; None where all of it was only re-encrypted."""
        if target.parser is Parser.OPAQUE:
            return KeyChange()
        if not target.encrypted:
            return _plain_change(old, new, target.parser)
        try:
            sides = [
                self.ports.decryptor.read(target.source, blob.data, target.parser) if blob else None
                for blob in (old, new)
            ]
        except ReconcilerError:
            return KeyChange()
        if any(side is not None and side.format is Format.BINARY for side in sides):
            return KeyChange()
        change = compare_ciphertexts(sides[0], sides[1])
        return None if change.only_reencrypted or change.rotated else change.keys

    # --- what must not be learnt ---

    async def _trusted(
        self, changed: Collection[Target], desired: Desired
    ) -> tuple[tuple[Stack, ...], tuple[str, ...]]:
        """The stacks that Compose may be asked about with the new files, and what is decided only after the merge.

        Those whose project the pull request does not change, else it could have Compose read, fetch or compare
        something; and of which no file is encrypted anew as a whole, where only values could tell whether it changes.
        """
        known = self._before.manifest.stacks if self._before.manifest else ()
        anew = {target.stack for target in changed if self._is_encrypted_anew(target, desired)}
        same = [stack for stack in desired.manifest.stacks if stack in known and stack.name not in anew]
        trusted = tuple([stack for stack in same if await self._keeps_project(stack, changed, desired)])
        names = {stack.name for stack in trusted}
        undecided = sorted({target.stack for target in changed if target.stack} - names)
        checks = sorted({target.check.name for target in changed if target.check})
        later = [f"services of {name} decided after the merge" for name in undecided]
        return trusted, (*later, *(f"{name} checked after the merge" for name in checks))

    async def _keeps_project(self, stack: Stack, changed: Collection[Target], desired: Desired) -> bool:
        """Whether Compose reads the same project before and after; without allow_compose_files it always does."""
        if not self.ports.settings.allow_compose_files:
            return True
        project = await self.ports.compose.project_files(stack)
        mine = [target for target in changed if target.path in project.files | project.environments]
        return not any([target.path in project.files or await self._controls(target, desired) for target in mine])

    def _is_encrypted_anew(self, target: Target, desired: Desired) -> bool:
        old, blob = self._before.target_at(target.path), desired.blobs[target.source]
        former = self._before.blobs.get(old.source) if old else None
        if former is None or former.id == blob.id or self._shown_keys(target, former, blob) is not None:
            return False
        return bool(self._rewritten(target, former, blob))

    async def _controls(self, target: Target, desired: Desired) -> bool:
        try:
            data = (await self._plaintexts.of(target, desired.blobs[target.source])).reveal()
            return bool(guards.control_keys(entry.key for entry in read_entries(data, target.parser)))
        except (ReconcilerError, EnvFileError):
            return True

    async def _refuses_other_values(
        self, desired: Desired, changed: Collection[Target], stacks: Collection[str]
    ) -> bool:
        """Whether Compose refuses the revision with another value in place of every rewritten one that it interpolates
        with. Else its refusal of a replaced value would show which ones are current."""
        projects = [await self.ports.compose.project_files(stack) for stack in desired.manifest.stacks]
        interpolated = frozenset[str]().union(*(project.environments for project in projects))
        parsed = [target for target in changed if target.path in interpolated]
        if not stacks or not parsed:
            return False
        others = await self._with_other_values(desired, parsed, every=True)
        return bool((await self._prepared(others, stacks)).problems)

    async def _with_other_values(
        self, desired: Desired, changed: Collection[Target], *, every: bool = False
    ) -> Desired:
        """The same, with another value in place of each rewritten one that is what the server or git has now, or of
        ``every`` rewritten one."""
        digests = dict(desired.digests)
        for target in changed:
            blob = desired.blobs[target.source]
            data = (await self._plaintexts.of(target, blob)).reveal()
            unlike = await self._unlike(target, blob, data, every=every)
            if unlike != data:
                self._plaintexts.replace(target, blob, Secret(unlike))
                digests[target.source] = compared(self.ports, target, unlike)
        return replace(desired, digests=digests)

    async def _unlike(self, target: Target, blob: Blob, data: bytes, *, every: bool) -> bytes:
        live = await self.ports.host.read(target.path)
        old = self._before.target_at(target.path)
        former = self._before.blobs.get(old.source) if old else None
        if former is not None and former.id == blob.id:
            return data
        before = (await self._plaintexts.of(old, former, former=True)).reveal() if old and former else None
        current = [side for side in (live.data.reveal() if live else None, before) if side is not None]
        current = [*current, data] if every else current
        return with_unlike_values(data, current, self._rewritten(target, former, blob), target.parser)

    def _rewritten(self, target: Target, old: Blob | None, new: Blob) -> Collection[str] | None:
        """The keys whose ciphertext is another one; None: all of them. What `rotate` rewrites counts too."""
        try:
            sides = [self.ports.decryptor.read(target.source, blob.data, target.parser) for blob in (old, new) if blob]
        except ReconcilerError:
            return None
        if len(sides) < 2 or any(side.format is Format.BINARY for side in sides):
            return None
        before, after = ({entry.key: entry.encrypted for entry in side.entries if not entry.comment} for side in sides)
        return {key for key, text in after.items() if before.get(key) != text}


def _plain_change(old: Blob | None, new: Blob, parser: Parser) -> KeyChange:
    try:
        sides = [
            {entry.key: entry.template for entry in read_entries(blob.data, parser)} if blob else {}
            for blob in (old, new)
        ]
    except EnvFileError:
        return KeyChange()
    return KeyChange.between(*sides)


def _without_checks(desired: Desired) -> Desired:
    """The revision without the commands of its checks, and without its contracts, which are judged apart."""
    targets = tuple(replace(target, check=None, contracts=()) for target in desired.manifest.targets)
    return replace(desired, manifest=replace(desired.manifest, targets=targets))


def _with_stacks(desired: Desired, stacks: tuple[Stack, ...]) -> Desired:
    return replace(desired, manifest=replace(desired.manifest, stacks=stacks))


def _service(action: Action, files: Collection[PlannedFile], changed: Collection[Target]) -> PlannedService:
    """The action with the keys that its reason names, of those that git shows as changed in the stack's files."""
    sources = {target.source for target in changed if target.stack == action.stack}
    keys = dict.fromkeys(key for file in files if file.source in sources for key in file.keys.names)
    named = [key for key in keys if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", action.reason)]
    return PlannedService(action.stack, action.service, action.kind, tuple(named or keys))


def _untouched(prepared: Prepared, stacks: Collection[str]) -> tuple[str, ...]:
    touched = {(action.stack, action.service) for action in prepared.plan.actions}
    services = [
        (name, service)
        for name, view in prepared.views.items()
        if name in stacks and view.before is not None
        for service in view.before.services
    ]
    return tuple(service for name, service in services if (name, service) not in touched)


def _waits(plan: Plan, paths: Collection[str]) -> tuple[str, ...]:
    """What an operator would have to decide about what the merge changes: ids only."""
    held = [f"stack {name} held" for name, _ in plan.held_stacks]
    stacks = {name for name, _ in plan.held_stacks}
    files = [
        f"{change.target.source} held [{change.error_id}]" if change.error_id else f"{change.target.source} held"
        for change in plan.changes
        if change.effect is Effect.HOLD and change.target.path in paths and change.target.stack not in stacks
    ]
    ids = f" [{', '.join(dict.fromkeys(filter(None, plan.held_ids)))}]" if any(plan.held_ids) else ""
    return (*(f"{sentence}{ids}" for sentence in held), *files)


def _refused(unit: str, error: ReconcilerError) -> PlannedUnit:
    if error.blames_revision:
        return PlannedUnit(unit, problems=(_said(error),))
    return PlannedUnit(unit, failed=f"the server cannot tell now [{error.id}]")


def _said(error: ReconcilerError) -> str:
    """The problem in words where they say nothing about values, else its id."""
    if isinstance(error, ManifestError) or error.id in _SAYABLE:
        return str(error)
    where = f"{error.where}: " if isinstance(error, GuardError) and error.where else ""
    return f"{where}[{error.id}]"

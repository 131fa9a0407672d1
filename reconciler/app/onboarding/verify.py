"""Verifies an import: a server that follows the commit would find every file in sync."""

from __future__ import annotations

import asyncio
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import urlsplit

from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.server import ServerConfig
from reconciler.app.onboarding.import_files import Committed
from reconciler.app.onboarding.real_paths import UNRESOLVED, real_paths
from reconciler.app.wiring import clone
from reconciler.core.errors import LiveFileError
from reconciler.core.inventory import FoundFile
from reconciler.core.model.plans import Aspect, Effect
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.targets import Parser, Target
from reconciler.core.onboarding.source_merge import variables_changed
from reconciler.core.onboarding.types import Draft, DraftFile
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Verification:
    """``problems`` are sentences with the target and the reason, none for a success. ``compared`` counts the live files
    that were read again, ``rewritten`` the lines of them that differ in git, where they mean the same. ``planned`` are
    machines whose plan changes no variable, ``empty`` those whose plan has no services either; ``notes`` say what a
    reconciliation would do to services."""

    compared: int = 0
    rewritten: int = 0
    planned: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


async def verify_import(
    commit: Committed, draft: Draft, machines: Mapping[str, Machine], progress: Callable[[str, int, int], None]
) -> Verification:
    """Compare the commit with every machine: each file with mode and owner, byte for byte or, where the draft has a
    normal form of it, variable by variable; and on this machine also with the plan that `reconciler plan` makes.
    ``machines`` by their names in the manifest."""
    results = []
    for number, (host, machine) in enumerate(machines.items()):
        progress("verifying", number, len(machines))
        results.append(await _files(commit, draft, host, machine))
        if clone.is_here(machine) and not results[-1].problems:
            results.append(await _plan(commit, draft, host))
    progress("verifying", len(machines), len(machines))
    return Verification(
        compared=sum(result.compared for result in results),
        rewritten=sum(result.rewritten for result in results),
        planned=tuple(name for result in results for name in result.planned),
        empty=tuple(name for result in results for name in result.empty),
        problems=tuple(problem for result in results for problem in result.problems),
        notes=tuple(note for result in results for note in result.notes),
    )


def server_settings(commit: Committed, host: str, state_dir: str) -> dict[str, Any]:
    """The server configuration of a machine that follows the commit. It allows what the manifest asks of it: a check
    of the operator's passes, and no address of a health check is asked in a plan."""
    manifest = commit.manifest
    directories = {target.directory for target in manifest.targets if target.stack}
    directories |= {posixpath.dirname(target.path) for target in manifest.targets}
    addresses = [urlsplit(check.url).hostname for stack in manifest.stacks.values() for check in stack.health.http]
    return {
        "environment": commit.environment,
        "host": host,
        "repository": {"url": commit.top, "branch": commit.branch, "path": commit.directory},
        "allowed_paths": sorted(directories - {"/"}) or ["/nonexistent"],
        "state_dir": state_dir,
        "swarm_manager": True,
        "rollback": {"git": "off"},
        "checks": {name: ["true", "{file}"] for name in manifest.checks},
        "health_hosts": sorted({host for host in addresses if host} - _LOOPBACK),
    }


# --- file by file ---


async def _files(commit: Committed, draft: Draft, host: str, machine: Machine) -> Verification:
    file = f"{commit.environment}/environment.yaml"
    config = ServerConfig.model_validate(server_settings(commit, host, "/nonexistent"))
    manifest = read_manifest(commit.tree.files[file], environment=commit.environment, file=file, server=config)
    drafted = {file.file.path: file for file in draft.files if host in file.hosts}
    targets = [target for target in manifest.targets if target.path in drafted or not draft.update]
    stacks = {target.stack for target in targets}
    directories = [stack.directory for stack in manifest.stacks if stack.name in stacks]
    real = await real_paths(machine, [*directories, *(target.path for target in targets)])

    async def check(target: Target) -> str:
        if problem := _link_problem(target.path, real):
            return f"{target.id}: {problem}"
        data = commit.tree.files[f"{commit.environment}/{target.source}"]
        desired = await commit.key.decrypt(target.id, data, target.parser) if target.encrypted else Secret(data)
        try:
            live = await machine.read(target.path)
        except LiveFileError as error:
            return f"{target.id}: {error}"
        return _difference(target, desired, live, drafted.get(target.path))

    problems = await asyncio.gather(*map(check, targets))
    missing = sorted(drafted.keys() - {target.path for target in targets})
    return Verification(
        compared=len(targets),
        rewritten=sum(map(_lines_rewritten, drafted.values())),
        problems=(
            *(f"{host}: {problem}" for path in directories if (problem := _link_problem(path, real))),
            *(problem for problem in problems if problem),
            *(f"{path} on {host}: the manifest has no target for it" for path in missing),
        ),
    )


def _lines_rewritten(file: DraftFile) -> int:
    """How many lines of a live file git writes otherwise."""
    if file.change is None or file.parser is Parser.OPAQUE:
        return len(file.rewritings)
    live, git = (data.reveal().split(b"\n") for data in (file.file.data, file.content))
    changes = SequenceMatcher(None, live, git, autojunk=False).get_opcodes()
    return sum(max(end - start, to - since) for tag, start, end, since, to in changes if tag != "equal")


def _link_problem(path: str, real: Mapping[str, str]) -> str:
    """Why reconciler would not write to a path, since it follows no links; "" if it would."""
    if path not in real:
        return f"{path} {UNRESOLVED}"
    return "" if real[path] == path else f"{path} leads to {real[path]}, but reconciler follows no links"


def _difference(target: Target, desired: Secret, live: FoundFile | None, drafted: DraftFile | None) -> str:
    """How a live file differs from the commit, "" if it does not, or only in the lines that the draft rewrites."""
    if live is None:
        return f"{target.id}: {target.path} is gone"
    rewritten = drafted is not None and drafted.normal == desired and drafted.file.data == live.data
    if live.data != desired and not rewritten:
        return f"{target.id}: {target.path} has changed since it was read"
    pending = drafted.change.pending if drafted is not None and drafted.change is not None else ()
    if rewritten and not _means_the_same(target, desired, live.data, pending):
        return f"{target.id}: {target.path} has other variables than the commit"
    if drafted is not None and drafted.change is not None:
        return ""  # of mode and owner, the manifest was right before
    if live.mode != target.mode:
        return f"{target.id}: {target.path} has mode {live.mode:04o}, but {target.mode:04o} in the commit"
    for attribute, committed, name, number in (
        ("owner", target.owner, live.owner, live.uid),
        ("group", target.group, live.group, live.gid),
    ):
        if committed not in (None, name, str(number)):
            return f"{target.id}: {target.path} has {attribute} {name or number}, but {committed} in the commit"
    return ""


def _means_the_same(target: Target, desired: Secret, live: Secret, pending: Sequence[str]) -> bool:
    """Whether a container gets the same variables but for those that wait for a server to get them."""
    if target.parser is Parser.OPAQUE:
        return desired == live or bool(pending)
    return variables_changed(live.reveal(), desired.reveal(), target.parser, (*target.ignore_keys, *pending)).empty


# --- the plan ---


async def _plan(commit: Committed, draft: Draft, host: str) -> Verification:
    """Run `reconciler plan` on this machine, with a temporary state directory."""
    from reconciler.app.daemon.answers import serialize
    from reconciler.app.wiring.server import runtime

    directory = await asyncio.to_thread(tempfile.mkdtemp, prefix="reconciler-import-")
    try:
        settings = server_settings(commit, host, os.path.join(directory, "state"))
        async with runtime(ServerConfig.model_validate(settings), commit.keys) as built:
            outcome = await built.reconcilers[commit.environment].reconcile(ReconcileRequest("plan", dry_run=True))
        drafted = {file.file.path: file for file in draft.files if host in file.hosts}
        return _judged(serialize.serialize_outcome(outcome), host, drafted, draft.update)
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _judged(outcome: dict[str, Any], host: str, drafted: Mapping[str, DraftFile], update: bool) -> Verification:
    """Files must be in sync, or differ only in how they are written; services that still run older values are only
    noted. An ``update`` answers for the ``drafted`` files only, and not for a mode or owner that git had before."""
    plan = outcome["plan"]
    if plan is None:
        return Verification(problems=(f"{host}: no plan could be made: {outcome['reason']}",))
    changes = [change for change in plan["changes"] if change["kind"] != "in_sync" and not _cosmetic(change)]
    ours = [change for change in changes if not (update and _not_ours(change, drafted.get(change["path"])))]
    unseen = [change for change in changes if change["path"] not in drafted]
    notes = [f"{change['target']}, outside of this import: {change['reason']}" for change in unseen]
    waiting = [change for change in plan["changes"] if _cosmetic(change) and change["effect"] != Effect.WRITE]
    if waiting:  # for the engine
        notes.append(f"{host}: the plan knows nothing of services: {waiting[0]['reason'].rpartition('; ')[2]}")
    notes += [
        f"{action['service']} of {action['stack']} would be touched by the first reconciliation ({action['action']}): "
        f"{action['reason']}"
        for action in plan["actions"]
    ]
    problems = [f"{change['target']}: {change['kind']}: {change['reason']}" for change in ours]
    if problems:
        return Verification(problems=tuple(problems), notes=tuple(notes))
    return Verification(planned=(host,), empty=() if notes or changes else (host,), notes=tuple(notes))


def _cosmetic(change: Mapping[str, Any]) -> bool:
    """Whether no container can tell the difference."""
    return bool(change["aspects"] == [Aspect.COSMETIC])


def _not_ours(change: Mapping[str, Any], drafted: DraftFile | None) -> bool:
    """Whether an update has left the difference as it was."""
    if drafted is None:
        return True
    if drafted.change is None:
        return False
    return bool(drafted.change.pending) or set(change["aspects"]) <= {Aspect.MODE, Aspect.OWNER, Aspect.COSMETIC}

"""That an import changes nothing: what a server which follows the commit would find, and what it would do."""

from __future__ import annotations

import asyncio
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.app.config.manifest import read_manifest
from reconciler.app.config.server import ServerConfig
from reconciler.app.onboarding.real_paths import UNRESOLVED, real_paths
from reconciler.app.onboarding.render import Committed
from reconciler.app.wiring import clone as local_wiring
from reconciler.core.errors import LiveFileError
from reconciler.core.inventory import FoundFile
from reconciler.core.model.requests import ReconcileRequest
from reconciler.core.model.targets import Target
from reconciler.core.onboarding.draft import Draft
from reconciler.core.ports.host import Machine
from reconciler.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Proof:
    """``problems`` are sentences with the target and the reason, none where it holds. ``compared`` counts the live
    files that were read again, ``planned`` tells on which machine a plan was made that finds every file in sync, and
    ``empty`` on which it leaves the services alone, too; ``notes`` are what a pass would do to services elsewhere."""

    compared: int = 0
    planned: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


async def prove(
    commit: Committed,
    found: Draft,
    machines: Mapping[str, Machine],
    progress: Callable[[str, int, int], None],
) -> Proof:
    """Hold the commit against every machine: each file byte for byte with its mode and owner, and on this machine
    with the plan that `reconciler plan` makes. ``machines`` by what the manifest calls them."""
    proofs = []
    for number, (host, machine) in enumerate(machines.items()):
        progress("proving", number, len(machines))
        proofs.append(await _files(commit, found, host, machine))
        if local_wiring.is_here(machine) and not proofs[-1].problems:
            proofs.append(await _plan(commit, found, host))
    progress("proving", len(machines), len(machines))
    return Proof(
        compared=sum(one.compared for one in proofs),
        planned=tuple(name for one in proofs for name in one.planned),
        empty=tuple(name for one in proofs for name in one.empty),
        problems=tuple(problem for one in proofs for problem in one.problems),
        notes=tuple(note for one in proofs for note in one.notes),
    )


def server_settings(commit: Committed, found: Draft, host: str, state_dir: str) -> dict[str, Any]:
    """The server's file of a machine that follows the commit."""
    directories = {stack.directory for stack in found.stacks} | {
        posixpath.dirname(one.file.path) for one in found.files
    }
    return {
        "environment": commit.environment,
        "host": host,
        "repository": {"url": commit.top, "branch": commit.branch, "path": commit.directory},
        "decryption": {"age_key_file": commit.key_file},
        "allowed_paths": sorted(directories - {"/"}) or ["/nonexistent"],
        "state_dir": state_dir,
        "rollback": {"git": "off"},
    }


# --- byte for byte ---


async def _files(commit: Committed, found: Draft, host: str, machine: Machine) -> Proof:
    clone = local_wiring.clone(commit.top)
    (tree,) = await clone.trees([commit.commit], commit.directory)
    file = f"{commit.environment}/environment.yaml"
    config = ServerConfig.model_validate(server_settings(commit, found, host, "/nonexistent"))
    manifest = read_manifest(tree.files[file], environment=commit.environment, file=file, server=config)
    keys = local_wiring.keys(commit.key_file)
    directories = [stack.directory for stack in manifest.stacks]
    real = await real_paths(machine, [*directories, *(target.path for target in manifest.targets)])

    async def problem(target: Target) -> str:
        if led := _elsewhere(target.path, real):
            return f"{target.id}: {led}"
        data = tree.files[f"{commit.environment}/{target.source}"]
        wanted = await keys.decrypt(target.id, data) if target.encrypted else Secret(data)
        try:
            live = await machine.read(target.path)
        except LiveFileError as error:
            return f"{target.id}: {error}"
        return _difference(target, wanted, live)

    problems = await asyncio.gather(*map(problem, manifest.targets))
    expected = {one.file.path for one in found.files if host in one.hosts}
    missing = sorted(expected - {target.path for target in manifest.targets})
    return Proof(
        compared=len(manifest.targets),
        problems=(
            *(f"{host}: {led}" for path in directories if (led := _elsewhere(path, real))),
            *(one for one in problems if one),
            *(f"{path} on {host}: no target of the manifest is for it" for path in missing),
        ),
    )


def _elsewhere(path: str, real: Mapping[str, str]) -> str:
    """Why reconciler would not write at a path, since it follows no link; "" where it would."""
    if path not in real:
        return f"{path} {UNRESOLVED}"
    return "" if real[path] == path else f"{path} leads to {real[path]}, and reconciler follows no link"


def _difference(target: Target, wanted: Secret, live: FoundFile | None) -> str:
    """What of a live file is not as the commit has it, "" for nothing."""
    if live is None:
        return f"{target.id}: {target.path} is gone"
    if live.data != wanted:
        return f"{target.id}: {target.path} has other bytes now; it was changed meanwhile"
    if live.mode != target.mode:
        return f"{target.id}: {target.path} has the mode {live.mode:04o}, and the commit says {target.mode:04o}"
    for what, said, name, number in (
        ("owner", target.owner, live.owner, live.uid),
        ("group", target.group, live.group, live.gid),
    ):
        if said not in (None, name, str(number)):
            return f"{target.id}: {target.path} has the {what} {name or number}, and the commit says {said}"
    return ""


# --- the plan ---


async def _plan(commit: Committed, found: Draft, host: str) -> Proof:
    """What `reconciler plan` says on this machine, with a state directory of its own that is removed again."""
    from reconciler.app.daemon import serialize
    from reconciler.app.wiring.server import runtime

    directory = await asyncio.to_thread(tempfile.mkdtemp, prefix="reconciler-import-")
    try:
        settings = server_settings(commit, found, host, os.path.join(directory, "state"))
        async with runtime(ServerConfig.model_validate(settings)) as built:
            outcome = await built.reconcilers[commit.environment].reconcile(ReconcileRequest("plan", dry_run=True))
        return _judged(serialize.serialize_outcome(outcome), host)
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _judged(outcome: dict[str, Any], host: str) -> Proof:
    """Files must be in sync. Services that run older values than their files have, for themselves."""
    plan = outcome["plan"]
    if plan is None:
        return Proof(problems=(f"{host}: no plan could be made: {outcome['reason']}",))
    changed = [change for change in plan["changes"] if change["kind"] != "in_sync"]
    notes = [
        f"{action['service']} of {action['stack']} would be touched by the first pass ({action['action']}): "
        f"{action['reason']}"
        for action in plan["actions"]
    ]
    problems = [f"{change['target']}: {change['kind']}: {change['reason']}" for change in changed]
    if problems:
        return Proof(problems=tuple(problems), notes=tuple(notes))
    return Proof(planned=(host,), empty=() if notes else (host,), notes=tuple(notes))

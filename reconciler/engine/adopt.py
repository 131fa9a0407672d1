"""Adopts a hand edit: commits the live file, or some of its keys, encrypted, to a branch for review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.decide import guards
from reconciler.core.errors import (
    GitUnreachableError,
    GuardError,
    HistoryRewrittenError,
    RefusedError,
    SourceError,
    all_of,
)
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.requests import Adopted, GitAnswer
from reconciler.core.model.revisions import Blob, Revision
from reconciler.core.model.runs import RunChange, RunOrigin
from reconciler.core.model.targets import Format, Target, environment_of
from reconciler.core.ports import Ports
from reconciler.core.sops import adoption
from reconciler.core.sops.adoption import Proposal
from reconciler.core.sops.file_format import formats
from reconciler.engine.history import decision
from reconciler.engine.observe import Plaintexts, path_in_git, read_manifest, read_source
from reconciler.engine.target_revision import accepted_head


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be pushed: ``files`` (path in git → content) on top of ``base``."""

    target: Target
    branch: str
    base: Revision
    files: Mapping[str, bytes] = field(repr=False)
    message: str
    keys: KeyChange
    whole: bool


async def prepare_adoption(
    ports: Ports, environment: str, target_id: str, keys: Sequence[str], answer: GitAnswer
) -> Adoption:
    """Encrypt the live file of the target, or only these ``keys`` of it, for a commit on top of the accepted head.

    Needs no secret but the server's own key: the source names its recipients. The result decrypts to exactly the
    adopted content. Nothing changes on this server. ``answer`` is git's. Raises RefusedError if it cannot or should not
    be adopted, and as the ports do.
    """
    head = await _head(ports, environment, answer)
    target = await _target(ports, environment, head, target_id)
    live = await ports.host.read(target.path)
    if live is None:
        raise RefusedError("there is no live file", where=target.path, hint="Remove the target in environment.yaml")
    plaintexts, blob = Plaintexts(ports), await read_source(ports, head, target)
    file_format = _format(ports, target, blob)
    git = (await plaintexts.of(target, blob)).reveal()
    last = await _last_applied(ports, target, git, plaintexts)
    by_line = file_format is Format.DOTENV
    if by_line:
        proposal = adoption.lines_of(target, git, live.data.reveal(), last, keys)
    else:
        _refuse_keys(target, keys)
        proposal = adoption.whole(target, git, live.data.reveal(), last)
    _ask_guards(target, git, proposal)
    ports.progress("encrypting what differs")
    written = await _written(ports, target, file_format, blob, git, proposal)
    await _require_round_trip(ports, target, blob, written, proposal)
    branch = adoption.branch(environment_of(environment), ports.clock.now())
    message = adoption.adoption_message(target, proposal.keys, ports.settings.host)
    files = {path_in_git(ports, environment, target.source): written}
    return Adoption(target, branch, head, files, message, proposal.keys, whole=not by_line)


async def push_adoption(ports: Ports, adoption: Adoption, origin: RunOrigin | None = None) -> Adopted:
    """Push it as a branch; the history says whose request that was (``origin``). Raises RefusedError if the remote
    rejects it, GitUnreachableError."""
    ports.progress(f"pushing {adoption.branch}")
    commit = await ports.git_writer.propose(adoption.branch, adoption.base.commit, adoption.files, adoption.message)
    sentence = f"proposed {adoption.target.id} for git, as {commit[:12]} on {adoption.branch}"
    keys = adoption.keys
    change = RunChange(adoption.target.source, "adopted", keys.added, keys.removed, keys.changed)
    record, origin = ports.store.environment(adoption.target.environment), origin or RunOrigin("adopt")
    ports.store.decide(decision(ports, record, origin, sentence, revision=adoption.base, changes=(change,)))
    return Adopted(adoption.target, adoption.branch, commit, adoption.base, adoption.keys, adoption.whole)


async def _head(ports: Ports, environment: str, answer: GitAnswer) -> Revision:
    """The accepted head, given git's answer.

    If a newer one is not accepted because of its signature, the commit goes on top of the one before. But on top of a
    rewritten history it would bring that history back.
    """
    head, warning = await accepted_head(ports, environment, poll=True, answer=answer)
    if isinstance(warning, GitUnreachableError | HistoryRewrittenError):
        raise warning
    return head


async def _target(ports: Ports, environment: str, head: Revision, target_id: str) -> Target:
    manifest = await read_manifest(ports, environment, head)
    for target in manifest.targets:
        if target.id == target_id:
            return target
    hint = f"The targets are: {', '.join(sorted(target.id for target in manifest.targets))}"
    raise RefusedError(f"there is no target {target_id}", where=f"environment {environment}", hint=hint)


def _format(ports: Ports, target: Target, blob: Blob) -> Format:
    """The source's format. Raises RefusedError for one that sops rewrites as a whole, in a form of its own."""
    if not target.encrypted:
        return Format.PLAIN
    file_format, output = formats(target.source, blob.data, target.parser)
    if file_format not in (Format.DOTENV, Format.BINARY):
        path = path_in_git(ports, target.environment, target.source)
        hint = f"Make the change with `reconciler edit {path}`"
        if output is not file_format:
            hint = f"Convert it to {output} first: `reconciler check` shows the command"
        raise RefusedError(f"a {file_format} source cannot be adopted byte for byte", where=target.id, hint=hint)
    return file_format


async def _last_applied(ports: Ports, target: Target, git: bytes, plaintexts: Plaintexts) -> bytes | None:
    """The content last applied here, to tell a hand edit from a pending change in git; None if not known."""
    applied = ports.store.applied(target.environment).get(target.path)
    if applied is None or applied.digest == ports.digest(git):
        return None
    try:
        revision = Revision(applied.commit, "")
        last = (await plaintexts.of(target, await read_source(ports, revision, target))).reveal()
    except SourceError:  # its source had another name then, or was broken
        return None
    return last if ports.digest(last) == applied.digest else None


def _refuse_keys(target: Target, keys: Sequence[str]) -> None:
    if keys:
        raise RefusedError("only a SOPS dotenv source has keys to adopt", where=target.id, hint="Leave --key out")


def _ask_guards(target: Target, git: bytes, proposal: Proposal) -> None:
    """Refuse content that every server would refuse to apply."""
    content = proposal.content.reveal()
    problems = guards.content(target, content, None)
    if git.strip() and not content.strip():
        problems.append(GuardError("nothing would be left of the source"))
    if problems:
        text, id = all_of(problems, "Fix the live file first")
        raise RefusedError(text, where=target.path, id=id)


async def _written(
    ports: Ports, target: Target, file_format: Format, blob: Blob, git: bytes, proposal: Proposal
) -> bytes:
    name = path_in_git(ports, target.environment, target.source)
    if file_format is Format.DOTENV:
        return await ports.encryptor.amend(name, blob.data, adoption.edits(target, git, proposal))
    if file_format is Format.BINARY:
        return await ports.encryptor.reencrypt(name, blob.data, proposal.content)
    return proposal.content.reveal()


async def _require_round_trip(ports: Ports, target: Target, blob: Blob, written: bytes, proposal: Proposal) -> None:
    """Raises RefusedError unless the new source decrypts, with this server's key, to exactly the adopted content."""
    decrypted = await Plaintexts(ports).of(target, Blob(f"{blob.id} amended", written))
    if decrypted != proposal.content:
        hint = "Make the change with `reconciler edit`, on the source"
        raise RefusedError("what sops wrote does not decrypt to the live file's bytes", where=target.id, hint=hint)

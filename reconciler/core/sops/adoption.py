"""The decisions of `reconciler adopt`: what of a live file goes into git, and with which edits of sops. Pure.

A SOPS dotenv file is a list of lines, and sops changes one value at a time: it can set a value in place, remove it, and
append one. So a live file is adopted in its normal form, with git's blank lines; sops cannot edit comments or the
order. A live file that differs there, or has no normal form, is refused with its line; never with a value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from reconciler.core.dotenv.grammar import EnvFileError, read_entries
from reconciler.core.dotenv.readings import key_diff
from reconciler.core.errors import RefusedError
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import ChangeMode, Parser, Target
from reconciler.core.secret import Secret
from reconciler.core.sops.ciphertext import is_certainly_a_name
from reconciler.core.sops.dotenv_lines import Line, UnfitError, read_line, read_lines
from reconciler.core.sops.normal_form import NormalForm, normal_form
from reconciler.core.sops.patterns import first_names

_IN_A_SUBJECT = 3  # names
AS_BINARY = "encrypt the source as binary (`sops encrypt --input-type binary --output-type binary`)"


@dataclass(frozen=True, slots=True)
class Proposal:
    """The content for the source, and the names of the keys that differ from git's content."""

    content: Secret
    keys: KeyChange


# --- proposals ---


def whole(target: Target, git: bytes, live: bytes, last: bytes | None) -> Proposal:
    """Given git's content, the live one and the last applied one (None: unknown), propose the whole live file, for a
    source without keys.

    Raises RefusedError where nothing was edited here, or git has changed as well.
    """
    if live == git:
        raise _nothing(target)
    if last is not None and last != git:
        raise _both_moved(target) if live != last else _only_git_moved(target, ())
    return Proposal(Secret(live), KeyChange())


def lines_of(target: Target, git: bytes, live: bytes, last: bytes | None, keys: Collection[str]) -> Proposal:
    """The same for a dotenv source: the whole live file, or git's content with only these ``keys`` taken from it.

    A new key is appended, one that was removed here is removed. Raises RefusedError also for a live file that Docker
    or sops would refuse, and for keys that do not exist or do not differ.
    """
    if live == git:
        raise _nothing(target)
    reader = _reader(target)
    ours = {line.name: line for line in _lines_in_git(target, git, reader) if line.name}
    form = _form_or_none(target, live)
    edited = live if form is None else _as_in(target, form, [git, last])
    theirs = _live_lines(target, edited, reader)
    differing = [name for name in _in_order(ours, theirs) if _text(ours, name) != _text(theirs, name)]
    nameable = [name for name in differing if name in ours or _is_certain(theirs[name])]
    chosen = _named(target, keys, {*ours, *theirs}, differing, nameable) if keys else differing
    if last is not None and last != git:
        before = _lines_by_name(last, reader)
        if waiting := [name for name in chosen if _text(before, name) == _text(theirs, name)]:
            raise _only_git_moved(target, waiting, [name for name in chosen if name not in waiting])
    if keys:
        content = _merged(target, git, reader, theirs, chosen)
    else:
        _require_fit(target, live, [name for name in nameable if name not in theirs or theirs[name]])
        _require_certain(target, theirs, chosen, nameable)
        content = edited
        if form is not None and form.rewritings and form.comments == _comments(target, git):
            laid_out = _merged(target, git, reader, theirs, chosen)
            content = laid_out if key_diff(live, laid_out, parser=reader).empty else edited
        if content == git:
            raise _nothing(target)
    return Proposal(Secret(content), _key_change(ours, theirs, chosen))


def edits(target: Target, git: bytes, proposal: Proposal) -> dict[str, Secret | None]:
    """Given git's content, return the edits of sops that lead to the proposal: label → value, None to remove it.

    Raises RefusedError where sops cannot do it: other comments, another order, a new key that is not at the end.
    """
    reader, content = _reader(target), proposal.content.reveal()
    old, new = _lines_in_git(target, git, reader), read_lines(content, reader)
    before = {line.label: line for line in old if line.name}
    after = {line.label: line for line in new if line.name}
    made = [after.get(line.label, line) if line.name else line for line in old if not line.name or line.label in after]
    made += [line for line in new if line.name and line.label not in before]
    _require_same(target, made, new, proposal.keys)
    changed: dict[str, Secret | None] = {
        label: line.value for label, line in after.items() if _text(before, label) != line.text
    }
    return changed | {label: None for label in before if label not in after}


# --- the lines of a file ---


def _form(target: Target, data: bytes) -> NormalForm:
    """The normal form; of a file that a container reads with a parser of its own, one with other comments only."""
    mounted = target.parser is Parser.OPAQUE or target.on_change.mode is not ChangeMode.RECREATE
    return normal_form(data, _reader(target), mounted=mounted)


def _form_or_none(target: Target, data: bytes) -> NormalForm | None:
    try:
        return _form(target, data)
    except (UnfitError, EnvFileError):
        return None


def _as_in(target: Target, form: NormalForm, versions: Iterable[bytes | None]) -> bytes:
    """A normal form, with each line written as in one of git's versions that has the same."""
    written: dict[str, str] = {}
    for data in versions:
        if data is not None and (theirs := _form_or_none(target, data)) is not None:
            originals, normals = (text.decode().split("\n") for text in (data, theirs.data))
            if len(originals) == len(normals):
                written = dict(zip(normals, originals, strict=True)) | written
    return "\n".join(written.get(line, line) for line in form.data.decode().split("\n")).encode()


def _comments(target: Target, data: bytes) -> tuple[str, ...] | None:
    form = _form_or_none(target, data)
    return None if form is None else form.comments


def _live_lines(target: Target, live: bytes, reader: Parser) -> dict[str, Line | None]:
    """The live file's assignments by name; None for one that sops could not hold.

    Only an assignment in the parsed whole file counts: in a value of several lines, a line may look like one, and what
    looks like a name would be a piece of a secret.
    """
    try:
        entries = read_entries(live, reader)
    except EnvFileError as error:
        raise RefusedError(f"the live file cannot be read: {error}", where=target.path, hint="Fix it first") from None
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen:
            where = f"{target.path}, line {entry.line}"
            raise RefusedError("an earlier line sets the same variable", where=where, hint="Remove one of them")
        seen.add(entry.key)
    texts = live.split(b"\n")
    lines: dict[str, Line | None] = {}
    for entry in entries:
        line = None
        with contextlib.suppress(UnfitError, UnicodeDecodeError):
            line = read_line(entry.line, texts[entry.line - 1].decode(), reader)
        lines[entry.key] = line if line and line.name == entry.key else None
    lines.pop("", None)  # a bare KEY at the end of the file
    return lines


def _lines_in_git(target: Target, git: bytes, reader: Parser) -> tuple[Line, ...]:
    try:
        return read_lines(git, reader)
    except UnfitError as unfit:
        hint = "Correct the source with `reconciler edit` first"
        raise RefusedError(f"git's content cannot be edited: {unfit}", where=target.id, hint=hint) from None


def _lines_by_name(data: bytes, reader: Parser) -> dict[str, Line]:
    try:
        return {line.name: line for line in read_lines(data, reader) if line.name}
    except UnfitError:  # git had it in another form then
        return {}


def _text(lines: Mapping[str, Line | None], name: str) -> str | None:
    """The line of that name; "" for one that sops could not hold, None for none."""
    line = lines.get(name)
    return line.text if line else ("" if name in lines else None)


def _in_order(ours: Collection[str], theirs: Collection[str]) -> list[str]:
    return [*ours, *(name for name in theirs if name not in ours)]


def _reader(target: Target) -> Parser:
    """The parser for the lines of a target; an opaque one is still dotenv to sops."""
    return Parser.COMPOSE if target.parser is Parser.OPAQUE else target.parser


# --- choosing ---


def _named(
    target: Target, keys: Collection[str], known: Collection[str], differing: Sequence[str], nameable: Sequence[str]
) -> list[str]:
    """The keys that the operator names. Raises RefusedError for one that does not exist, or does not differ.

    Of those that differ, messages may show ``nameable``.
    """
    hint = f"What differs: {first_names(nameable) or 'no key, only comments, order or blank lines'}"
    if unknown := sorted(set(keys) - set(known)):
        raise RefusedError(f"neither git nor the live file has {first_names(unknown)}", where=target.id, hint=hint)
    if same := sorted(set(keys) - set(differing)):
        raise RefusedError(f"{first_names(same)} is the same in git", where=target.id, hint=hint)
    return [name for name in differing if name in keys]


def _merged(
    target: Target, git: bytes, reader: Parser, theirs: Mapping[str, Line | None], chosen: Sequence[str]
) -> bytes:
    """Git's content with the chosen keys as in the live file; a label that git does not have is appended."""
    unfit = [name for name in chosen if name in theirs and theirs[name] is None]
    if unfit:
        problem = f"sops' dotenv cannot hold the live {first_names(unfit)} (a value of several lines? a bare KEY?)"
        raise RefusedError(problem, where=target.path, hint=f"Write it in one KEY=value line, or {AS_BINARY}")
    old = _lines_in_git(target, git, reader)
    labels = {line.label for line in old}
    new = [line for name in chosen if (line := theirs.get(name))]
    in_place = {line.label: line for line in new if line.label in labels}
    kept = [in_place.get(line.label) if line.name in chosen else line for line in old]
    texts = [line.text for line in (*kept, *(line for line in new if line.label not in labels)) if line]
    return "".join(f"{text}\n" for text in texts).encode()


def _require_fit(target: Target, live: bytes, differing: Sequence[str]) -> None:
    """Raises RefusedError for a live file that sops' dotenv can hold in no form."""
    try:
        _form(target, live)
    except UnfitError as unfit:
        where, reason = f"{target.path}, line {unfit.line}", unfit.reason
    else:
        return
    problem = f"sops' dotenv cannot hold the live file: {reason}"
    raise RefusedError(
        problem, where=where, hint=f"{_by_key(differing)}Or fix the line, or {AS_BINARY}", id="not-adoptable"
    )


def _is_certain(line: Line | None) -> bool:
    """Whether the text before the ``=`` is certainly a name: a line of a pasted key may look like one."""
    return line is not None and is_certainly_a_name(line.name, line.text[len(line.label) + 1 :])


def _require_certain(
    target: Target, theirs: Mapping[str, Line | None], chosen: Sequence[str], nameable: Sequence[str]
) -> None:
    """Names stay readable in git. Raises RefusedError for a new one that might be a piece of a value."""
    for name in chosen:
        line = theirs.get(name)
        if line is not None and name not in nameable:
            problem = "the text before the = may be a piece of a value (mixed case, or nothing follows)"
            hint = "If it is a name, adopt it by name: --key NAME"
            raise RefusedError(problem, where=f"{target.path}, line {line.number}", hint=hint)


def _require_same(target: Target, made: Sequence[Line], new: Sequence[Line], keys: KeyChange) -> None:
    for number in range(max(len(made), len(new))):
        got, expected = (lines[number] if number < len(lines) else None for lines in (made, new))
        if got and expected and got.text == expected.text:
            continue
        comment = any(line is not None and not line.name for line in (got, expected))
        reason = (
            "a comment differs from git's" if comment else "the keys are in another order, or a new one is not last"
        )
        problem = f"sops can only set values in place and append new ones: {reason}"
        hint = f"{_by_key(keys.names)}Change comments and order in the source with `reconciler edit`"
        raise RefusedError(problem, where=f"{target.path}, line {number + 1}", hint=hint)


def _by_key(names: Sequence[str]) -> str:
    """How to adopt only the keys."""
    if not names:
        return ""
    options = " ".join(f"--key {name}" for name in names[:10])
    return f"Adopt the keys alone ({options}{' …' if names[10:] else ''}). "


def _key_change(ours: Mapping[str, Line | None], theirs: Mapping[str, Line | None], chosen: Sequence[str]) -> KeyChange:
    return KeyChange(
        added=tuple(sorted(name for name in chosen if name not in ours)),
        removed=tuple(sorted(name for name in chosen if name not in theirs)),
        changed=tuple(sorted(name for name in chosen if name in ours and name in theirs)),
    )


def _nothing(target: Target) -> RefusedError:
    hint = "An edit that was undone lies in a backup: `reconciler backups`"
    return RefusedError("the live file says what git has: there is nothing to adopt", where=target.id, hint=hint)


def _both_moved(target: Target) -> RefusedError:
    problem = "the file was changed in git since it was last applied here, and by somebody here too"
    hint = "Merge them manually: adopting would undo the change in git"
    return RefusedError(problem, where=target.id, hint=hint, id="changed-in-git-too")


def _only_git_moved(target: Target, names: Sequence[str], edited: Sequence[str] = ()) -> RefusedError:
    changed = f"{first_names(names)}: only git has changed it" if names else "only git has changed the file"
    problem = f"{changed} since it was last applied here; adopting would undo that"
    hint = _by_key(edited) or "`reconciler sync` applies what git has"
    return RefusedError(problem, where=target.id, hint=hint, id="changed-in-git-too")


# --- the commit ---


def branch(environment: str, at: float) -> str:
    """The branch for a proposal; ``at`` in epoch seconds. Two within a second get different branches."""
    moment = datetime.fromtimestamp(at, UTC)
    return f"reconciler/adopt-{environment}-{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"


def adoption_message(target: Target, keys: KeyChange, host: str) -> str:
    """The commit message: names, never values."""
    host = " ".join(host.split())
    names = keys.names
    more = f" and {len(names) - _IN_A_SUBJECT} more" if names[_IN_A_SUBJECT:] else ""
    subject = f"Adopt {', '.join(names[:_IN_A_SUBJECT])}{more} of {target.id}" if names else f"Adopt {target.id}"
    groups = (("Changed", keys.changed), ("Added", keys.added), ("Removed", keys.removed))
    body = "".join(f"{heading}: {', '.join(group)}\n" for heading, group in groups if group) or "The file as a whole.\n"
    return (
        f"{subject} from {host}\n\nEdited manually on the server, now proposed for git.\n\n{body}\n"
        f"Reconciler-Adopt-Target: {target.id}\nReconciler-Adopt-Host: {host}\n"
    )

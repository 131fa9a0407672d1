"""Brings the variables of a live env file into its source in git, and leaves the rest of the source alone. Pure.

git keeps its order, its comments and how it writes a value that did not change. A new key comes with the comment above
it, and stays behind the key that it follows on the server.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.dotenv.ignored_keys import is_left_to_server, without_keys
from reconciler.core.dotenv.readings import key_diff
from reconciler.core.model.plans import KeyChange
from reconciler.core.model.targets import Parser
from reconciler.core.secret import Secret
from reconciler.core.sops.dotenv_lines import Line, UnfitError, read_lines

_BLANK = "#"
_DISABLED = re.compile(r"#+[ \t]*(?:export[ \t]+)?([\w.\-]+)[ \t]*=")


@dataclass(frozen=True, slots=True)
class MergedSource:
    """The ``content`` for git and the keys that change. ``edits`` are those of sops (label → value, None to remove it);
    None where they cannot make the content, because a line moves or a comment is new. ``comments`` counts the live
    comments that git does not get."""

    content: Secret
    keys: KeyChange = field(default_factory=KeyChange)
    edits: Mapping[str, Secret | None] | None = field(default_factory=dict)
    comments: int = 0


def variables_changed(git: bytes, live: bytes, parser: Parser, ignore_keys: Collection[str] = ()) -> KeyChange:
    """The keys by which ``live`` differs from ``git`` for a container, without those that are left to the server.

    Raises EnvFileError if either is refused.
    """
    ours, theirs = (without_keys(data, parser, ignore_keys) for data in (git, live))
    return key_diff(ours, theirs, parser=parser)


def pending_keys(
    git: bytes, live: bytes, base: bytes, parser: Parser, ignore_keys: Collection[str] = ()
) -> tuple[str, ...]:
    """The keys that only git has changed since ``base``, which both had: the server does not have the change yet.

    Raises EnvFileError if one of them is refused.
    """
    differing = variables_changed(git, live, parser, ignore_keys)
    edited = variables_changed(base, live, parser, ignore_keys)
    return tuple(name for name in differing.names if name not in edited.names)


def merge_source(git: bytes, live: bytes, parser: Parser, ignore_keys: Collection[str] = ()) -> MergedSource:
    """Given git's content and the live file in its normal form, return the content for git.

    Raises UnfitError if ``live`` is not in normal form, EnvFileError if Docker would refuse either.
    """
    if git == live:
        return MergedSource(Secret(git))
    difference = variables_changed(git, live, parser, ignore_keys)
    theirs = read_lines(live, parser)
    try:
        ours = read_lines(git, parser)
    except UnfitError:  # written by hand: the live form is better
        return MergedSource(Secret(live), difference, None)
    by_name = {line.name: line for line in theirs if line.name}
    made = _in_place(ours, theirs, by_name, difference)
    made = _with_added(made, ours, theirs, difference.added)
    content = "".join(f"{line.text}\n" for line in made).encode()
    if not variables_changed(content, live, parser, ignore_keys).empty:  # a value refers to a line that moved
        kept = [line.text for line in ours if is_left_to_server(line.name, ignore_keys)]
        content = without_keys(live, parser, ignore_keys) + "".join(f"{text}\n" for text in kept).encode()
        made = list(read_lines(content, parser))
    before = {line.name: line.text for line in ours if line.name}
    keys = KeyChange.between(before, {line.name: line.text for line in made if line.name})
    comments = {line.text for line in made if not line.name}
    missed = [line for line in theirs if not line.name and line.text != _BLANK and line.text not in comments]
    return MergedSource(Secret(content), keys, _edits(ours, made), len(missed))


def _in_place(
    ours: Sequence[Line], theirs: Sequence[Line], by_name: Mapping[str, Line], difference: KeyChange
) -> list[Line]:
    """git's lines with changed values, and without the keys that are gone. A key that was commented out stays so."""
    disabled = {match[1]: line for line in theirs if not line.name and (match := _DISABLED.match(line.text))}
    known = {line.text for line in ours if not line.name}
    made = []
    for line in ours:
        if line.name in difference.changed:
            value = by_name[line.name].text.partition("=")[2]
            made.append(Line(line.number, line.name, line.label, f"{line.label}={value}"))
        elif line.name not in difference.removed:
            made.append(line)
        elif line.name in disabled and disabled[line.name].text not in known:
            made.append(disabled[line.name])
    return made


def _with_added(made: list[Line], ours: Sequence[Line], theirs: Sequence[Line], added: Collection[str]) -> list[Line]:
    """The lines with each new key, and the new comments right above it, behind the key that it follows."""
    known = {line.text for line in ours if not line.name} - {_BLANK}
    above: list[Line] = []
    before = ""
    for line in theirs:
        if not line.name:
            above = [] if line.text in known else [*above, line]
            continue
        if line.name in added:
            comments = above if any(comment.text != _BLANK for comment in above) else []
            position = next((number for number, old in enumerate(made, start=1) if before and old.name == before), None)
            position = (len(made) if before else 0) if position is None else position
            while comments and position < len(made) and comments[0].text == made[position].text == _BLANK:
                comments, position = comments[1:], position + 1
            made = [*made[:position], *comments, line, *made[position:]]
        if line.name in added or any(old.name == line.name for old in made):
            before = line.name
        above = []
    return made


def _edits(ours: Sequence[Line], made: Sequence[Line]) -> dict[str, Secret | None] | None:
    """What sops sets and removes; it can change a value where it is, remove it, and append a new one."""
    before = {line.label: line for line in ours if line.name}
    after = {line.label: line for line in made if line.name}
    reached = [after.get(line.label, line) for line in ours if not line.name or line.label in after]
    reached += [line for line in made if line.name and line.label not in before]
    if [line.text for line in reached] != [line.text for line in made]:
        return None
    changed: dict[str, Secret | None] = {
        label: line.value for label, line in after.items() if label not in before or before[label].text != line.text
    }
    return changed | {label: None for label in before if label not in after}
